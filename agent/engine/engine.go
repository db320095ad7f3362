// Package engine connects the jobs of agent/job with the parts that do the work: drivers of
// instances (agent/runtime), snapshots, backups, restores and vaults.
//
// Each adapter has a type of its own, which holds the parts that it needs and no others: an
// Instance has its driver, a snapshotter makes snapshots, Vaults opens the vault of each tenant,
// backups and restores run the two engines, and Claims keeps the claims of this host. New connects
// them once. Every way to an instance, a snapshot, a tree of a restore or an object of the store
// asks Standing first, so that an agent whose state folder may be a copy does nothing. Every call
// on storage that may not answer has a time (patience.go).
package engine

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/backup"
)

// records are the records of the journal that the parts of the engine read, each a few of them.
type records interface {
	instanceRecords
	volumeRecords
	lossRecords
	claimRecords
	Kept() ([]model.Aside, error)
	Up() time.Duration // by the journal's clock
}

// Options are the parts that an engine connects.
type Options struct {
	Log       *slog.Logger
	Config    *config.Config
	Self      Self
	Shared    bool // see snapshotter.shared
	Standing  *Standing
	Looks     *Looks
	Journal   records
	Pool      *backup.Pool
	Instances *Instances
	Vaults    *Vaults
	Signing   *Signing
	Counters  counters
	Observer  job.Observer
	Releases  <-chan struct{} // see Claims.releases
}

// Engine has the parts by which jobs act on instances, snapshots, vaults and volumes, and by which
// others look at these.
type Engine struct {
	Instances *Instances
	Volumes   *Volumes
	Views     *VolumeViews
	Vaults    *Vaults
	Losses    *Losses
	Claims    *Claims

	standing  *Standing
	patience  *patience
	snapshots *snapshotter
	backups   *backups
	restores  restores
	receipts  receipts
}

// New connects the parts. Nothing acts before it is called.
func New(o Options) *Engine {
	cfg, waits := o.Config, &patience{}
	e := &Engine{Instances: o.Instances, Vaults: o.Vaults, standing: o.Standing, patience: waits}
	e.Volumes = &Volumes{log: o.Log, patience: waits, journal: o.Journal, identity: o.Self.Identity.ID, check: cfg.CheckVolumes}
	e.Views = &VolumeViews{log: o.Log, patience: waits, instances: cfg.Instances}
	e.Losses = &Losses{vaults: o.Vaults, journal: o.Journal}
	e.snapshots = &snapshotter{
		log: o.Log, allowed: o.Standing.Allowed, patience: waits, pool: o.Pool, instances: o.Instances, lacked: o.Observer.Lacked,
		spare: spare(cfg), freezeLimit: cfg.Limits.FrozenDeadline, shared: o.Shared,
	}
	e.backups = &backups{
		log: o.Log, self: o.Self, allowed: o.Standing.Allowed, patience: waits, pool: o.Pool, instances: o.Instances, volumes: e.Volumes, vaults: o.Vaults,
		looks: o.Looks, snapshots: e.snapshots, counters: o.Counters, trouble: o.Observer.Trouble, compression: cfg.Compression,
		catalogues: Catalogues(cfg.StateDir), index: filepath.Join(cfg.StateDir, "index"), jobs: map[string]*backup.Job{},
	}
	e.Claims = &Claims{
		log: o.Log, self: o.Self, standing: o.Standing, patience: waits, instances: o.Instances, volumes: e.Volumes, vaults: o.Vaults, journal: o.Journal,
		silence: cfg.Prepare.ClaimSilence, releases: o.Releases,
	}
	e.restores = restores{
		log: o.Log, self: o.Self, standing: o.Standing, patience: waits, instances: o.Instances, volumes: e.Volumes, vaults: o.Vaults, losses: e.Losses,
		kept: o.Journal.Kept, keepsClaim: e.Claims.keepsClaim, reserve: reserveOf(cfg.Prepare), catalogues: Catalogues(cfg.StateDir),
		claimSilence: cfg.Prepare.ClaimSilence, inPlaceOrder: cfg.Prepare.InPlaceOrder,
	}
	e.receipts = receipts{self: o.Self, signing: o.Signing, store: o.Vaults.store.String(), up: o.Journal.Up}
	tenants := map[string]bool{}
	for _, in := range o.Instances.All() {
		tenants[in.cfg.Tenant] = true
	}
	o.Looks.Begin(o.Vaults, tenants)
	return e
}

// NewSightings makes the part that finds the troubles of instances.
func (e *Engine) NewSightings(cfg *config.Config, journal sightRecords, aside keptRecords) *Sightings {
	return &Sightings{
		patience: e.patience, instances: e.Instances, volumes: e.Volumes, journal: journal, aside: aside, claimed: &e.Claims.claimed,
		backupAge: cfg.Limits.BackupAge, keepReplaced: cfg.Prepare.KeepReplaced, reserve: reserveOf(cfg.Prepare),
	}
}

// Parts are the parts by which jobs act. The parts of others are nil.
func (e *Engine) Parts() job.Parts {
	return job.Parts{
		Instance: e.instance, Recall: e.recall, Leftovers: e.snapshots.leftovers, RemoveLeftover: e.snapshots.remove, Room: e.snapshots.room,
		Backuper: e.backups, Restorer: e.restores, Signer: e.receipts,
	}
}

// instance is the job.Parts.Instance.
func (e *Engine) instance(id string) (job.Instance, error) {
	in, err := e.Instances.known(id)
	if err != nil {
		return job.Instance{}, err
	}
	return e.partsOf(in), nil
}

func (e *Engine) partsOf(in *Instance) job.Instance {
	return job.Instance{
		ID: in.cfg.ID, Tenant: in.cfg.Tenant, Policy: model.Policy(in.cfg.Release), Mode: model.Mode(in.cfg.Hold), Holds: in.runtime.Holds(),
		Runtime: runtimeOf(in.runtime, e.standing), Snapshots: snapshots{e.snapshots, in}, Keep: in.keep(),
	}
}

// recall is the job.Parts.Recall.
func (e *Engine) recall(id string, kept json.RawMessage) (job.Instance, error) {
	in, err := e.Instances.Recall(id, kept)
	if err != nil {
		return job.Instance{}, err
	}
	return e.partsOf(in), nil
}
