package janitor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/expire"
	"holdfast/internal/vault"
)

// Causes for which a run under way ends.
var (
	errStopped = errors.New("the agent stops; the prune begins again at its next start")
	errTooLong = fmt.Errorf("the prune took longer than %v; the next one goes on", runTime)
)

// Run does the runs that wait, one at a time, and begins runs by the schedule, until
// ctx ends. A run that is at work then waits for the next start. The events of ended
// runs leave with the next look, where the journal could not be written before.
func (j *Janitor) Run(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return nil
		}
		if j.host.Halted() == nil {
			j.tellAll()
			if r := j.next(); r != nil {
				j.do(ctx, r)
				continue
			}
			if j.schedule(ctx) {
				continue
			}
		}
		timer := time.NewTimer(j.rest())
		select {
		case <-ctx.Done():
		case <-j.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// restMost is the longest time between two looks of Run whether there is something to do.
const restMost = time.Minute

// rest is how long Run rests when there is nothing to do.
func (j *Janitor) rest() time.Duration { return max(time.Second, min(restMost, j.lookEvery()/4)) }

// next is the oldest run that waits.
func (j *Janitor) next() *Run {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.runs {
		if r.State == Waiting {
			return r
		}
	}
	return nil
}

// edit changes a run and tells the host. With durable, the file has the change first; a
// change that can't be written is made all the same, and the error returned.
func (j *Janitor) edit(r *Run, durable bool, edit func(*Run)) (err error) {
	j.mu.Lock()
	if durable {
		err = j.change(r, edit)
	}
	if !durable || err != nil {
		edit(r)
	}
	changed := r.copy()
	j.mu.Unlock()
	j.host.Changed(changed)
	return err
}

// do does one run to its end, or until the agent stops.
func (j *Janitor) do(ctx context.Context, r *Run) {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	j.mu.Lock()
	if r.State != Waiting {
		j.mu.Unlock()
		return // it was cancelled this instant
	}
	j.current, j.cancel = r, cancel
	j.mu.Unlock()
	err := j.edit(r, true, func(r *Run) {
		r.State, r.Began, r.Reason, r.Report = AtWork, time.Now().UTC(), "", Report{}
		r.Begun++
	})
	if err == nil {
		j.mu.Lock()
		command := r.copy()
		j.mu.Unlock()
		err = j.watched(work, cancel, func() error { return j.work(work, r, command) })
	}
	j.mu.Lock()
	j.current, j.cancel = nil, nil
	j.mu.Unlock()
	cause := context.Cause(work)
	if err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	j.end(ctx, r, err, cause)
}

// watched calls do, and cancels it when nothing may be done any more, or when it takes too long.
func (j *Janitor) watched(ctx context.Context, cancel func(error), do func() error) error {
	var g contain.Group
	over := make(chan struct{})
	g.Go(func() error {
		tick := time.NewTicker(haltPoll)
		defer tick.Stop()
		late := time.NewTimer(runTime)
		defer late.Stop()
		for {
			select {
			case <-over:
				return nil
			case <-ctx.Done():
				return nil
			case <-late.C:
				cancel(errTooLong)
			case <-tick.C:
				if err := j.host.Halted(); err != nil {
					cancel(fmt.Errorf("%w: %w", errStopped, err))
				}
			}
		}
	})
	err := contain.Call(do)
	close(over)
	return errors.Join(err, g.Wait())
}

// end writes the end of a run down, and tells it.
func (j *Janitor) end(ctx context.Context, r *Run, err, cause error) {
	edit := func(r *Run) {
		r.Step, r.Ended = "", time.Now().UTC()
		switch {
		case err == nil:
			r.State, r.Told = Done, false
		case errors.Is(cause, errCancelled):
			r.State, r.Reason = Cancelled, errCancelled.Error()
		case ctx.Err() != nil || errors.Is(cause, errStopped):
			r.State, r.Reason, r.Ended = Waiting, err.Error(), time.Time{}
		default:
			r.State, r.Problem, r.Reason = Failed, problemOf(err), err.Error()
		}
	}
	quiet := j.toldBefore(r, problemOf(err))
	werr := j.edit(r, true, func(r *Run) {
		edit(r)
		r.Told = quiet && r.State == Failed
	})
	if werr == nil {
		j.tellAll()
	}
}

// toldBefore tells whether the last run of the tenant that nobody commanded ended with the same
// problem: a state is told once, and not with each run that finds it again.
func (j *Janitor) toldBefore(r *Run, problem Problem) bool {
	if problem != ProblemDelete && problem != ProblemShare {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	before := false
	if !r.Scheduled() {
		return false
	}
	for _, o := range j.runs {
		if o != r && o.Tenant == r.Tenant && o.Scheduled() && o.State.Over() {
			before = o.State == Failed && o.Problem == problem && !o.Settled
		}
	}
	return before
}

// problemOf is the problem that an error of a run shows.
func problemOf(err error) Problem {
	var share *ShareError
	var waits *vault.WaitsError
	switch {
	case err == nil:
		return ProblemNone
	case errors.As(err, &share):
		return ProblemShare
	case errors.Is(err, vault.ErrMayNotDelete):
		return ProblemDelete
	case errors.Is(err, vault.ErrClock):
		return ProblemClock
	case errors.As(err, &waits):
		return ProblemWaits
	case errors.Is(err, errLost):
		return ProblemLost
	}
	return ProblemOther
}

// tellAll tells of the ends of runs that were not told yet, the oldest first.
func (j *Janitor) tellAll() {
	for {
		j.mu.Lock()
		var r *Run
		for _, o := range j.runs {
			if o.State.Over() && !o.Told {
				r = o
				break
			}
		}
		if r == nil {
			j.mu.Unlock()
			return
		}
		run := r.copy()
		j.mu.Unlock()
		kind := EventCompleted
		if run.State != Done {
			kind = EventFailed
		}
		if err := j.host.Tell(kind, run); err != nil {
			return // the journal can't be written; the next look tries again
		}
		j.mu.Lock()
		err := j.change(r, func(r *Run) { r.Told = true })
		j.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// errLost says that backups name packs that the store does not have.
var errLost = errors.New("packs that backups need are missing from the store; holdfast verify lists everything in the vault that is damaged")

// work does a run; q is the run as it began.
func (j *Janitor) work(ctx context.Context, r *Run, q Run) error {
	if err := j.jobs(ctx, r, q); err != nil {
		return err
	}
	v, end, err := j.host.Open(ctx, q.Tenant)
	if err != nil {
		return fmt.Errorf("open vault: %w", err)
	}
	defer end()
	if !q.DryRun {
		if err := v.MayDelete(ctx); err != nil {
			return err
		}
		if err := j.before(ctx, v, r); err != nil {
			return err
		}
	}
	if err := j.forget(ctx, v, r, q); err != nil {
		return err
	}
	report, err := expire.Prune(ctx, v, vault.PruneOptions{
		Host: j.o.Host, Identity: j.o.Identity, Grace: j.o.Grace, Wait: j.o.Wait, Poll: j.o.Poll, DryRun: q.DryRun,
		MaxGarbage: j.o.MaxGarbage, Sparse: j.o.Sparse, ProlongLocks: j.o.ProlongLocks, IndexDir: j.o.IndexDir,
		Warn: func(err error) { j.host.Warn(q.Tenant, err) },
		Waits: func(sessions []vault.SessionInfo) {
			j.see(r, func(r *Run) { r.Report.Waits = named(sessions) })
		},
		Progress: func(p vault.PruneReport) {
			j.see(r, func(r *Run) {
				if !strings.HasPrefix(p.Step, "waits") && !strings.HasPrefix(p.Step, "lists the sessions") {
					r.Report.Waits = nil
				}
				r.Step, r.Report.Prune = p.Step, p
			})
		},
	})
	report.Step = ""
	var waits *vault.WaitsError
	j.see(r, func(r *Run) {
		r.Report.Prune = report
		if r.Report.Waits = nil; errors.As(err, &waits) {
			r.Report.Waits = named(waits.For)
		}
	})
	switch {
	case err != nil:
		return err
	case len(report.Unlisted) > 0:
		return fmt.Errorf("%d %w", len(report.Unlisted), errLost)
	case len(report.Refused) > 0:
		return fmt.Errorf("the store refused to delete %d packs, which stay condemned: %w", len(report.Refused), vault.ErrMayNotDelete)
	}
	if runs, err := v.Runs(ctx); err == nil { // for metrics alone
		j.learn(q.Tenant, runs)
	}
	return nil
}

// see changes a run under way that nobody writes down.
func (j *Janitor) see(r *Run, edit func(*Run)) { _ = j.edit(r, false, edit) } // it can't fail

// note shows a sentence as the step of the run.
func (j *Janitor) note(r *Run, text string) { j.see(r, func(r *Run) { r.Step = text }) }

// named names the work of sessions for people.
func named(sessions []vault.SessionInfo) (names []string) {
	for i, s := range sessions {
		if i == shown {
			return append(names, fmt.Sprintf("%d more", len(sessions)-i))
		}
		names = append(names, s.Describe())
	}
	return names
}

// shown is how many of a list a report names.
const shown = 10

// jobs waits until the jobs of this host in the tenant's vault have
// ended, for which the prune would wait with its condemnations in
// place. After Options.Wait it goes on beside them, which is safe.
func (j *Janitor) jobs(ctx context.Context, r *Run, q Run) error {
	if q.DryRun {
		return nil
	}
	for waited := time.Duration(0); waited < j.o.Wait; waited += workPoll {
		why := j.host.AtWork(q.Tenant)
		if why == "" {
			return nil
		}
		j.see(r, func(r *Run) { r.Step, r.Report.Waits = "waits for the jobs of this host", []string{why} })
		timer := time.NewTimer(workPoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
	return nil
}

// before notes the last prune of any host.
func (j *Janitor) before(ctx context.Context, v *vault.Vault, r *Run) error {
	runs, err := v.Runs(ctx)
	if err != nil {
		return err
	}
	id := ""
	if len(runs.Ended) > 0 {
		id = runs.Ended[0].ID
	}
	return j.edit(r, true, func(r *Run) { r.Before = id })
}

// learn notes the last prune of a vault, and which failed runs are settled by it.
func (j *Janitor) learn(tenant string, runs vault.Runs) {
	if len(runs.Ended) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	last := runs.Ended[0]
	j.last[tenant] = last
	for _, r := range j.runs {
		if r.Tenant == tenant && r.State == Failed && !r.Settled && r.Before != last.ID {
			_ = j.change(r, func(r *Run) { r.Settled = true }) // the next look tries again
		}
	}
}
