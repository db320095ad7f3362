package observe

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/internal/evidence"
)

// Look tells how things stand: all that is in trouble, the most urgent
// first and of one kind the oldest, and the figures for the metrics. It
// reads memory and the journal, and waits for no volume, runtime or store.
func (l *Lookout) Look() ([]Sighting, metrics.Sight, error) {
	now := metrics.Sight{Jobs: map[string]metrics.Since{}, Troubles: map[string]metrics.Since{}}
	jobs, err := l.Journal.Active()
	if err != nil {
		return nil, now, err
	}
	all := slices.Concat(l.watched.now(), l.sightOfParts(), l.sightOfUnknown(), l.Parts())
	for _, j := range jobs {
		all = append(all, l.sightOfJob(j, &now)...)
	}
	l.seen.date(all)
	rank := map[string]int{}
	for i, k := range Troubles {
		rank[k.Name] = i
	}
	all = slices.DeleteFunc(all, func(s Sighting) bool {
		after := max(Troubles[rank[s.Name]].After, s.After)
		return !l.Hasty() && s.Age < after
	})
	slices.SortStableFunc(all, func(x, y Sighting) int {
		return cmp.Or(cmp.Compare(rank[x.Name], rank[y.Name]), cmp.Compare(y.Age, x.Age), cmp.Compare(x.Instance, y.Instance))
	})
	for _, s := range all {
		now.Troubles[s.Name] = now.Troubles[s.Name].Add(s.Age)
	}
	return all, now, nil
}

// sightOfJob finds the troubles of a job, and counts it.
func (l *Lookout) sightOfJob(j *model.Job, now *metrics.Sight) (all []Sighting) {
	add := func(name string, age time.Duration, err error) {
		all = append(all, Sighting{Name: name, Instance: j.Instance, Job: j.ID, Age: age, Dated: true, Err: err})
	}
	boot := evidence.SinceBoot()
	l.Watcher.mu.Lock()
	s, known := l.Watcher.stays[j.ID]
	l.Watcher.mu.Unlock()
	if !known { // it was accepted, or has ended, this instant
		return nil
	}
	entered := boot - s.entered
	now.Jobs[string(j.State)] = now.Jobs[string(j.State)].Add(entered)
	f, fails := l.Watcher.failureOf(j.ID)
	name := l.actTrouble(j)
	if fails {
		now.Stuck = now.Stuck.Add(boot - f.since)
		add(name, boot-f.since, fmt.Errorf("%s: %w", f.doing, f.err))
	} else if name == TroubleUnconfigured {
		add(name, entered, fmt.Errorf("its job is %s", j.State))
	} else if quick[j.State] {
		add(TroubleHangs, entered, fmt.Errorf("its job is %s, and that does not end", j.State))
	}
	if err := l.Changed(j); err != nil {
		add(TroubleChanged, entered, err)
	}
	switch {
	case j.State == model.Held && j.Gone != "":
		add(TroubleGone, entered, errors.New(j.Gone))
	case j.State == model.Held:
		add(TroubleHeld, entered, errors.New(j.Cause))
	}
	if err := ForkTrouble(j); err != nil {
		add(TroubleFork, boot-s.entered, err)
	}
	if s.held != 0 {
		held := boot - s.held
		now.Frozen = now.Frozen.Add(held)
		waits := ""
		if j.State == model.Acknowledged && j.Policy == model.ReleaseByAgent && j.Unproven() && !j.ReleaseAsked {
			waits = ": its runtime can't tell whether the instance ran since, so somebody has to release or resume it"
		}
		add(TroubleFrozen, held, fmt.Errorf("its job is %s since %s%s", j.State, Roughly(entered), waits))
	}
	return all
}

// quick are the states that take seconds, or minutes
// on a slow host, unless an act does not come back.
var quick = map[model.State]bool{
	model.Freezing: true, model.Frozen: true, model.Snapshotting: true, model.Snapshotted: true, model.Stored: true, model.Releasing: true, model.Released: true,
	model.Resuming: true, model.Ending: true, model.Suspending: true, model.Failing: true, model.Placing: true, model.Restored: true, model.Starting: true,
}

// actTrouble names the trouble when an act of the job fails in its present state.
func (l *Lookout) actTrouble(j *model.Job) string {
	if !l.Configured(j.Instance) {
		return TroubleUnconfigured
	}
	switch j.State {
	case model.Failing, model.Suspending, model.Resuming, model.Ending, model.Released:
		return TroubleUndo
	case model.Releasing:
		return TroubleRelease
	}
	return TroubleAct
}

// JobTrouble tells what fails now of an unfinished job; nil when nothing does.
func (l *Lookout) JobTrouble(j *model.Job) *api.Trouble {
	f, ok := l.Watcher.failureOf(j.ID)
	if !ok || j.State.Final() {
		return nil
	}
	t := Sighting{
		Name: l.actTrouble(j), Instance: j.Instance, Job: j.ID, Age: evidence.SinceBoot() - f.since, Err: fmt.Errorf("%s: %w", f.doing, f.err),
	}.trouble()
	return &t
}

// maxShownTroubles bounds the list of one kind of trouble.
const maxShownTroubles = 10

// Troubles lists the troubles for operators.
func (l *Lookout) Troubles() ([]api.Trouble, error) {
	all, _, err := l.Look()
	if err != nil {
		return nil, err
	}
	list := []api.Trouble{}
	shown := map[string]int{}
	for _, s := range all {
		if shown[s.Name]++; shown[s.Name] > maxShownTroubles {
			for i := range list {
				if list[i].Name == s.Name {
					list[i].More++
					break
				}
			}
			continue
		}
		list = append(list, s.trouble())
	}
	return list, nil
}
