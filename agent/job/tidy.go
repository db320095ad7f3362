package job

import (
	"context"
	"time"

	"holdfast/agent/model"
)

// tidyTime is how long a start waits for the removal of what earlier lives have left. Storage that
// does not answer must not keep the instances of other storage held; what takes longer goes on
// beside the jobs.
const tidyTime = 10 * time.Second

// tidy removes what earlier lives have left and nothing needs, and the bases that the rules do not
// allow any more. It returns after tidyTime at most; wait returns when it has ended.
func (m *Manager) tidy(ctx context.Context, jobs []*model.Job) (wait func()) {
	var left []model.Leftover
	// The things to remove are known before a job can make anything new.
	m.contained("look for leftover snapshots", func() { left = m.findLeftovers(ctx, jobs) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.contained("remove leftover snapshots", func() {
			for _, l := range left {
				m.removeLeftover(ctx, l)
			}
		})
		m.contained("look after base snapshots", func() { m.dropBases(ctx) })
	}()
	timer := time.NewTimer(tidyTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	return func() { <-done }
}

// findLeftovers lists the agent's snapshots that no unfinished job names
// and that are no bases, and the things that could not be removed before.
func (m *Manager) findLeftovers(ctx context.Context, jobs []*model.Job) (left []model.Leftover) {
	found, err := m.parts.Leftovers(ctx)
	if err != nil {
		m.parts.Observer.Trouble("", "", "look for leftover snapshots", err)
	}
	// by path: the volume that a snapshot is of is not always told by the snapshot
	named := map[string]bool{}
	for _, j := range jobs {
		for _, s := range j.Snapshots {
			named[s.Ref.Path] = true
		}
	}
	bases, err := m.journal.Bases("")
	if err != nil {
		m.parts.Observer.Trouble("", "", "look for base snapshots", err)
		return nil
	}
	for _, b := range bases {
		named[b.Ref.Path] = true
	}
	known, err := m.journal.Leftovers()
	if err != nil {
		m.parts.Observer.Trouble("", "", "look for leftovers", err)
		return nil
	}
	for _, l := range known {
		named[l.Path()] = true
	}
	left = known
	for _, ref := range found {
		if !named[ref.Path] && !ofUnknown(jobs, ref) {
			left = append(left, model.Leftover{Ref: ref, Since: m.opts.Now().UTC()})
		}
	}
	return left
}
