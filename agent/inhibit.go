package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"holdfast/agent/model"
)

// Inhibit keeps the host from going down until release is called. why is for people.
type Inhibit func(why string) (release func(), err error)

// holding are the states in which an instance is held, or about to be, for work that
// is soon done: a host that goes down in the middle of it throws the work away.
var holding = map[model.State]bool{
	model.Freezing: true, model.Frozen: true, model.Snapshotting: true, model.Snapshotted: true, model.Uploading: true, model.Stored: true,
	model.Releasing: true,
}

// inhibitor keeps the host up while jobs are in one of those states.
type inhibitor struct {
	take    Inhibit
	log     *slog.Logger
	changed chan struct{} // 1 token

	mu   sync.Mutex
	jobs map[string]bool
}

func newInhibitor(take Inhibit, log *slog.Logger) *inhibitor {
	return &inhibitor{take: take, log: log, changed: make(chan struct{}, 1), jobs: map[string]bool{}}
}

// note takes the state of a job. It does not block.
func (i *inhibitor) note(j *model.Job) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if holding[j.State] {
		i.jobs[j.ID] = true
	} else {
		delete(i.jobs, j.ID)
	}
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

func (i *inhibitor) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.jobs)
}

// run takes and releases until ctx ends, and releases then.
func (i *inhibitor) run(ctx context.Context) {
	if i.take == nil {
		return
	}
	var release func()
	told := false
	let := func() {
		if release != nil {
			release()
			release = nil
		}
	}
	defer let()
	for {
		n := i.count()
		switch {
		case n == 0:
			let()
		case release == nil:
			var err error
			if release, err = i.take(fmt.Sprintf("%d instances are held while their last changes are stored", n)); err != nil && !told {
				told = true // once: a host without logind has none for ever
				i.log.Warn("the host can't be kept up while instances are held", keyError, err.Error())
			}
		}
		select {
		case <-i.changed:
		case <-ctx.Done():
			return
		}
	}
}
