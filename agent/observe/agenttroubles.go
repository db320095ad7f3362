package observe

import (
	"fmt"
	"strings"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/evidence"
)

// staleAnswer is when the last answer of IAM or of the store says
// nothing any more: nobody has asked since.
const staleAnswer = 15 * time.Minute

// sightOfParts finds the troubles of the agent's own parts that it was told of.
func (l *Lookout) sightOfParts() (all []Sighting) {
	add := func(name string, err error) {
		if err != nil {
			all = append(all, Sighting{Name: name, Err: err})
		}
	}
	boot, w := evidence.SinceBoot(), l.Watcher
	w.mu.Lock()
	for name, f := range w.faults {
		name, _, _ = strings.Cut(name, "/")
		if (name == TroubleIAM || name == TroubleStore) && boot-f.last > staleAnswer {
			continue
		}
		all = append(all, Sighting{Name: name, Age: boot - f.since, Dated: true, Err: f.err})
	}
	for instance, f := range w.lines {
		all = append(all, Sighting{Name: TroubleReports, Instance: instance, Age: boot - f.since, Dated: true, Err: f.err})
	}
	w.mu.Unlock()
	add(TroubleJournal, l.Writes.Hangs())
	if l.Jobs.Full() {
		add(TroubleQueue, fmt.Errorf("%d jobs wait", l.Queue))
	}
	if waiting, granted := l.Jobs.HoldTurns(); waiting > 0 {
		all = append(all, Sighting{
			Name: TroubleTurns, What: fmt.Sprint(granted), Err: fmt.Errorf("%d jobs wait for their turn to hold their instance, limits.held is %d", waiting, l.Held),
		})
	}
	if refused, err := l.Journal.Refused(); err == nil {
		for _, r := range refused {
			if r.Type != model.EventCompleted { // for a refused backup an instance is held
				all = append(all, Sighting{
					Name: TroubleEvents, Instance: r.Instance, Job: r.Job, What: r.ID, Age: max(0, time.Since(r.Since)), Dated: true,
					Err: fmt.Errorf("%s: %s", r.Type, r.Reason),
				})
			}
		}
	}
	if left, err := l.Jobs.Leftovers(); err == nil && len(left) > 0 {
		add(TroubleLeftover, fmt.Errorf("%d snapshots or replaced volumes can't be removed", len(left)))
	}
	return all
}
