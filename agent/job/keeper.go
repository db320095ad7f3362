package job

import (
	"context"
	"errors"

	"holdfast/agent/model"
)

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
