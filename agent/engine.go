package agent

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/internal/backup"
)

// records are the records of the journal that the parts of the engine read, each a few of them.
type records interface {
	instanceRecords
	volumeRecords
	lossRecords
	claimRecords
	Kept() ([]job.Aside, error)
	Up() time.Duration // by the journal's clock
}

// engineOptions are the parts that an engine connects.
type engineOptions struct {
	Log       *slog.Logger
	Config    *config.Config
	Self      self
	Shared    bool // see snapshotter.shared
	Standing  *standing
	Looks     *looks
	Journal   records
	Pool      *backup.Pool
	Instances *instances
	Vaults    *vaults
	Signing   *signing
	Counters  counters
	Observer  job.Observer
	Releases  <-chan struct{} // see claimKeeper.releases
}

// engine has the parts by which jobs act on instances, snapshots, vaults and volumes, and by which
// others look at these.
type engine struct {
	instances *instances
	standing  *standing
	patience  *patience
	volumes   *volumes
	views     *volumeViews
	vaults    *vaults
	losses    *losses
	snapshots *snapshotter
	backups   *backups
	restores  restores
	receipts  receipts
	claims    *claimKeeper
}

// newEngine connects the parts. Nothing acts before it is called.
func newEngine(o engineOptions) *engine {
	cfg, waits := o.Config, &patience{}
	e := &engine{instances: o.Instances, standing: o.Standing, patience: waits, vaults: o.Vaults}
	e.volumes = &volumes{log: o.Log, patience: waits, journal: o.Journal, identity: o.Self.identity.ID, check: cfg.CheckVolumes}
	e.views = &volumeViews{log: o.Log, patience: waits, instances: cfg.Instances}
	e.losses = &losses{vaults: o.Vaults, journal: o.Journal}
	e.snapshots = &snapshotter{
		log: o.Log, allowed: o.Standing.allowed, patience: waits, pool: o.Pool, instances: o.Instances, lacked: o.Observer.Lacked,
		spare: spare(cfg), freezeLimit: cfg.Limits.FrozenDeadline, shared: o.Shared,
	}
	e.backups = &backups{
		log: o.Log, self: o.Self, allowed: o.Standing.allowed, patience: waits, pool: o.Pool, instances: o.Instances, volumes: e.volumes, vaults: o.Vaults,
		looks: o.Looks, snapshots: e.snapshots, counters: o.Counters, trouble: o.Observer.Trouble, compression: cfg.Compression,
		catalogues: catalogues(cfg.StateDir), index: filepath.Join(cfg.StateDir, "index"), jobs: map[string]*backup.Job{},
	}
	e.claims = &claimKeeper{
		log: o.Log, self: o.Self, standing: o.Standing, patience: waits, instances: o.Instances, volumes: e.volumes, vaults: o.Vaults, journal: o.Journal,
		silence: cfg.Prepare.ClaimSilence, releases: o.Releases,
	}
	e.restores = restores{
		log: o.Log, self: o.Self, standing: o.Standing, patience: waits, instances: o.Instances, volumes: e.volumes, vaults: o.Vaults, losses: e.losses,
		kept: o.Journal.Kept, keepsClaim: e.claims.keepsClaim, reserve: reserveOf(cfg.Prepare), catalogues: catalogues(cfg.StateDir),
		claimSilence: cfg.Prepare.ClaimSilence, inPlaceOrder: cfg.Prepare.InPlaceOrder,
	}
	e.receipts = receipts{self: o.Self, signing: o.Signing, store: o.Vaults.store.String(), up: o.Journal.Up}
	tenants := map[string]bool{}
	for _, in := range o.Instances.all() {
		tenants[in.cfg.Tenant] = true
	}
	o.Looks.begin(o.Vaults, tenants)
	return e
}

// newSightings makes the part that finds the troubles of instances.
func (e *engine) newSightings(cfg *config.Config, journal sightRecords, aside keptRecords) *sightings {
	return &sightings{
		patience: e.patience, instances: e.instances, volumes: e.volumes, journal: journal, aside: aside, claimed: &e.claims.claimed,
		backupAge: cfg.Limits.BackupAge, keepReplaced: cfg.Prepare.KeepReplaced, reserve: reserveOf(cfg.Prepare),
	}
}

// instance is the job.Parts.Instance.
func (e *engine) instance(id string) (job.Instance, error) {
	in, err := e.instances.known(id)
	if err != nil {
		return job.Instance{}, err
	}
	return e.partsOf(in), nil
}

func (e *engine) partsOf(in *instance) job.Instance {
	return job.Instance{
		ID: in.cfg.ID, Tenant: in.cfg.Tenant, Policy: job.Policy(in.cfg.Release), Mode: job.Mode(in.cfg.Hold), Holds: in.runtime.Holds(),
		Runtime: runtimeOf(in.runtime, e.standing), Snapshots: snapshots{e.snapshots, in}, Keep: in.keep(),
	}
}

// recall is the job.Parts.Recall.
func (e *engine) recall(id string, kept json.RawMessage) (job.Instance, error) {
	in, err := e.instances.recall(id, kept)
	if err != nil {
		return job.Instance{}, err
	}
	return e.partsOf(in), nil
}
