// Package restore is the way from a backup to volumes: manifest,
// recipe, packs, and a tree built beside its place and renamed into it.
//
// The agent's jobs and the CLI call Run, which starts goroutines and waits for all of them. A crash
// leaves a folder named .NAME.holdfast-restore-… beside the destination, and the destination as it
// was; immutable files in that folder have to be made removable first (chattr -R -ia). A crash
// right after the rename may leave the root without its project id, or without being immutable.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/contain"
	"holdfast/internal/durable"
	"holdfast/internal/pulse"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Options say which backup is restored, and to where.
type Options struct {
	Vault *vault.Vault
	Ref   vault.BackupRef
	// Reader identifies this host in the session that keeps the backup in the vault meanwhile.
	Reader vault.SessionOptions
	// Dest is the folder that will hold the volume; with several volumes it
	// holds a folder for each. It must be absent or an empty folder, and its
	// parent must exist. An image becomes a file, which must be absent, or
	// is written onto Dest when that is a block device that is not in use.
	Dest string
	// Volume is the one to restore; "" is all.
	Volume string
	// Include keeps only entries that match one of these patterns (path.Match)
	// by their own path or by the path of a folder above them; empty keeps all.
	Include []string
	// Progress is called at most five times a second and once at the
	// end, one call at a time. Nil is allowed.
	Progress func(Progress)
	// Warn is told of each thing that is not exact, one call at a
	// time; Result lists the first thousand. Nil is allowed.
	Warn func(tree.Warning)
	// CatalogueDir is the folder of this host's catalogues (see
	// backup.Options), in which a restore leaves one, so that the next backup
	// of the restored tree reads only what changed since. "" leaves none.
	CatalogueDir string
	// Now is the wall clock, with which times of change are compared; nil: time.Now.
	Now func() time.Time
	// Trouble is told why no catalogue could be left. Nil is allowed.
	Trouble func(error)
	// Workers is how many requests are in flight; 0 is 8.
	Workers int
	// Reserve is the space that stays free on the file system of Dest: the
	// restore looks while it writes, and ends with a *RoomError before it
	// takes that space. Nil: nobody looks. A block device has its own room.
	Reserve *Reserve
	// Subvolume makes the folder of the volume a subvolume where its file
	// system has them, so that snapshots of it are cheap. It is for one volume.
	Subvolume bool
}

// Progress says how far a restore is.
type Progress struct {
	Entries, TotalEntries uint64
	// of content; with Include the totals belong to the whole backup
	Bytes, TotalBytes uint64
}

// Result describes a finished restore.
type Result struct {
	Backup       string         `json:"backup_id"`
	Instance     string         `json:"instance"`
	Entries      uint64         `json:"entries"`
	Files        uint64         `json:"files"`
	Dirs         uint64         `json:"dirs"`
	Bytes        uint64         `json:"bytes"`         // of content written
	BytesFetched uint64         `json:"bytes_fetched"` // of packs
	Warnings     []tree.Warning `json:"warnings"`      // differences from the backed-up state
	WarningCount int            `json:"warning_count"`
	// Losses are the losses of the backup that concern the restored part,
	// accepted ones too, as far as the manifest names them, and LossCount is how
	// many there are at most. The restore itself did all that the backup allows.
	Losses    []vault.Loss `json:"losses,omitempty"`
	LossCount uint64       `json:"loss_count"`
	// Catalogues has, by volume, the id of the catalogue that was left of
	// it, so that a snapshot of it can serve as a base of the next backup
	// (see known.Base). An image needs none, and has the id of the backup.
	Catalogues map[string]string `json:"-"`
}

// ErrTargetExists says that the destination holds something already.
var ErrTargetExists = errors.New("destination exists and is not an empty folder")

// ErrNothingIncluded says that no entry matched Include.
var ErrNothingIncluded = errors.New("nothing in the backup matches")

// workInfix stands in the names of folders in which trees are
// built, between the destination's name and a random part.
const workInfix = ".holdfast-restore-"

