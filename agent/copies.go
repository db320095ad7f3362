package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/runtime"
	"holdfast/internal/hostid"
	"holdfast/internal/obs"
)

// An agent whose state folder is a copy stands still: it sends no event, does nothing to any
// instance, snapshot, volume or vault, and takes no command, until a person has decided with
// `holdfastd adopt`. At the start the folder itself tells (internal/hostid), and at run time the
// looks in the vaults do (looks.go). Every way out of the agent asks standing.allowed; therefore
// the agent stands still at once, in whatever step a job is, as if the process had died there.

// ErrCopied says that the agent stands still, because its state folder is not known to be its own.
var ErrCopied = errors.New("this agent stands still, since its state folder may be a copy of another host's")

// standing tells whether the agent stands still. The zero value is of an
// agent that works; begin has to come before halt. It is for any goroutine.
type standing struct {
	mu     sync.Mutex
	why    error
	ctx    context.Context //nolint:containedctx // ends once why is set, for contexts that end with it
	still  context.CancelFunc
	halted func(error) // called once, with why
}

func (s *standing) begin(halted func(error)) {
	s.ctx, s.still = context.WithCancel(context.Background())
	s.halted = halted
}

// halt makes the agent stand still, for the rest of its life. The first reason counts.
func (s *standing) halt(why error) {
	s.mu.Lock()
	first := s.why == nil
	if first {
		s.why = why
		s.still()
	}
	s.mu.Unlock()
	if first {
		s.halted(why)
	}
}

// reason is why the agent stands still; nil while it works.
func (s *standing) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// allowed is nil while the agent works, and else an error that wraps ErrCopied.
func (s *standing) allowed() error {
	if why := s.reason(); why != nil {
		return fmt.Errorf("%w: %w; `holdfastd adopt` decides", ErrCopied, why)
	}
	return nil
}

// refusal is what callers are told whose command is not taken; nil while commands are.
func (a *Agent) refusal() *api.Error {
	if a.standing.reason() == nil {
		return nil
	}
	return api.Copied()
}

// within returns a context that ends with ctx, and when the agent stands still.
func (s *standing) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() bool { return true }
	if s.ctx != nil {
		stop = context.AfterFunc(s.ctx, func() { cancel(s.allowed()) })
	}
	return ctx, func() { stop(); cancel(nil) }
}

// Copied tells why the agent stands still; nil while it works. The error wraps ErrCopied.
func (a *Agent) Copied() error { return a.standing.allowed() }

// identify finds out whose the state folder is. It is called when the journal is open.
func (a *Agent) identify() error {
	a.standing.begin(func(why error) {
		a.log.Error("this agent stands still: it sends no report, does nothing to any instance, and takes no command, until a person decides with `holdfastd adopt`",
			keyReason, why.Error())
	})
	a.journal.Guard(a.standing.allowed)
	owner, err := a.journal.Owner()
	if err != nil {
		return err
	}
	used, err := a.journal.Used()
	if err != nil {
		return err
	}
	notes, err := Held(a.cfg.StateDir)
	if err != nil {
		return err
	}
	s, err := hostid.Open(a.cfg.StateDir, hostid.Journal{Owner: owner, Used: used || len(notes) > 0})
	if err != nil && s.ID == "" && s.Copied == nil {
		return err
	}
	if err != nil {
		a.log.Warn("the file of this host's identity can't be written; after a reboot sessions of killed backups stay in the vaults "+
			"until `holdfast vault sessions --forget` removes them", keyError, err.Error())
	}
	a.identity, a.shared = s.Identity, s.Shared
	a.looks = newLooks(a, filepath.Join(a.cfg.StateDir, LooksFile))
	if s.Copied == nil {
		s.Copied = a.looks.load()
	}
	if s.Copied != nil {
		a.standing.halt(s.Copied)
		if a.recovers {
			return a.standing.allowed() // such a life has nothing that it may do
		}
		return nil
	}
	if err := a.journal.SetOwner(a.identity.ID); err != nil {
		a.log.Warn("the journal can't be written", keyError, err.Error())
	}
	return nil
}

