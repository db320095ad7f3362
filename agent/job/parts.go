package job

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"holdfast/agent/model"
)

// Runtime acts on one instance. Every method is idempotent, has a time-out of its own, and returns
// nil only when the outcome was seen.
type Runtime interface {
	State(ctx context.Context) (model.Sight, error)
	// Of returns the same for the one instance with that identity,
	// under any name; with "" for the instance that has the name.
	Of(id string) Runtime
	Freeze(ctx context.Context) error
	Thaw(ctx context.Context) error
	// Stop lets the instance end in its own way, within a time-out, and Start brings it back.
	Stop(ctx context.Context) error
	Start(ctx context.Context) error
	// PowerDown stops the instance. A frozen instance goes down without executing
	// another instruction. It does nothing, and returns an error, unless a look
	// right before its first act gives the sight held, of which an empty Work does
	// not count. An error without ErrBegun says that the instance is as it was.
	PowerDown(ctx context.Context, held *model.Sight) error
	// KeepDown keeps a stopped instance from being started by its engine when
	// the engine or the host restarts; ErrNoKeeping where that is not possible.
	KeepDown(ctx context.Context) error
}

// Errors of a Runtime by which a job decides.
var (
	// ErrNoKeeping says that the engine has no way to be told that an instance is to stay down.
	ErrNoKeeping = errors.New("the engine can't be told to keep it down")
)

// Snapshotter makes and removes snapshots of an instance's volumes.
type Snapshotter interface {
	// Plan names the snapshots that Create will make, one per volume.
	// It changes nothing on the host.
	Plan(ctx context.Context, job string) ([]model.Snapshot, error)
	// PlanRestored names snapshots of restored volumes that are still at the stages of their
	// places, to be bases, for volumes whose storage can compare with a base. It changes nothing
	// on the host. Beside an error the returned snapshots are good for the other volumes.
	PlanRestored(ctx context.Context, job string, places []model.Place) ([]model.Snapshot, error)
	// Create makes the planned snapshot and returns it with Root set.
	Create(ctx context.Context, job string, planned model.Snapshot) (model.Snapshot, error)
	// Instead names another snapshot of the same volume where the planned one could not be
	// made for that reason, and tells the consequences for the instance. False: there is
	// none, or the configuration insists on the planned one. It changes nothing on the host.
	Instead(ctx context.Context, job string, failed model.Snapshot, why error) (planned model.Snapshot, means string, ok bool)
	// Stands tells whether the snapshot is there, whole.
	Stands(ctx context.Context, s model.Snapshot) (bool, error)
	// Remove drops the snapshot; a missing snapshot is no error.
	Remove(ctx context.Context, ref model.Ref) error
}

// Source is one volume to back up.
type Source struct {
	Volume string // its name
	Root   string // path to read
	// path of the snapshot that Root is or lies in; "" when the volume itself is read
	View  string
	Taken time.Time // as in Snapshot
	// of the snapshot that Root is in; zero when the instance runs and the volume itself is read
	Ref model.Ref
	// Mounted and Clock are as in Snapshot.
	Mounted string
	Clock   int64
	// an earlier snapshot that the journal knows of; nil when there
	// is none. Whether it can serve, the engine finds out
	Base *model.Base
}

// BackupRequest is the work of the engine for one job.
type BackupRequest struct {
	Job, Task, Instance, Tenant string
	// Kept is Job.Kept: the backup is of the volumes that the job began with.
	Kept    json.RawMessage
	Sources []Source
	// Precopy asks for the content to be stored and remembered, but
	// for no backup: a later request finds the unchanged content.
	Precopy bool
	// Deadline is when the host is needed; zero when there is no haste.
	Deadline time.Time
	// Resume has the packs that earlier tries of this job may have stored, as PackIntent was told.
	Resume []string
	// PackIntent journals the id and the size of a pack; it is called
	// before the pack is sent, from any goroutine.
	PackIntent func(pack string) error
	// Content is the backup from which the volumes' content came, as far as the journal knows.
	Content model.Content
	// BackupIntent journals the id of the backup right before its manifest is written.
	BackupIntent func(id string) error
	// Sent is called, from any goroutine, when all content is in the
	// store, and the rest needs little of this host. Nil is allowed.
	Sent func()
	// Accept is asked when all content is in the store, right before the
	// manifest is written; with its error there is no backup. Nil is allowed.
	Accept func(ctx context.Context) error
	// Progress takes figures as they grow; it may be called from any goroutine.
	Progress func(model.Progress)
}