const (
	defaultWorkers = 8
	pulseEvery     = 200 * time.Millisecond // of Progress
)

type run struct {
	o        Options
	total    Progress
	counts   struct{ entries, files, dirs, bytes, fetched atomic.Uint64 }
	watch    *watch         // nil: nobody looks
	targets  []*tree.Target // of the volumes, open until the tree is in its place
	warnings tree.Collector
	res      Result
}

// Run restores a backup. When it returns nil, Dest holds it, durable; Result.Warnings has
// the metadata that could not be kept exactly, and Result.Losses the losses of the backup
// itself. After an error Dest is as it was (Invariant restore-exact), except a block device.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Workers <= 0 {
		o.Workers = defaultWorkers
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &run{o: o, res: Result{Backup: o.Ref.ID, Instance: o.Ref.Instance, Catalogues: map[string]string{}}}
	r.warnings.Tell = o.Warn
	folder := filepath.Dir(filepath.Clean(o.Dest))
	if o.Reserve != nil && !isDevice(o.Dest) {
		r.watch = &watch{folder: folder, volume: o.Volume, reserve: *o.Reserve}
	}
	if err := o.Vault.ReadUnder(ctx, o.Reader, vault.Reads(o.Ref.Instance, o.Ref.ID), r.all); err != nil {
		if r.watch != nil {
			err = full(err, o.Volume, folder, *o.Reserve)
		}
		return nil, fmt.Errorf("restore %s to %s: %w", o.Ref.Instance, o.Dest, err)
	}
	res := &r.res
	res.Warnings, res.WarningCount = r.warnings.Sum()
	res.Entries, res.Files, res.Dirs = r.counts.entries.Load(), r.counts.files.Load(), r.counts.dirs.Load()
	res.Bytes, res.BytesFetched = r.counts.bytes.Load(), r.counts.fetched.Load()
	return res, nil
}

