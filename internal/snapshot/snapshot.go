// Package snapshot makes local, read-only, point-in-time views of volumes, lists the
// changes since an earlier view, and removes the views again.
//
// A volume is a tree (a folder) or an image (a regular file that is a raw disk, or a
// block device). The storage of the volume decides the provider:
//
//   - btrfs: a snapshot of the subvolume that contains the tree or image. The file system's
//     own trees list the changed files and ranges.
//   - reflink: a clone of an image file that shares its blocks, on any file system with
//     FICLONE (xfs, btrfs, …). Its time grows with the extents of the image. The extents of
//     two clones give the changed ranges.
//   - lvm-thin, lvm-classic: a snapshot of the logical volume that is the image, or that holds
//     a tree or an image file (ext4, xfs), mounted below MountFolder. The pool lists the
//     changed blocks of thin devices.
//   - freeze: no snapshot. The file system is flushed and the volume read in place, while the
//     instance is held by its runtime driver.
//   - fsfreeze: as freeze, and the file system of the volume, which must be the volume's own,
//     is frozen (FIFREEZE) until the view is removed. Only on request.
//
// The state machine of a job (agent/job) calls the package through agent/engine, and
// so does the CLI. The package starts no goroutine and never logs. It keeps no state
// between calls, except that fsfreeze has one child process per frozen file system,
// which thaws it when this process ends in any way.
//
// A crash leaves a snapshot in a folder named SnapshotFolder or in a volume group, or
// the mark of a freeze. Each has the host's and the job's id in its name, is found by
// Leftovers and removed by Remove. The package never touches foreign objects.
//
// # Base snapshots
//
// A base is a snapshot that is kept after its job: the state that a backup or a restore
// left, with which the next backup compares, where Comparable says that it can. Nothing
// on the disk tells a base from another snapshot: it keeps the name of the job that
// made it, and Leftovers lists it. Only the caller's journal knows which Ref is a base,
// and of which backup; a snapshot that the journal does not name is a leftover, so a
// lost journal costs bases and never leaks them. Changed takes a base and answers
// ErrBase whenever it can't vouch for the comparison: the caller then reads everything.
package snapshot

import (
	"context"
	"errors"
	"time"
)

// Errors that a caller decides on. They come wrapped, with the path and the cause.
var (
	// ErrUsage says that a request is malformed: a path that is not
	// absolute, a part of the name that is empty, too long or holds
	// other bytes than [A-Za-z0-9._-], a reference of another provider.
	ErrUsage = errors.New("not usable")
	// ErrNested says that the volume holds a mount point, which would
	// be an empty folder in a snapshot, so none is made.
	ErrNested = errors.New("volume holds another file system")
	// ErrUnsupported says that the volume lies on something that this
	// provider can't make a snapshot of.
	ErrUnsupported = errors.New("no snapshot possible")
	// ErrForeign says that a path that should have been removed is not a snapshot made here.
	ErrForeign = errors.New("not a snapshot of this program")
	// ErrExists says that the name of the planned snapshot is taken.
	ErrExists = errors.New("snapshot exists")
	// ErrBase says that a view can't be compared with that base: it is gone, is not ours,
	// is of another volume, or there is a doubt. The caller reads the volume in full.
	ErrBase = errors.New("base snapshot can't be used")
)

// Kind is the form of a volume.
type Kind string

// The forms of volumes.
const (
	Tree  Kind = "tree"  // a folder with all that is in it
	Image Kind = "image" // the content of one regular file or block device
)

// Request names the volume of a snapshot and the owner of the snapshot.
type Request struct {
	Volume string // absolute path of the folder, file or block device; links are followed
	Host   string // id of this host
	Job    string // id of the job
	Name   string // name of the volume inside its instance
	// Dir is the folder in which SnapshotFolder is made; empty: the folder that
	// holds the volume. It must lie on the volume's file system and outside of
	// the volume. Providers that make nothing in a folder do not look at it.
	Dir string
	// Spare lists paths whose file systems fsfreeze refuses to freeze, also where those paths
	// lie on images or mappings that rest on such a file system: the caller's journal, state,
	// store and logs. A program that writes to a file system that it froze waits for itself.
	Spare []string
	// FreezeLimit is the time after which fsfreeze thaws the file system, even if a
	// view still needs the freeze; 0: no limit.
	FreezeLimit time.Duration
}

// Ref names one snapshot, also a snapshot that is not made yet. It is plain data for a journal.
type Ref struct {
	Provider string `json:"provider"`
	// of the snapshot, or of the object that marks it; empty where the provider makes none
	Path   string `json:"path,omitempty"`
	Volume string `json:"volume"` // as in the Request
}

