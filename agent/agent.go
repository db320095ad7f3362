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
	"holdfast/agent/janitor"
	"holdfast/agent/job"
	"holdfast/agent/metrics"
	"holdfast/agent/report"
	"holdfast/internal/backup"
	"holdfast/internal/contain"
	"holdfast/internal/evidence"
	"holdfast/internal/hostid"
	"holdfast/internal/obs"
	"holdfast/internal/pressure"
	"holdfast/internal/seal"
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
	Inhibit Inhibit
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
	// identity tells this host from its clones, for the sessions of its backups.
	identity hostid.Identity
	// shared is hostid.Standing.Shared.
	shared   bool
	standing standing
	looks    *looks
	claimed  claimedBy

	store     obs.Store
	limiter   *obs.Limiter
	throttle  *throttle
	vaults    *vaults
	health    *storeHealth
	engine    *backup.Pool
	journal   *job.Journal
	manager   *job.Manager
	watcher   *watcher
	metrics   *metrics.Metrics
	signing   *signing
	client    *http.Client
	deliverer *report.Deliverer
	instances map[string]*instance
	recalled  recalled
	patience  patience
	auth      api.Authenticator
	janitor   *janitor.Janitor
	pruning   *metrics.Pruning
	listeners listeners
	audit     *auditor

	static    *auth.Static // nil without a file of tokens
	seen      seen
	watched   watched
	volumes   volumeViews
	words     map[string]bool // see tellsOfHost
	wordsOnce sync.Once
	hasty     atomic.Bool // troubles are shown at once; for tests
	// when the write to the journal began that is under way, ns since the boot; 0: none is
	probing  atomic.Int64
	stopping atomic.Bool
	serving  atomic.Bool
	// when a write to the state folder began that has not ended; see keepFrozen
	writing atomic.Pointer[time.Time]
	close   func() error
}