func (r *run) all(ctx context.Context) (err error) {
	dest, err := filepath.Abs(r.o.Dest)
	if err != nil {
		return err
	}
	onDevice := isDevice(dest)
	if !onDevice {
		if err := checkDest(dest); err != nil {
			return err
		}
	}
	m, err := r.o.Vault.Manifest(ctx, r.o.Ref)
	if err != nil {
		return err
	}
	volumes := m.Volumes
	if r.o.Volume != "" {
		vol, err := m.Volume(r.o.Volume)
		if err != nil {
			return err
		}
		volumes = []vault.Volume{*vol}
	}
	for _, v := range volumes {
		if v.Kind != vault.KindTree && v.Kind != vault.KindImage {
			return fmt.Errorf("volume %s is of kind %q: %w", v.Name, v.Kind, vault.ErrNewer)
		}
		if err := vault.CheckInstance(v.Name); err != nil { // it becomes the name of a folder
			return fmt.Errorf("volume name %q in the manifest is not allowed", v.Name)
		}
		r.total.TotalEntries += v.Entries
		r.total.TotalBytes += v.Bytes
	}
	r.res.Losses, r.res.LossCount = r.losses(m, volumes)
	stop := r.tellProgress()
	defer stop()
	if onDevice {
		if err := r.device(ctx, volumes, dest); err != nil {
			return err
		}
		return r.leaveBaseline(ctx, &volumes[0], dest)
	}
	if len(volumes) == 1 && volumes[0].Kind == vault.KindImage {
		if _, err := os.Lstat(dest); err == nil {
			return fmt.Errorf("the backup is an image, which becomes a new file: %w", ErrTargetExists)
		}
	}

	work, err := os.MkdirTemp(filepath.Dir(dest), "."+filepath.Base(dest)+workInfix)
	if err != nil {
		return fmt.Errorf("make a folder beside the destination: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tree.Remove(work))
		}
	}()
	defer func() {
		for _, t := range r.targets {
			_ = t.Close() // nothing is written through it any more
		}
	}()
	var syncing contain.Group
	// before the targets close; where it counts, its error was returned below
	defer func() { _ = syncing.Wait() }()
	for i := range volumes {
		dir := filepath.Join(work, "volume")
		if len(volumes) > 1 {
			dir = filepath.Join(dir, volumes[i].Name)
		}
		if volumes[i].Kind == vault.KindImage {
			if len(r.o.Include) > 0 {
				continue // patterns are of paths in trees
			}
			if err := r.imageFile(ctx, &volumes[i], dir); err != nil {
				return fmt.Errorf("volume %s: %w", volumes[i].Name, err)
			}
			if err := r.leaveBaseline(ctx, &volumes[i], dir); err != nil {
				return err
			}
			r.res.Catalogues[volumes[i].Name] = r.o.Ref.ID
			continue
		}
		if err := r.makeFolder(dir); err != nil {
			return err
		}
		if err := r.volume(ctx, &volumes[i], dir); err != nil {
			return fmt.Errorf("volume %s: %w", volumes[i].Name, err)
		}
		// The disk has to do while the tree is read for its catalogue.
		syncing.Go(r.targets[len(r.targets)-1].Sync)
		if err := r.leaveBaseline(ctx, &volumes[i], dir); err != nil {
			return err
		}
	}
	if err := syncing.Wait(); err != nil {
		return err
	}
	if len(r.o.Include) > 0 && r.counts.entries.Load() == 0 {
		return fmt.Errorf("%w %q", ErrNothingIncluded, r.o.Include)
	}
	if len(volumes) > 1 {
		// An image syncs its content, and the sync of a tree may have come
		// before the image: their names are still to be made durable.
		if err := syncFolder(filepath.Join(work, "volume")); err != nil {
			return fmt.Errorf("sync the folder of the volumes: %w", err)
		}
	}
	// The destination was empty before the restore, which may have taken hours.
	err = moveNew(filepath.Join(work, "volume"), dest)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("put the restored tree into place: something was made there meanwhile: %w", ErrTargetExists)
	} else if err != nil {
		return fmt.Errorf("put the restored tree into place: %w", err)
	}
	// From here on the destination is the backup: what fails now must not undo it.
	for _, t := range r.targets {
		if serr := t.Seal(); serr != nil {
			r.warnings.Warn(tree.Warning{Path: "", What: "lacks flags or its project id: " + serr.Error()})
		}
	}
	if rerr := os.Remove(work); rerr != nil {
		r.warnings.Warn(tree.Warning{Path: work, What: "could not be removed: " + rerr.Error()})
	}
	if serr := syncFolder(filepath.Dir(dest)); serr != nil {
		r.warnings.Warn(tree.Warning{Path: dest, What: "is in place, but may not be after a power cut now: " + serr.Error()})
	}
	return nil
}

func (r *run) makeFolder(dir string) error {
	if r.o.Subvolume {
		return snapshot.MakeFolder(dir)
	}
	return os.MkdirAll(dir, 0o700)
}

func syncFolder(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return errors.Join(durable.SyncFolder(root, "."), root.Close())
}

// checkDest refuses a destination that holds something.
func checkDest(dest string) error {
	info, err := os.Lstat(dest)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(dest)); err != nil {
			return fmt.Errorf("folder of the destination: %w", err)
		}
		return nil
	} else if err != nil {
		return err
	}
	if !info.IsDir() {
		return ErrTargetExists
	}
	d, err := os.Open(dest)
	if err != nil {
		return err
	}
	defer d.Close() // only read
	if names, _ := d.Readdirnames(1); len(names) > 0 {
		return ErrTargetExists
	}
	return nil
}

// tellProgress calls Progress until the returned function is called, which makes the last call.
func (r *run) tellProgress() (stop func()) {
	if r.o.Progress == nil {
		return func() {}
	}
	tell := func() {
		p := r.total
		p.Entries, p.Bytes = r.counts.entries.Load(), r.counts.bytes.Load()
		r.o.Progress(p)
	}
	return pulse.Every(pulseEvery, tell)
}
