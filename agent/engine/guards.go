package engine

import (
	"context"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/runtime"
	"holdfast/internal/obs"
)

// GuardStore gives a store in which nothing changes while the agent stands still.
func GuardStore(store obs.Store, s *Standing) obs.Store { return guardedStore{store, s.Allowed} }

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
func runtimeOf(r runtime.Instance, s *Standing) job.Runtime {
	return guardedRuntime{driver{r}, s.Allowed}
}
