// Package agent is the daemon: it owns every goroutine and every resource, opens
// them in order, runs until its context ends, drains, and closes in reverse order.
//
// The programs call Open and Run. Run starts the jobs (agent/job), the delivery
// of reports (agent/report), and the three listeners, and returns when none of
// their goroutines is left. A crash leaves the journal, a socket file, and on
// the host the things that the journal names; the next Run finishes or undoes
// them before it is ready. DESIGN.md has the life of a job and the decisions.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/agent/engine"
	"holdfast/agent/janitor"
	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/metrics"
	"holdfast/agent/observe"
	"holdfast/agent/report"
	"holdfast/agent/service"
	"holdfast/internal/backup"
	"holdfast/internal/contain"
	"holdfast/internal/evidence"
	"holdfast/internal/hostid"
	"holdfast/internal/obs"
	"holdfast/internal/pressure"
	"holdfast/internal/vault"
)

// Times that the configuration does not set, each with its reason.
const (
	// flushTime is the time in which the last reports can leave after
	// the jobs have stopped: other reports go out at the next start.
	flushTime = 2 * time.Second
	// shutdownTime is what calls under way get to be answered.
	shutdownTime = 5 * time.Second
)

// StopTime is the most that Run takes after the end of its context, with
// that limits.drain_timeout: the time for jobs to be stored, to let go
// of their instances, for the last reports, and for calls under way.
func StopTime(drain time.Duration) time.Duration {
	return drain + job.LetGoTime + flushTime + shutdownTime
}

// Options are the parts and settings of an Agent.
type Options struct {
	Config  *config.Config
	Log     *slog.Logger // nil: nothing is logged
	Version string       // of the build; goes into manifests, receipts and metrics
	// Ready is called once, when commands are taken: after recovery,
	// with all listeners serving. May be nil.
	Ready func()
	// Inhibit keeps the host up while instances are held for work under way. Nil where nothing can.
	Inhibit observe.Inhibit
	// Recover makes a life that lets go of the instances that earlier lives have left
	// held, and begins nothing: it takes no commands, opens as much as it can, logs each
	// part that it can't open, and ends by itself when no instance is held any more.
	Recover bool
}

// Agent is one daemon. Run may be called once.
type Agent struct {
	cfg     *config.Config
	log     *slog.Logger
	version string
	ready   func()
	started time.Time
	// recovers is Options.Recover.
	recovers bool
	// opened keeps what close undoes. Open calls it, and later one goroutine of Run.
	opened func(func() error)
	// self has the identity, which tells this host from its clones,
	// for the sessions of its backups.
	self engine.Self
	// shared is hostid.Standing.Shared.
	shared   bool
	standing engine.Standing
	looks    *engine.Looks

	store     obs.Store
	limiter   *obs.Limiter
	throttle  *service.Throttle
	vaults    *engine.Vaults
	health    *engine.StoreHealth
	pool      *backup.Pool
	engine    *engine.Engine
	sightings *engine.Sightings
	frozen    *engine.FrozenGuards
	journal   *journal.Journal
	manager   *job.Manager
	watcher   *observe.Watcher
	lookout   *observe.Lookout
	writes    *observe.JournalHealth
	metrics   *metrics.Metrics
	signing   *engine.Signing
	client    *http.Client
	deliverer *report.Deliverer
	instances *engine.Instances
	auth      api.Authenticator
	janitor   *janitor.Janitor
	pruning   *metrics.Pruning
	listeners listeners
	audit     *observe.Auditor

	static   *auth.Static // nil without a file of tokens
	hasty    atomic.Bool  // troubles are shown at once; for tests
	stopping atomic.Bool
	serving  atomic.Bool
	close    func() error
}

