// Package snapshot makes local, read-only, point-in-time views of volumes and takes them away again.
//
// The state machine of a job (agent/job) calls it through package agent, and so does the CLI. It
// starts no goroutine, keeps no state between calls and never logs. A crash can leave a snapshot in
// a folder named SnapshotFolder: it carries the host's and the job's id in its name, is found by
// Leftovers and removed by Remove. What is not ours is never touched.
//
// Two providers exist: btrfs, which makes a snapshot in milliseconds, and freeze, which makes
// nothing and lets the volume be read in place while the instance is held.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// Errors that a caller decides on. They come wrapped, with the path and the cause.
var (
	// ErrUsage says that a request is malformed: a path that is not absolute, a part of the name that
	// is empty, too long or holds other bytes than [A-Za-z0-9._-], a reference of another provider.
	ErrUsage = errors.New("not usable")
	// ErrNested says that the volume holds a subvolume or a mount point. Both would be empty folders
	// in a snapshot, so none is made.
	ErrNested = errors.New("volume holds another file system or subvolume")
	// ErrUnsupported says that the volume lies on something that this provider can't make a snapshot of.
	ErrUnsupported = errors.New("no snapshot possible")
	// ErrForeign says that a path that should have been removed is not a snapshot made here.
	ErrForeign = errors.New("not a snapshot of this program")
	// ErrExists says that the name of the planned snapshot is taken.
	ErrExists = errors.New("snapshot exists")
)

// Request says of what to make a snapshot, and for whom.
type Request struct {
	Volume string // absolute path of the tree
	Host   string // id of this host
	Job    string // id of the job
	Name   string // name of the volume inside its instance
	// Dir is the folder in which SnapshotFolder is made; empty: the folder that holds the volume. It
	// must lie on the volume's file system and outside of the volume.
	Dir string
}

// Ref names one snapshot, also one that is not made yet. It is plain data for a journal.
type Ref struct {
	Provider string `json:"provider"`
	Path     string `json:"path,omitempty"` // of the snapshot; empty where the provider makes none
	Volume   string `json:"volume"`         // as in the Request
}

// Snapshot is a view that can be read until it is removed.
type Snapshot struct {
	Ref  Ref
	Root string // the tree to read: the volume as it was, or the volume itself
	// NeedsHold is true when Root is the volume itself: the instance must stay held from before
	// Create until the last byte is read, else the view is of no point in time.
	NeedsHold bool
}

// Provider makes snapshots in one way. All methods may be called at the same time from any number
// of goroutines, also for the same volume. None changes the content of the volume.
type Provider interface {
	// Name is what a Ref says in Provider.
	Name() string

	// Plan says what Create would make, and makes nothing: the caller writes the Ref to its journal
	// first, so that a crash during Create leaves nothing unknown.
	Plan(Request) (Ref, error)

	// Create makes the view. When it returns nil, everything is in it that was written to the volume
	// before the call, synced or not, and nothing written to the volume later shows in it
	// (as long as the instance is held, if NeedsHold). After an error nothing is left; after a crash
	// at most what Plan named. An existing name is ErrExists.
	Create(context.Context, Request) (*Snapshot, error)

	// Stands tells whether what Ref names can still be read: a job that goes on after a restart asks
	// before it trusts its journal. A snapshot is made in one step, so one that is there is whole. Where the
	// volume is read in place, it is true when the volume is there; whether it was held all the time is
	// not known here.
	Stands(context.Context, Ref) (bool, error)

	// Remove takes away what Ref names, and the folder that held it once that is empty. Nil when it
	// is gone already. A path that is anything but a snapshot made here is left, with ErrForeign.
	Remove(context.Context, Ref) error

	// Leftovers lists the snapshots of Request.Host in the folder used for Request.Volume and
	// Request.Dir; Job and Name are not looked at. Volumes that lie side by side share that folder, so
	// the list can hold snapshots that a live job of a neighbour uses: the caller asks its journal.
	Leftovers(context.Context, Request) ([]Ref, error)
}

// Names of the providers, and of the choice by what the volume lies on.
const (
	NameAuto   = "auto"
	NameBtrfs  = "btrfs"
	NameFreeze = "freeze"
)

// ByName gives a provider by the name that a Ref or a config carries.
func ByName(name string) (Provider, error) {
	switch name {
	case NameBtrfs:
		return btrfs{}, nil
	case NameFreeze:
		return freeze{}, nil
	}
	return nil, fmt.Errorf("snapshot provider %q: %w: known are %s and %s", name, ErrUsage, NameBtrfs, NameFreeze)
}

// Detect is DetectIn with snapshots beside the volume.
func Detect(volume, want string) (Provider, string, error) {
	return DetectIn(volume, "", want)
}

// DetectIn picks the provider for a volume whose snapshots go to dir (see Request.Dir). want is
// NameAuto (or empty) or the name of a provider. The string says in one line for a person why this
// one. A wanted provider that can't serve is an error; NameAuto falls back to freeze, which always can.
//
// A volume that holds a subvolume or a mount point is never given to btrfs: its snapshot would show
// an empty folder there, and the loss would be noticed at the restore. Read in place, the walk sees
// the border and reports it.
func DetectIn(volume, dir, want string) (Provider, string, error) {
	if err := checkVolume(volume); err != nil {
		return nil, "", err
	}
	if want == "" {
		want = NameAuto
	}
	switch want {
	case NameFreeze:
		return freeze{}, "asked for; the instance stays held while its volume is read", nil
	case NameAuto, NameBtrfs:
	default:
		_, err := ByName(want)
		return nil, "", fmt.Errorf("volume %s: %w", volume, err)
	}
	at, err := locate(volume, dir)
	if err == nil {
		err = at.usable()
	}
	switch {
	case err == nil:
		return btrfs{}, at.describe(), nil
	case want == NameBtrfs:
		return nil, "", err
	case errors.Is(err, ErrUnsupported), errors.Is(err, ErrNested):
		return freeze{}, fmt.Sprintf("%v; the instance stays held while its volume is read", err), nil
	}
	return nil, "", err
}

// checkVolume refuses what no provider takes. It looks at the path's form and at what is there.
func checkVolume(volume string) error {
	if !filepath.IsAbs(volume) {
		return fmt.Errorf("volume %q: %w: not an absolute path", volume, ErrUsage)
	}
	st, err := statFolder(volume)
	if err != nil {
		return fmt.Errorf("volume %s: %w", volume, err)
	}
	if !st {
		return fmt.Errorf("volume %s: %w: not a folder", volume, ErrUsage)
	}
	return nil
}