// work runs the jobs until ctx ends. An agent that stands still, from the start or from some time
// on, is ready for all that it does then: it answers questions. looked is called when the vaults
// were looked at for copies, served when the jobs of the last life were looked at.
func (a *Agent) work(ctx context.Context, looked, served func()) (err error) {
	work, halt := a.standing.within(ctx)
	defer halt()
	ready := sync.OnceFunc(a.ready)
	if a.standing.reason() == nil {
		a.looks.first(work)
	}
	looked()
	if a.standing.reason() == nil {
		err = a.manager.Run(work, func() {
			if work.Err() != nil {
				return // told to stop before it could begin
			}
			a.serving.Store(!a.recovers)
			served()
			a.log.Info("ready", "instances", len(a.instances), "listen", a.Addr(), "version", a.version)
			ready()
		})
	}
	a.serving.Store(false)
	if a.standing.reason() == nil {
		return err
	}
	if err != nil {
		a.log.Warn("the jobs ended with an error when the agent began to stand still", keyError, err.Error())
	}
	served()
	ready()
	<-ctx.Done()
	return nil
}

// guardedStore lets nothing change in the store while the agent stands still.
type guardedStore struct {
	obs.Store
	allowed func() error
}

// Put implements obs.Store.
func (s guardedStore) Put(ctx context.Context, key string, body []byte) error {
	if err := s.allowed(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body)
}

// PutNew implements obs.Store.
func (s guardedStore) PutNew(ctx context.Context, key string, body []byte) error {
	if err := s.allowed(); err != nil {
		return err
	}
	return s.Store.PutNew(ctx, key, body)
}

// Delete implements obs.Store.
func (s guardedStore) Delete(ctx context.Context, keys ...string) error {
	if err := s.allowed(); err != nil {
		return err
	}
	return s.Store.Delete(ctx, keys...)
}

// Extend implements obs.Store.
func (s guardedStore) Extend(ctx context.Context, key string, until time.Time) error {
	if err := s.allowed(); err != nil {
		return err
	}
	return s.Store.Extend(ctx, key, until)
}

// guardedRuntime does nothing to an instance while the agent stands still.
type guardedRuntime struct {
	job.Runtime
	allowed func() error
}

// Of implements job.Runtime.
func (g guardedRuntime) Of(id string) job.Runtime {
	return guardedRuntime{g.Runtime.Of(id), g.allowed}
}

func (g guardedRuntime) do(act func() error) error {
	if err := g.allowed(); err != nil {
		return err
	}
	return act()
}

// Freeze implements job.Runtime.
func (g guardedRuntime) Freeze(ctx context.Context) error {
	return g.do(func() error { return g.Runtime.Freeze(ctx) })
}

// Thaw implements job.Runtime.
func (g guardedRuntime) Thaw(ctx context.Context) error {
	return g.do(func() error { return g.Runtime.Thaw(ctx) })
}

// Stop implements job.Runtime.
func (g guardedRuntime) Stop(ctx context.Context) error {
	return g.do(func() error { return g.Runtime.Stop(ctx) })
}

// Start implements job.Runtime.
func (g guardedRuntime) Start(ctx context.Context) error {
	return g.do(func() error { return g.Runtime.Start(ctx) })
}

// PowerDown implements job.Runtime.
func (g guardedRuntime) PowerDown(ctx context.Context, held *model.Sight) error {
	return g.do(func() error { return g.Runtime.PowerDown(ctx, held) })
}

// KeepDown implements job.Runtime.
func (g guardedRuntime) KeepDown(ctx context.Context) error {
	return g.do(func() error { return g.Runtime.KeepDown(ctx) })
}

// runtimeOf is the driver of an instance as the jobs see it.
func (a *Agent) runtimeOf(r runtime.Instance) job.Runtime {
	return guardedRuntime{driver{r}, a.standing.allowed}
}
