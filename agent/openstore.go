package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"holdfast/agent/engine"
	"holdfast/agent/metrics"
	"holdfast/agent/observe"
	"holdfast/agent/service"
	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/pressure"
	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// probeTries is how often the request before a hold is made at once: a connection that broke is no
// outage, and the job goes on trying.
const probeTries = 3

// openProbe opens the store once more, without the limiter.
func (a *Agent) openProbe(ctx context.Context, opened func(func() error)) error {
	probe, err := obs.Open(ctx, a.cfg.Store.URL, obs.Options{Observe: a.storeRequest, Retry: &obs.RetryPolicy{MaxAttempts: probeTries}, Retention: vault.Retention, Later: true})
	if err != nil {
		err = fmt.Errorf("store.url: %w", err)
		if err := a.without("store", err); err != nil {
			return err
		}
		probe = closedStore{"a store that can't be opened", err}
	}
	opened(probe.Close)
	a.health.Begin(a.vaults, probe)
	return nil
}

func (a *Agent) openStore(ctx context.Context, opened func(func() error)) error {
	cfg := a.cfg
	keys, fault := engine.OpenKeys(cfg.KeyFile, cfg.Store.NameKeyFile)
	if err := a.without("keys", fault); err != nil {
		return err
	}
	// One for all jobs: the host's link and the store's patience are shared.
	a.limiter = obs.NewLimiter(obs.Limits{})
	a.throttle = service.NewThrottle(a.limiter, cfg.Bandwidth, a.log)
	a.metrics.StoreLimits(func() (up, down int64, requests float64) {
		l := a.limiter.State().Limits
		return l.Up, l.Down, l.Requests
	})
	a.metrics.StoreLoad(func() (inFlight, waiting, level int) {
		s := a.limiter.State()
		return s.InFlight, s.Waiting, s.Level
	})
	// A job tries for as long as its deadlines allow, so that an
	// outage of the store costs time only.
	policy := obs.RetryPolicy{OnRetry: func(e obs.RetryEvent) {
		a.log.Warn("store request failed, trying again", "op", e.Op, "key", e.Key, "attempt", e.Attempt,
			"wait_seconds", e.Wait.Seconds(), "error", e.Err.Error())
	}}
	store, err := obs.Open(ctx, cfg.Store.URL, obs.Options{
		Observe: a.storeRequest, Retry: &policy, Retention: vault.Retention, Limiter: a.limiter, Later: true,
		Warn: func(message string) { a.log.Warn("the file system of the store lacks something", "reason", message) },
	})
	if err != nil {
		err = fmt.Errorf("store.url: %w", err)
		store, fault = closedStore{"a store that can't be opened", err}, errors.Join(fault, err)
		if err := a.without("store", err); err != nil {
			return err
		}
	}
	a.store = engine.GuardStore(store, &a.standing)
	opened(a.store.Close)
	strongest, err := seal.ParseLevel(a.cfg.Compression.Max)
	if err != nil {
		return fmt.Errorf("configuration, compression: %w", err)
	}
	a.pool = backup.NewPool(backup.PoolOptions{Budget: int64(a.cfg.Limits.Memory), Runs: a.cfg.Limits.Jobs, MaxLevel: strongest})
	brake := a.cfg.Brake
	a.pool.Brake = pressure.NewBrake(pressure.Limits{CPU: float64(brake.CPU) / 100, IO: float64(brake.IO) / 100, Memory: float64(brake.Memory) / 100})
	a.vaults = engine.NewVaults(engine.VaultOptions{
		Log: a.log, Store: a.store, Known: a.journal.KnownIn, Look: a.looks.Look, Keys: keys, Fault: fault,
		Creation: engine.Creation{Auto: cfg.Vault.AutoCreate, Recipients: cfg.Recipients, KeyFile: cfg.KeyFile, NameKeyFile: cfg.Store.NameKeyFile},
	})
	opened(a.vaults.Close)
	return a.openProbe(ctx, opened)
}

func (a *Agent) storeRequest(e obs.Event) {
	if errors.Is(e.Err, obs.ErrDamagedOnWay) { // the request itself was told of already
		a.metrics.StoreFault(obs.Kind(e.Err))
		a.log.Warn("an object came damaged from the store and whole at a second look", "key", e.Key, "error", e.Err.Error())
		return
	}
	result := metrics.StoreOK
	switch {
	case errors.Is(e.Err, obs.ErrNotFound):
		result = metrics.StoreNotFound
	case e.Err != nil:
		result = metrics.StoreError
	}
	if result == metrics.StoreError {
		a.metrics.StoreFault(obs.Kind(e.Err))
	}
	a.metrics.StoreRequest(e.Op, e.Bytes, e.Duration, result, e.Retry > 0)
	a.watcher.Stored(e.Op, e.Err)
	a.health.Request(e)
}

// probeStore asks the store for an object that is not there, so that a wrong bucket
// or credential is told of at the start and not by the first job. It waits for as
// long as the store is away. It is no condition for serving: the store may come to
// be right while instances of an earlier life wait for what needs no store.
func (a *Agent) probeStore(ctx context.Context) {
	_, err := a.store.Stat(ctx, "probe")
	if err != nil && !errors.Is(err, obs.ErrNotFound) && ctx.Err() == nil {
		a.log.Error("the store does not take this host's requests; every backup will fail", "store", a.store.String(), keyError, err.Error(), "hint", observe.Hint(err))
	}
}

// closedStore takes the place of a store that can't be opened. Every call fails with the reason.
type closedStore struct {
	name string
	why  error
}

var _ obs.Store = closedStore{}

func (s closedStore) Put(context.Context, string, []byte) error                  { return s.why }
func (s closedStore) PutNew(context.Context, string, []byte) error               { return s.why }
func (s closedStore) ReadAt(context.Context, string, []byte, int64) (int, error) { return 0, s.why }
func (s closedStore) Stat(context.Context, string) (obs.Info, error)             { return obs.Info{}, s.why }
func (s closedStore) Delete(context.Context, ...string) error                    { return s.why }
func (s closedStore) Extend(context.Context, string, time.Time) error            { return s.why }
func (s closedStore) Capabilities() obs.Capabilities                             { return obs.Capabilities{} }
func (s closedStore) String() string                                             { return s.name }
func (s closedStore) Close() error                                               { return nil }

func (s closedStore) List(context.Context, string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) { yield(obs.Info{}, s.why) }
}