// Snapshot is a view that can be read until it is removed.
type Snapshot struct {
	Ref  Ref
	Kind Kind
	// Root is the tree to read, Image the file or block device; the other
	// one is empty. Where nothing is made, it is the volume itself.
	Root, Image string
	// Ino is the inode number of Image where it is the volume's own, as on btrfs. An
	// image with another number is another file, so a base of this one tells nothing
	// about its changes. 0: Changed finds out by itself.
	Ino uint64
	// NeedsHold is true when the volume itself is read: the instance must stay held from before
	// Create until the last byte is read, else the view is of no point in time.
	NeedsHold bool
	// Unflushed has a sentence for each object on the volume, such as a mounted image, that could
	// not be flushed before the view was made: data written there may be missing in the view.
	Unflushed []string
}

// Base is an earlier view that later ones are compared with.
type Base struct {
	Ref
	Ino uint64 // as Snapshot.Ino
}

// Base is the part of s to keep, so that later views can be compared with it.
func (s *Snapshot) Base() Base { return Base{Ref: s.Ref, Ino: s.Ino} }

// Provider makes snapshots in one way. All methods may be called at the same time from any number
// of goroutines, also for the same volume. None changes the content of the volume.
type Provider interface {
	// Name is the provider's name in Ref.Provider.
	Name() string

	// InPlace tells whether the views are the volumes themselves, so that the
	// instance must stay held while one is read (see Snapshot.NeedsHold).
	InPlace() bool

	// Fits says in one line, for a person, why this provider can serve Request.Volume
	// and Request.Dir, and where its snapshots go. An error that wraps ErrUnsupported
	// or ErrNested says why it can't; another one says that this could not be found
	// out. It changes nothing. Host, Job and Name are not looked at.
	Fits(context.Context, Request) (string, error)

	// Costs lists the costs and the limits of a view, for volumes that Fits.
	Costs(Kind) Costs

	// Plan names the snapshot that Create would make, and makes nothing: the caller writes
	// the Ref to its journal first, so that a crash during Create leaves nothing unknown.
	Plan(context.Context, Request) (Ref, error)

	// Create makes the view. When it returns nil, the view holds all data that was written to
	// the volume, or to a file system mounted or stacked on it, before the call, synced or
	// not (except the data that Snapshot.Unflushed names), and no data that is written to the
	// volume later (as long as the instance is held, if NeedsHold). After an error nothing is
	// left; after a crash at most the objects that Plan named. An existing name is ErrExists.
	Create(context.Context, Request) (*Snapshot, error)

	// Stands reports whether the snapshot of a Ref can still be read: a job that goes on
	// after a restart asks before it trusts its journal. A snapshot is made in one step, so
	// a snapshot that exists is whole. Where the volume is read in place, Stands is true
	// when the volume is there; it does not know whether the instance was held all the time.
	Stands(context.Context, Ref) (bool, error)

	// Comparable reports whether Changed finds the changes between two snapshots of the
	// volume, so that a snapshot is worth keeping as a base. It changes nothing.
	Comparable(volume string) (bool, error)

	// Changed lists the places that may differ between base, an earlier view of the same volume,
	// and now. Both must stand until Close of the Changes. The answer is a superset: every place
	// outside it is equal. ErrBase says that there is no answer, and why; Changed never guesses.
	Changed(ctx context.Context, base Base, now *Snapshot) (*Changes, error)

	// Room tells how much space, in bytes, is free and in all on the storage of the
	// snapshots of Request.Volume and Request.Dir: a snapshot that is kept costs as
	// much space as programs write to the volume meanwhile.
	Room(context.Context, Request) (free, total int64, err error)

	// Remove removes the snapshot of the Ref, and its folder once that is empty. Nil
	// when the snapshot is gone already. Remove leaves a path that is anything but a
	// snapshot of this program, with ErrForeign.
	Remove(context.Context, Ref) error

	// Leftovers lists the snapshots of Request.Host in the place used for
	// Request.Volume and Request.Dir; Job and Name are not looked at. Volumes
	// that lie side by side share that place, so the list can hold snapshots that
	// a live job of a neighbour uses, and bases: the caller asks its journal.
	Leftovers(context.Context, Request) ([]Ref, error)
}

// Costs describes the costs of one provider's views for a person. Each text is one line.
type Costs struct {
	Hold  string `json:"hold"`  // for how long the instance is held
	Space string `json:"space"` // the space that a view takes on the disk while it stands
	// how the next backup finds the changes since a base; empty where no base can be
	// kept (Provider.Comparable is the answer for a program)
	Changes string `json:"changes"`
	// the content that a view lacks, and its other limits
	Limits []string `json:"limits,omitempty"`
}
