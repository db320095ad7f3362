package job_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// fakeRuntime is the driver of one instance of the world. With of
// it is bound to one identity, like the driver of an engine.
type fakeRuntime struct {
	l  *life
	id string
	p  *phone
	of string
}

// identity is the engine's own of the instance that has the name now.
func (p *phone) identity() string { return fmt.Sprint(p.name, "-", p.id) }

// runs lets the instance run for a moment, in which it writes.
func (p *phone) runs() {
	p.count++
	p.work++
}

// starts begins another run.
func (p *phone) starts() {
	p.run++
	p.work = 0
	p.state, p.by, p.owner = model.IsRunning, "", false
	p.runs()
}

// sight is the driver's look at the instance. The world's lock is held.
func (r *fakeRuntime) sight() model.Sight {
	if r.p.nobody {
		return model.Sight{State: r.p.state}
	}
	if r.of == "" && r.p.renamed || r.of != "" && r.of != r.p.identity() {
		return model.Sight{State: model.IsMissing}
	}
	s := model.Sight{State: r.p.state, ID: r.p.identity(), Killed: r.p.state == model.IsStopped && r.p.by == "power-down"}
	if !r.p.blind {
		s.Run, s.Proof = fmt.Sprint("run ", r.p.run), true
		if r.p.state == model.IsFrozen {
			s.Work = fmt.Sprint(r.p.work)
		}
	}
	return s
}

// acting is what comes before each act: it is on the very instance
// that the job holds. The lock is held.
func (r *fakeRuntime) acting(act string) error {
	if err := r.l.w.failing(act, r.id); err != nil {
		return err
	}
	if j := r.l.record(r.id); j.Hold && j.Identity != r.of && !r.p.nobody {
		r.l.w.fault("%s of %s by %q, while the job holds %q", act, r.id, r.of, j.Identity)
	}
	if r.sight().State == model.IsMissing {
		return errors.New("no such instance")
	}
	return nil
}

func (r *fakeRuntime) Of(id string) job.Runtime { return &fakeRuntime{r.l, r.id, r.p, id} }

func (r *fakeRuntime) State(context.Context) (model.Sight, error) {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if err := r.l.w.failing("state", r.id); err != nil {
		return model.Sight{}, err
	}
	if r.p.state == model.IsRunning {
		r.p.runs() // time passes
	}
	s := r.sight()
	j := r.l.record(r.id)
	if r.l.w.broken == "state" && j.Hold && s.State == model.IsRunning && j.State != model.Failing {
		s.State, s.Work = model.IsFrozen, j.Held.Work
	}
	if r.l.w.broken == "generation" && j.Hold && s.State == j.Held.State {
		s.Run, s.Work = j.Held.Run, j.Held.Work
	}
	return s, nil
}

func (r *fakeRuntime) Freeze(context.Context) error {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if err := r.acting("freeze"); err != nil {
		return err
	}
	if j := r.l.record(r.id); j.State != model.Freezing || !j.Hold {
		r.l.w.fault("journal-first: freeze while the journal says %s, hold %v", j.State, j.Hold)
	}
	if r.p.nobody {
		return nil
	}
	if r.p.state != model.IsRunning && r.p.state != model.IsFrozen {
		return errors.New("not running")
	}
	r.p.state, r.p.owner = model.IsFrozen, false
	return nil
}

// Stop lets the instance write its last record.
func (r *fakeRuntime) Stop(context.Context) error {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if err := r.acting("stop"); err != nil {
		return err
	}
	if j := r.l.record(r.id); j.State != model.Freezing || !j.Hold || j.Mode != model.ModeStop {
		r.l.w.fault("journal-first: stop while the journal says %s, hold %v", j.State, j.Hold)
	}
	if r.p.state != model.IsStopped {
		r.p.runs()
		r.p.by = "stop"
	}
	r.p.state, r.p.owner = model.IsStopped, false
	return nil
}

func (r *fakeRuntime) Start(context.Context) error {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if err := r.acting("start"); err != nil {
		return err
	}
	if j := r.l.record(r.id); j.State != model.Starting && (!j.Hold || !slices.Contains([]model.State{model.Failing, model.Suspending, model.Resuming}, j.State)) {
		r.l.w.fault("journal-first: start while the journal says %s, hold %v", j.State, j.Hold)
	}
	r.l.notReleased(r.id)
	if r.p.state != model.IsRunning {
		r.p.starts()
	}
	return nil
}

func (r *fakeRuntime) Thaw(ctx context.Context) error {
	r.l.alive()
	if r.l.w.wait != nil {
		r.l.w.wait(ctx, "thaw")
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if err := r.acting("thaw"); err != nil {
		return err
	}
	if j := r.l.record(r.id); !j.Hold || !slices.Contains([]model.State{model.Failing, model.Suspending, model.Resuming}, j.State) {
		r.l.w.fault("journal-first: thaw while the journal says %s, hold %v", j.State, j.Hold)
	}
	if r.p.state == model.IsFrozen {
		r.p.state, r.p.owner = model.IsRunning, false
		r.p.runs()
	}
	return nil
}

// PowerDown of a world that is broken may work and say that it did not.
func (r *fakeRuntime) PowerDown(_ context.Context, held *model.Sight) error {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := r.acting("power-down"); err != nil {
		return err
	}
	j := r.l.record(r.id)
	if j.State != model.Releasing || j.Result == nil || j.Result.ManifestSHA256 == "" || j.AcknowledgedAt.IsZero() {
		w.fault("release-last: power-down while the journal says %+v", j)
	}
	if !slices.ContainsFunc(w.events, func(e model.Event) bool { return e.Type == model.EventCompleted && e.Job == j.ID }) {
		w.fault("release-last: power-down before the control plane took the report")
	}
	if now := r.sight(); held != nil && w.broken != "generation" &&
		(now.State != held.State || now.ID != held.ID || now.Run != held.Run || held.Work != "" && now.Work != held.Work) {
		return errors.New("not as it was held")
	}
	// of a blind one somebody has said that it did not run
	if !w.had(r.id, r.p.count) && !r.p.blind {
		w.fault("nothing-lost: power-down at count %d, backups have %v", r.p.count, w.backups[r.id])
	}
	if r.p.blind && !j.ReleaseAsked {
		w.fault("%s is powered down unasked, although nobody can tell whether it ran", r.id)
	}
	r.p.state, r.p.by, r.p.owner = model.IsStopped, "power-down", false
	r.p.downs++
	w.ended[r.p.identity()] = r.p.count
	if err := w.failing("power-down-answer", r.id); err != nil {
		return fmt.Errorf("%w: %w", model.ErrBegun, err)
	}
	return nil
}

func (r *fakeRuntime) KeepDown(context.Context) error {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if err := r.l.w.failing("keep-down", r.id); err != nil {
		return err
	}
	if s := r.sight(); s.State != model.IsMissing && s.State != model.IsStopped && !r.p.nobody {
		return errors.New("it is up")
	}
	return nil
}