// Open opens everything that the configuration names and binds the listeners,
// but serves nothing and touches no instance. It contacts no object store: a
// store that is away shows in the jobs. Close undoes it; Run does so by itself.
// An address that can't be listened on is no error: Run tries it again.
func Open(ctx context.Context, o Options) (_ *Agent, err error) {
	a := &Agent{
		cfg: o.Config, log: o.Log, version: o.Version, ready: o.Ready, started: time.Now(), recovers: o.Recover,
		health: &engine.StoreHealth{}, self: engine.Self{Host: o.Config.HostID, Version: o.Version},
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.ready == nil {
		a.ready = func() {}
	}
	var closers []func() error
	a.close = sync.OnceValue(func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	opened := func(f func() error) { closers = append(closers, f) }
	a.opened = opened

	cfg := a.cfg
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	if err := hostid.Settle(cfg.StateDir, setAside(cfg.StateDir)); err != nil {
		return nil, err
	}
	if a.journal, err = journal.Open(filepath.Join(cfg.StateDir, JournalFile)); err != nil {
		return nil, err
	}
	opened(a.journal.Close)
	if aside := a.journal.Aside(); aside != "" {
		a.log.Error("the journal was damaged; a new one begins. Instances that were held for a job are let go, and none is released for it", keyError, aside)
	}
	if err := a.identify(); err != nil {
		return nil, err
	}
	held, err := engine.OpenMarks(filepath.Join(cfg.StateDir, marksFolder))
	if err != nil {
		return nil, err
	}
	vault.SweepCatalogues(engine.Catalogues(cfg.StateDir)) // the journal's lock says that no other agent uses them
	a.metrics = metrics.New(metrics.Options{Version: a.version, Started: a.started, Stages: observe.Stages, Troubles: observe.TroubleNames(), Process: true})
	if err := a.openStore(ctx, opened); err != nil {
		return nil, err
	}
	a.signing, err = engine.OpenSigning(cfg.SigningKeyFile, func(err error) {
		if err != nil {
			a.log.Error("signing_key_file is no good; the last good key signs receipts until the file is right, or until the agent ends", keyError, err.Error())
			return
		}
		a.log.Info("signing_key_file is good again")
	})
	if err := a.without("signing_key_file", err); err != nil {
		return nil, err
	}
	a.instances = engine.NewInstances(cfg.HostID, a.journal)
	for i := range cfg.Instances {
		in, err := engine.NewInstance(&cfg.Instances[i], cfg.HostID, i)
		if err != nil {
			if err = a.without("instance", fmt.Errorf("instance %q: %w", cfg.Instances[i].ID, err)); err != nil {
				return nil, err
			}
			continue
		}
		opened(in.Runtime().Close)
		a.instances.Add(in)
	}
	opened(a.instances.Close)
	bootID := hostid.Boot()
	if bootID == "" {
		// Instances that an earlier life held then count as held
		// before a reboot, and nothing is released on them.
		bootID = "unknown since " + a.started.UTC().Format(time.RFC3339Nano)
		a.log.Warn("the kernel's id of this boot can't be read; after each restart of the agent its jobs go on as after a reboot")
	}
	a.watcher = observe.NewWatcher(a.log, a.metrics, o.Inhibit)
	a.frozen = engine.NewFrozenGuards(a.log, cfg.StateDir)
	a.writes = observe.NewJournalHealth(a.journal, cfg.StateDir, a.watcher, a.frozen.Stuck)
	a.journal.WatchWrites(a.writes.Written)
	a.engine = engine.New(engine.Options{
		Log: a.log, Config: cfg, Self: a.self, Shared: a.shared, Standing: &a.standing, Looks: a.looks, Journal: a.journal, Pool: a.pool,
		Instances: a.instances, Vaults: a.vaults, Signing: a.signing, Counters: a.metrics, Observer: a.watcher, Releases: a.watcher.Releases(),
	})
	parts := a.engine.Parts()
	parts.Store, parts.Marks, parts.Observer = a.health, held, a.watcher
	a.manager = job.New(a.journal, parts, job.Options{
		Jobs: cfg.Limits.Jobs, Queue: cfg.Limits.Queue, Held: cfg.Limits.Held,
		Precopy: job.Precopy{
			Rounds: cfg.Precopy.Rounds, Enough: uint64(cfg.Precopy.Enough), Time: cfg.Precopy.Time, Bytes: uint64(cfg.Precopy.Bytes),
		},
		Bases:          job.Bases{Keep: cfg.Base.Keep, MaxAge: cfg.Base.MaxAge, MinFree: float64(cfg.Base.MinFree) / 100},
		FrozenDeadline: cfg.Limits.FrozenDeadline, StartRestored: cfg.Prepare.Start, OnFork: job.OnFork(cfg.OnFork),
		KeepAside: cfg.Prepare.KeepReplaced, InPlaceOrder: cfg.Prepare.InPlaceOrder,
		JobDeadline: cfg.Limits.JobDeadline, ProofAge: cfg.Limits.VerifiedWithin, DrainTimeout: cfg.Limits.DrainTimeout,
		StorePatience: cfg.Limits.StorePatience,
		ProgressEvery: cfg.Report.Progress,
		Now:           time.Now, Rand: rand.Reader, BootID: bootID, Uptime: evidence.SinceBoot, RecoverOnly: o.Recover,
	})
	a.sightings = a.engine.NewSightings(cfg, a.journal, a.manager)
	a.lookout = a.newLookout()
	a.metrics.Leftovers(func() int {
		left, err := a.manager.Leftovers()
		if err != nil {
			return 0 // the journal is closed
		}
		return len(left)
	})
	a.metrics.Kept(a.sightings.KeptFigures)
	if err := a.without(PrunesFile, a.openJanitor()); err != nil {
		return nil, err
	}
	if err := a.without("report", a.openReports(opened)); err != nil {
		return nil, err
	}
	a.audit, err = observe.OpenAudit(cfg.Audit, a.log, a.metrics, func(err error) { a.watcher.Fault(observe.TroubleAudit, err) })
	if err := a.without("audit.file", err); err != nil {
		return nil, err
	}
	if a.audit != nil {
		opened(a.audit.Close)
	}
	a.engine.Volumes.RefuseUnfit(ctx, a.instances.All())
	opened(a.listeners.close)
	return a, a.listen()
}

// Close releases what Open opened, in reverse order. It is
// idempotent; during Run it must not be called.
func (a *Agent) Close() error { return a.close() }

// Addr is the address of the control-plane listener, "" when it is off or
// not bound yet. The port is the real one where the configuration says 0.
func (a *Agent) Addr() string { return a.listeners.control.text() }

// MetricsAddr is Addr for the metrics listener.
func (a *Agent) MetricsAddr() string { return a.listeners.metrics.text() }

// PublicKey is the PEM file with which a control plane verifies this host's receipts.
func (a *Agent) PublicKey() ([]byte, error) { return a.signing.Signer().PublicPEM() }

// Run recovers the jobs of earlier lives, serves until ctx ends, drains and closes. After the end
// of ctx it returns nil, else the reason why it could not serve. No goroutine of it is left then.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.Close()) }()
	active, err := a.journal.Active()
	if err != nil {
		return err
	}
	a.watcher.Begin(active)
	a.warnOfStrays(active)
	a.warnOfChanges(active)
	a.warnOfUnknown()
	for _, j := range active {
		a.log.Info("job resumes", keyInstance, j.Instance, keyJob, j.ID, keyState, string(j.State))
	}
	ctx, over := context.WithCancel(ctx) // a life that recovers ends by itself
	defer over()
	group, ctx := contain.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { a.stopping.Store(true) })()
	// Reports leave, and callers are answered, until the jobs have come to rest.
	late, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group.Go(a.again(late, "watch how pressed the host is", func() error { a.pool.Brake.Run(late, pressure.Open(), a.watcher.Braked); return nil }))
	looked := make(chan struct{}) // closed once the vaults were looked at for copies of this host
	serve := make(chan struct{})  // closed once recovery is done, or will never be
	group.Go(func() error {
		defer end()
		defer over()
		began := sync.OnceFunc(func() { close(serve) })
		defer began()
		know := sync.OnceFunc(func() { close(looked) })
		defer know()
		err := a.work(ctx, know, began)
		if a.standing.Reason() == nil {
			a.flush(late)
		}
		return err
	})
	if a.deliverer != nil {
		group.Go(a.again(late, "deliver reports", func() error { <-looked; return a.deliverer.Run(late) }))
	}
	group.Go(a.again(late, "inhibit shutdowns", func() error { a.watcher.KeepUp(late); return nil }))
	group.Go(a.again(late, "change the limits by the time of day", func() error { a.throttle.Run(late); return nil }))
	group.Go(a.again(late, "keep file systems frozen", func() error { a.frozen.Keep(late); return nil }))
	group.Go(a.again(ctx, "try the store", func() error { a.probeStore(ctx); return nil }))
	group.Go(a.again(ctx, "watch the certificate", func() error { a.watchCertificate(ctx); return nil }))
	group.Go(a.again(ctx, "try the journal", func() error { a.writes.Run(ctx); return nil }))
	group.Go(a.again(ctx, "look at the disks", func() error { a.lookout.WatchDisks(ctx); return nil }))
	group.Go(a.again(ctx, "look at the volumes", func() error { a.engine.Views.Watch(ctx); return nil }))
	group.Go(a.again(ctx, "prune vaults", func() error { return a.prune(ctx, serve) }))
	group.Go(a.again(ctx, "keep the claims", func() error { a.engine.Claims.Keep(ctx); return nil }))
	group.Go(a.again(ctx, "settle unknown outcomes", func() error { a.vaults.SettleAll(ctx); return nil }))
	group.Go(a.again(ctx, "look whether forks are decided", func() error { a.watchForks(ctx); return nil }))
	group.Go(a.again(ctx, "look for copies of this host", func() error { a.looks.Watch(ctx); return nil }))
	for _, s := range a.servers() {
		group.Go(func() error {
			if s.afterRecovery {
				<-serve
			}
			return s.run(late)
		})
	}
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// againPause is how long a loop of the agent's rests after a panic.
const againPause = time.Minute

// again makes a function that runs do, and runs it again after a panic,
// until ctx ends: none of what goes on beside the jobs is worth ending them.
func (a *Agent) again(ctx context.Context, doing string, do func() error) func() error {
	return func() error {
		for {
			err := contain.Call(do)
			if contain.Of(err) == nil {
				return err
			}
			a.watcher.Panicked(metrics.PanicLoop, doing, err)
			select {
			case <-time.After(againPause):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// flush gives the last reports a moment to leave.
func (a *Agent) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	tick := time.NewTicker(flushTime / 40)
	defer tick.Stop()
	for {
		if n, err := a.journal.PendingReports(); err != nil || n == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// SetBandwidth takes the limits of another configuration, for requests
// under way too. It may be called at any time between Open and Close.
func (a *Agent) SetBandwidth(b config.Bandwidth) { a.throttle.Configure(b) }
