package agent

import (
	"context"
	"slices"
	"time"
)

const (
	// forkEvery is how often the agent looks whether another host decided a fork.
	forkEvery = 5 * time.Minute
	// forkLookTime bounds one such look: the requests of the agent's
	// store are repeated without an end.
	forkLookTime = time.Minute
)

// watchForks looks from time to time whether another host decided the forks of which this host
// knows no decision, until ctx ends.
func (a *Agent) watchForks(ctx context.Context) {
	tick := time.NewTicker(forkEvery)
	defer tick.Stop()
	for {
		a.learnForks(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// learnForks looks once. A vault that does not answer is asked again at the next look.
func (a *Agent) learnForks(ctx context.Context) {
	if a.standing.Reason() != nil {
		return // the journal is to stay as it is
	}
	var ids []string
	for _, in := range a.instances.All() {
		ids = append(ids, in.Config().ID)
	}
	slices.Sort(ids)
	within, cancel := context.WithTimeout(ctx, forkLookTime)
	defer cancel()
	if err := a.manager.LearnForks(within, ids); err != nil && ctx.Err() == nil {
		a.log.Warn("this host does not know whether a fork is decided on another host; the next look asks again", keyReason, err.Error())
	}
}
