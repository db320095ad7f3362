package job

import (
	"context"
	"errors"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
)

// RestoreRequest is the work of the engine for one restore.
type RestoreRequest struct {
	Instance, Tenant string
	Backup           string
	// Seq and Vault belong to the backup.
	Seq    uint64
	Vault  string
	Places []model.Place
	// Progress takes figures as they grow; it may be called from any goroutine.
	Progress func(model.Progress)
}

// Restorer brings the volumes of instances back. Its methods may be called from any goroutine.
type Restorer interface {
	Keeper
	// Look tells the state of each volume, in the order of the configuration. known is the backup
	// that the journal has of them. It changes nothing.
	Look(ctx context.Context, instance, tenant string, known model.Content) ([]prepare.VolumeFacts, error)
	// Newest names the newest backup; ErrNoBackup.
	Newest(ctx context.Context, instance, tenant string) (model.Content, error)
	// Mark puts the mark of the backup of a job on each folder or file that was backed up, at the
	// path that the journal has, and tells which volumes bear it. With an error the other ones do
	// not. Another folder that lies at the path by now gets no mark.
	Mark(ctx context.Context, j *model.Job, c model.Content) (marked map[string]bool, err error)
	// Backup names the backup of that id; ErrNoBackup.
	Backup(ctx context.Context, instance, tenant, id string) (model.Content, error)
	// Plan names the places of all volumes and changes nothing. An
	// error says why one can't be restored to its place.
	Plan(ctx context.Context, instance, job string) ([]model.Place, error)
	// Restore builds the tree of each place at its stage. It returns nil when all are
	// complete and durable, and the places then with Tree. When ctx ends it returns
	// soon, with nothing running. Discard removes the remains of a failed Restore.
	Restore(ctx context.Context, r RestoreRequest) (*model.RestoreResult, []model.Place, error)
	// Placed tells whether the restored tree is in its place.
	Placed(p model.Place) (bool, error)
	// Put puts it there, in one step; the old content
	// is at the stage then. Done twice it is no error.
	Put(p model.Place) error
	// Back undoes Put, in one step. Done twice it is no error.
	Back(p model.Place) error
	// Discard removes the content of the stage, and the remains of an interrupted Restore:
	// the tree Old where that is known, else Tree where that is. Nothing there is no error.
	Discard(p model.Place) error
}

// Keeper is the part of a Restorer about the content that restores replace. Its methods may be
// called from any goroutine.
type Keeper interface {
	// Count looks at a path of a place: its Target, Stage or Aside. The identity is ""
	// where nothing is. It follows no link and takes a bounded time.
	Count(ctx context.Context, p model.Place, path string) (identity string, found model.Count, err error)
	// SetAside renames the tree Old from the stage to Aside, in one step, and TakeOut from the
	// target; Return brings that tree from Aside back to an empty target. Done twice they are no
	// error.
	SetAside(p model.Place) error
	TakeOut(p model.Place) error
	Return(p model.Place) error
	// LiesAside tells where the tree Old is, at Aside or at the stage; "" where it is at neither.
	LiesAside(p model.Place) (path string, err error)
	// Note puts a note on the tree at a path of a place, durable when it returns nil: of the tree
	// Old alone, where that is known. It does nothing where nothing is, and where the storage
	// keeps no notes. NoteOn returns the note that was put on that very tree; nil: there is none.
	Note(p model.Place, path string, n model.KeptNote) error
	NoteOn(p model.Place, path string) (*model.KeptNote, error)
	// FindKept lists the trees beside the places of all configured volumes that have the name of
	// kept content, or of a stage and a note. With an error it could not look at all places.
	FindKept(ctx context.Context) ([]model.FoundKept, error)
	// Room compares the needs of the backup with the free space around its volumes, to which the
	// content with these counts, by volume, is added. ErrRoom: it does not fit.
	Room(ctx context.Context, r RestoreRequest, freed map[string]model.Count) error
}

// ErrRoom says that there is too little room for a restore.
var ErrRoom = errors.New("the restore does not fit")