// Open opens everything that the configuration names and binds the listeners,
// but serves nothing and touches no instance. It contacts no object store: a
// store that is away shows in the jobs. Close undoes it; Run does so by itself.
// An address that can't be listened on is no error: Run tries it again.
func Open(ctx context.Context, o Options) (_ *Agent, err error) {
	a := &Agent{
		cfg: o.Config, log: o.Log, version: o.Version, ready: o.Ready, started: time.Now(), recovers: o.Recover, instances: map[string]*instance{},
		health: &storeHealth{},
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
	if a.journal, err = job.OpenJournal(filepath.Join(cfg.StateDir, JournalFile)); err != nil {
		return nil, err
	}
	opened(a.journal.Close)
	if aside := a.journal.Aside(); aside != "" {
		a.log.Error("the journal was damaged; a new one begins. Instances that were held for a job are let go, and none is released for it", keyError, aside)
	}
	if err := a.identify(); err != nil {
		return nil, err
	}
	held, err := openMarks(filepath.Join(cfg.StateDir, marksFolder))
	if err != nil {
		return nil, err
	}
	vault.SweepCatalogues(a.catalogues()) // the journal's lock says that no other agent uses them
	a.metrics = metrics.New(metrics.Options{Version: a.version, Started: a.started, Stages: stages, Troubles: troubleNames(), Process: true})
	if err := a.openStore(ctx, opened); err != nil {
		return nil, err
	}
	a.signing, err = openSigning(cfg.SigningKeyFile, func(err error) {
		if err != nil {
			a.log.Error("signing_key_file is no good; the last good key signs receipts until the file is right, or until the agent ends", keyError, err.Error())
			return
		}
		a.log.Info("signing_key_file is good again")
	})
	if err := a.without("signing_key_file", err); err != nil {
		return nil, err
	}
	for i := range cfg.Instances {
		in, err := newInstance(&cfg.Instances[i], cfg.HostID)
		if err != nil {
			if err = a.without("instance", fmt.Errorf("instance %q: %w", cfg.Instances[i].ID, err)); err != nil {
				return nil, err
			}
			continue
		}
		opened(in.runtime.Close)
		in.index = i
		a.instances[in.cfg.ID] = in
	}
	opened(a.recalled.close)
	bootID := hostid.Boot()
	if bootID == "" {
		// Instances that an earlier life held then count as held
		// before a reboot, and nothing is released on them.
		bootID = "unknown since " + a.started.UTC().Format(time.RFC3339Nano)
		a.log.Warn("the kernel's id of this boot can't be read; after each restart of the agent its jobs go on as after a reboot")
	}
	a.watcher = newWatcher(a.log, a.metrics)
	a.watcher.inhibitor = newInhibitor(o.Inhibit, a.log)
	a.journal.WatchWrites(a.journalled)
	a.manager = job.New(a.journal, job.Parts{
		Instance: a.jobInstance, Leftovers: a.leftovers, RemoveLeftover: a.removeSnapshot,
		Recall: a.recall, Store: a.health, Room: a.room, Marks: held, Backuper: a.vaults, Restorer: restores{a}, Signer: receipts{a}, Observer: a.watcher,
	}, job.Options{
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
	a.metrics.Leftovers(func() int {
		left, err := a.manager.Leftovers()
		if err != nil {
			return 0 // the journal is closed
		}
		return len(left)
	})
	a.metrics.Kept(a.keptFigures)
	if err := a.without(PrunesFile, a.openJanitor()); err != nil {
		return nil, err
	}
	if err := a.without("report", a.openReports(opened)); err != nil {
		return nil, err
	}
	a.audit, err = openAudit(cfg.Audit, a.log, a.metrics, func(err error) { a.watcher.fault(troubleAudit, err) })
	if err := a.without("audit.file", err); err != nil {
		return nil, err
	}
	if a.audit != nil {
		opened(a.audit.close)
	}
	a.refuseUnfit(ctx)
	opened(a.listeners.close)
	return a, a.listen()
}

// catalogues is the folder by which backups know unchanged files; it may be deleted at any time.
func (a *Agent) catalogues() string { return filepath.Join(a.cfg.StateDir, cataloguesFolder) }

// cataloguesFolder is the name of the folder with the catalogues in the state folder.
const cataloguesFolder = "catalogues"

func (a *Agent) openStore(ctx context.Context, opened func(func() error)) error {
	cfg := a.cfg
	keys, fault := openKeys(cfg.KeyFile, cfg.Store.NameKeyFile)
	if err := a.without("keys", fault); err != nil {
		return err
	}
	// One for all jobs: the host's link and the store's patience are shared.
	a.limiter = obs.NewLimiter(obs.Limits{})
	a.throttle = newThrottle(a.limiter, cfg.Bandwidth, a.log)
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
	a.store = guardedStore{store, a.standing.allowed}
	opened(a.store.Close)
	strongest, err := seal.ParseLevel(a.cfg.Compression.Max)
	if err != nil {
		return fmt.Errorf("configuration, compression: %w", err)
	}
	a.engine = backup.NewPool(backup.PoolOptions{Budget: int64(a.cfg.Limits.Memory), Runs: a.cfg.Limits.Jobs, MaxLevel: strongest})
	brake := a.cfg.Brake
	a.engine.Brake = pressure.NewBrake(pressure.Limits{CPU: float64(brake.CPU) / 100, IO: float64(brake.IO) / 100, Memory: float64(brake.Memory) / 100})
	a.vaults = &vaults{a: a, keys: keys, fault: fault, open: map[string]*openVault{}, jobs: map[string]*backup.Job{}}
	opened(a.vaults.close)
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
	a.watcher.stored(e.Op, e.Err)
	a.health.request(e)
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
func (a *Agent) PublicKey() ([]byte, error) { return a.signing.signer().PublicPEM() }

// Run recovers the jobs of earlier lives, serves until ctx ends, drains and closes. After the end
// of ctx it returns nil, else the reason why it could not serve. No goroutine of it is left then.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.Close()) }()
	active, err := a.journal.Active()
	if err != nil {
		return err
	}
	a.watcher.begin(active)
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
	group.Go(a.again(late, "watch how pressed the host is", func() error { a.engine.Brake.Run(late, pressure.Open(), a.watcher.braked); return nil }))
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
		if a.standing.reason() == nil {
			a.flush(late)
		}
		return err
	})
	if a.deliverer != nil {
		group.Go(a.again(late, "deliver reports", func() error { <-looked; return a.deliverer.Run(late) }))
	}
	group.Go(a.again(late, "inhibit shutdowns", func() error { a.watcher.inhibitor.run(late); return nil }))
	group.Go(a.again(late, "change the limits by the time of day", func() error { a.throttle.run(late); return nil }))
	group.Go(a.again(late, "keep file systems frozen", func() error { a.keepFrozen(late); return nil }))
	group.Go(a.again(ctx, "try the store", func() error { a.probeStore(ctx); return nil }))
	group.Go(a.again(ctx, "watch the certificate", func() error { a.watchCertificate(ctx); return nil }))
	group.Go(a.again(ctx, "try the journal", func() error { a.probe(ctx); return nil }))
	group.Go(a.again(ctx, "look at the disks", func() error { a.watchDisks(ctx); return nil }))
	group.Go(a.again(ctx, "look at the volumes", func() error { a.watchVolumes(ctx); return nil }))
	group.Go(a.again(ctx, "prune vaults", func() error { return a.prune(ctx, serve) }))
	group.Go(a.again(ctx, "keep the claims", func() error { a.keepClaims(ctx); return nil }))
	group.Go(a.again(ctx, "settle unknown outcomes", func() error { a.settle(ctx); return nil }))
	group.Go(a.again(ctx, "look whether forks are decided", func() error { a.watchForks(ctx); return nil }))
	group.Go(a.again(ctx, "look for copies of this host", func() error { a.looks.watch(ctx); return nil }))
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
			a.watcher.panicked(metrics.PanicLoop, doing, err)
			select {
			case <-time.After(againPause):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// probeStore asks the store for an object that is not there, so that a wrong bucket
// or credential is told of at the start and not by the first job. It waits for as
// long as the store is away. It is no condition for serving: the store may come to
// be right while instances of an earlier life wait for what needs no store.
func (a *Agent) probeStore(ctx context.Context) {
	_, err := a.store.Stat(ctx, "probe")
	if err != nil && !errors.Is(err, obs.ErrNotFound) && ctx.Err() == nil {
		a.log.Error("the store does not take this host's requests; every backup will fail", "store", a.store.String(), keyError, err.Error(), "hint", hint(err))
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