// Backuper runs the engine. A nil error means that every pack is confirmed,
// and, unless Precopy was asked for, that the manifest is stored, was read
// back and matches. When ctx ends it returns soon, with nothing running.
type Backuper interface {
	// Look tells, before anything is done to the instance, what keeps Backup from
	// making a backup: above all a volume that is not mounted. It reads no content.
	Look(ctx context.Context, instance, tenant string) error
	Backup(ctx context.Context, r BackupRequest) (*model.Result, error)
	// Present looks whether the stored backup of the job is still whole in the
	// store: that the vault can be opened, the manifest, and that all packs are
	// there. ErrBackupGone says that something is missing, and what; any other error
	// that the store could not be asked. It returns soon after the end of ctx.
	Present(ctx context.Context, j *model.Job) error
	// Over says that the job asks for nothing more, or begins anew:
	// what its rounds of pre-copy keep for the backup can go. It may
	// come more than once, and when ctx has ended it returns soon.
	Over(ctx context.Context, job string)
}

// Signer makes the receipt of a stored backup: a signed statement as JSON.
type Signer interface {
	Receipt(ctx context.Context, j *model.Job) (json.RawMessage, error)
}

// Instance is one instance of this host with the parts that act on it.
type Instance struct {
	ID, Tenant string
	Policy     model.Policy
	Mode       model.Mode // "" is ModeFrozen
	// Holds tells whether Runtime does anything. Without, the instance is never said to have been
	// frozen, and the frozen deadline does not count.
	Holds     bool
	Runtime   Runtime
	Snapshots Snapshotter
	// Keep is what Parts.Recall needs to make these parts again
	// without the configuration. It goes into the journal.
	Keep json.RawMessage
}

// Parts is the host as the Manager sees it. Its methods may be called from any goroutine.
type Parts struct {
	// Instance finds an instance by its id; ErrNotFound when the configuration does not have it.
	Instance func(id string) (Instance, error)
	// Recall finds the instance on which an unfinished job acts, from Instance.Keep
	// in the journal: by the configuration where that still names the same thing to
	// act on, and else by the journal's record. Nil: the configuration alone counts.
	Recall func(id string, kept json.RawMessage) (Instance, error)
	// Leftovers lists the snapshots of this agent on the host, also the snapshots of earlier lives.
	Leftovers func(ctx context.Context) ([]model.Ref, error)
	// RemoveLeftover removes one of those.
	RemoveLeftover func(ctx context.Context, ref model.Ref) error
	// Room tells how much space is free, and in all, where a base lies; nil: that is no rule.
	Room func(ctx context.Context, b model.Base) (free, total int64, err error)
	// Marks keeps notes of the held instances beside the journal; nil keeps none.
	Marks    Marks
	Backuper Backuper
	Store    Store    // nil: nobody tells whether the store answers
	Restorer Restorer // nil: restores are refused by failing
	Signer   Signer
	Observer Observer
}

// Observer is told what happens. Its methods are called from the goroutines of jobs, must not
// block, and may be called at the same time.
type Observer interface {
	// Changed is called after a state was journalled; from is empty for a job just accepted.
	Changed(j *model.Job, from model.State)
	// Progressed is called while uploading.
	Progressed(j *model.Job, p model.Progress)
	// Trouble is called when an act failed that will be tried again, or that needs a person.
	Trouble(instance, job, doing string, err error)
	// Lacked is called when something failed that the job goes on without.
	Lacked(instance, job, doing string, err error)
}

// Marks keeps a note of each instance that may be held, outside of the journal. When the journal is
// lost, the agent lets instances go by these notes. All methods may be called from any goroutine.
type Marks interface {
	// Set makes the note durable.
	Set(instance string, note []byte) error
	// Clear removes the note; a missing note is no error.
	Clear(instance string) error
	// List returns all notes by instance.
	List() (map[string][]byte, error)
}

// Store tells whether the store answers. Its methods may be called from any goroutine.
type Store interface {
	// Reach opens the tenant's vault and makes one cheap request. The error wraps ErrStoreAway
	// where another try may succeed without anybody's doing.
	Reach(ctx context.Context, tenant string) error
	// Silent is for how long the store has answered none of the requests of a kind that are still
	// made; 0 while it answers.
	Silent() time.Duration
}

// ErrStoreAway says that the store does not answer now.
var ErrStoreAway = errors.New("the store does not answer")
