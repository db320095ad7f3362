package job

import (
	"context"
	"slices"

	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// precopy does one round: it makes snapshots of the running instance,
// their new content goes to the store, and the snapshots go away, or stay
// as bases until the next round. Then another round follows, or the hold.
//
// A volume whose storage makes no snapshots is read itself while the instance
// writes to it. Such a reading is of no single moment and makes no backup,
// but content that stays unchanged from then on need not be read in the hold.
// That helps most after a reboot, when all content has to be read once.
//
// A crash leaves snapshots that the journal names. The next life removes them and does the round
// again; the engine knows from its catalogues which content the rounds before have stored.
func (w *worker) precopy(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	instance, err := w.instance(j)
	if err != nil {
		return "", journal.Change{}, err
	}
	began := w.m.journal.Up()
	made, err := w.makeSnapshots(ctx, j)
	if err != nil {
		return "", journal.Change{}, err
	}
	if len(made) == 0 { // there can be none while the instance runs
		return w.toHold(ctx, j)
	}
	result, err := w.engine(ctx, j, made, true)
	if err != nil {
		return "", journal.Change{}, err
	}
	kept := w.toKeep(j, made, result)
	left := w.dropSnapshots(ctx, &model.Job{ID: j.ID, Instance: j.Instance, State: j.State, Snapshots: made}, kept)
	round := model.Round{Read: result.BytesRead, Sent: result.BytesSent, Seconds: (w.m.journal.Up() - began).Seconds()}
	rounds := append(slices.Clone(j.Rounds), round)
	if w.m.opts.Precopy.more(rounds) {
		planned, err := instance.Snapshots.Plan(ctx, roundName(j, len(rounds)))
		if err != nil {
			return "", journal.Change{}, err
		}
		return model.Precopying, journal.Change{Edit: func(j *model.Job) { j.Rounds, j.Snapshots = rounds, ofRound(planned) }, Bases: kept, Left: left}, nil
	}
	next, c, err := w.toHold(ctx, j)
	if err != nil {
		return "", journal.Change{}, err
	}
	hold := c.Edit
	c.Bases, c.Left = kept, left
	c.Edit = func(j *model.Job) {
		hold(j)
		j.Rounds = rounds
	}
	return next, c, nil
}

// shrinking is by how much a round has to be smaller than the one before for another to be
// worth its while: below it the instance changes about as fast as its changes can be stored.
const shrinking = 0.7

// more tells whether another round makes the hold shorter.
func (p Precopy) more(rounds []model.Round) bool {
	n := len(rounds)
	last := rounds[n-1]
	var seconds float64
	var read uint64
	for _, r := range rounds {
		seconds += r.Seconds
		read += r.Read
	}
	switch {
	case n >= p.Rounds, last.Read <= p.Enough:
		return false
	case p.Time > 0 && seconds >= p.Time.Seconds(), p.Bytes > 0 && read >= p.Bytes:
		return false
	}
	return n == 1 || float64(last.Read) < shrinking*float64(rounds[n-2].Read)
}
