package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// btrfs makes read-only snapshots of the subvolume that contains a volume: a folder or
// an image file. For an image a snapshot is quicker than a clone, because the time of a
// clone grows with the extents, and the extents grow with every write.
//
// The kernel's call guarantees (fs/btrfs/ioctl.c, btrfs_mksnapshot): before it makes the
// snapshot, it writes out all delayed data of the subvolume and waits for it, and when it
// returns, the transaction that holds the snapshot is committed. So the snapshot holds all data
// that was written before the call, also data that no program synced, and the snapshot outlives a
// power loss; no sync before or after is needed. Data that an instance writes while the call runs
// may be in it or not, and of two such writes to two files the later one alone: only fsynced
// writes keep their order. An instance that is held during the call makes no such writes.
type btrfs struct{}

func (btrfs) Name() string { return NameBtrfs }

func (btrfs) InPlace() bool { return false }

func (btrfs) Fits(_ context.Context, req Request) (string, error) {
	if _, err := checkVolume(req.Volume); err != nil {
		return "", err
	}
	at, err := locate(req.Volume, req.Dir)
	if err == nil {
		err = at.usable()
	}
	if err != nil {
		return "", err
	}
	return at.describe(), nil
}

func (btrfs) Costs(kind Kind) Costs {
	c := Costs{
		Hold:    "while the snapshot is made: some milliseconds, and the time to write out what is not yet on the disk",
		Space:   "what is overwritten or deleted in the whole subvolume while the snapshot stands",
		Changes: "changed files by the generation of the file system's trees, changed ranges of files by their extents",
		Limits: []string{
			"mount points inside the volume would be empty: with one of them, no snapshot is made",
			"subvolumes inside the volume get snapshots of their own, one after the other; with them no base can be kept, and a restore makes folders of them",
		},
	}
	if kind == Image {
		c.Changes, c.Limits = "changed ranges by the extents of the image", nil
	}
	return c
}

func (btrfs) Plan(_ context.Context, req Request) (Ref, error) {
	_, ref, err := plan(req)
	return ref, err
}

func plan(req Request) (*place, Ref, error) {
	name, _, err := checkRequest(req)
	if err != nil {
		return nil, Ref{}, err
	}
	at, err := locate(req.Volume, req.Dir)
	if err != nil {
		return nil, Ref{}, err
	}
	return at, Ref{Provider: NameBtrfs, Path: filepath.Join(at.folder, name), Volume: req.Volume}, nil
}

func (btrfs) Create(ctx context.Context, req Request) (*Snapshot, error) {
	at, ref, err := plan(req)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Snapshot, error) {
		return nil, fmt.Errorf("snapshot %s of %s: %w", ref.Path, req.Volume, err)
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	if err := at.usable(); err != nil {
		return nil, err
	}
	unflushed := FlushStacked(ctx, at.real)
	var snap *Snapshot
	for range nestedTries {
		if snap, err = at.snap(ref); !errors.Is(err, errMoved) {
			break
		}
	}
	if err != nil {
		return fail(err)
	}
	snap.Unflushed = unflushed
	return snap, nil
}

// snap makes the snapshots of the volume and of the subvolumes inside. After an error
// no part of them is left.
func (at *place) snap(ref Ref) (*Snapshot, error) {
	source, err := os.Open(at.root)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	before, err := at.subvolumes(source)
	if err != nil {
		return nil, err
	}
	if err := makeIn(at.folder, func(dir *os.File) error { return snapCreate(dir, source, filepath.Base(ref.Path)) }); err != nil {
		return nil, explain(err)
	}
	fail := func(err error) (*Snapshot, error) { return nil, errors.Join(err, removeBtrfs(ref)) }
	dir, err := openFolder(at.folder, false)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	if err := at.snapNested(dir, source, filepath.Base(ref.Path), before); err != nil {
		return fail(err)
	}
	snap, view := &Snapshot{Ref: ref}, filepath.Join(ref.Path, at.rel)
	if snap.Kind, snap.Root = Tree, view; at.image {
		snap.Kind, snap.Root, snap.Image = Image, "", view
	}
	// Inode numbers are the same in a snapshot: another number means another object
	// than the volume. A second look finds mounts and subvolumes that appeared in the
	// volume between the first look and the call.
	ino, err := at.same(view)
	if err := errors.Join(err, at.nested()); err != nil {
		return fail(err)
	}
	if at.image {
		snap.Ino = ino
	}
	after, err := at.subvolumes(source)
	if err == nil && !maps.Equal(before, after) {
		err = errMoved
	}
	if err != nil {
		return fail(err)
	}
	return snap, nil
}

// explain adds a remedy to the kernel's answer.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ETXTBSY):
		return fmt.Errorf("%w (it is, or holds, an active swap file)", err)
	case errors.Is(err, unix.EDQUOT), errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w (no room for metadata, or a quota)", err)
	}
	return err
}

// same compares the object at path with the volume by inode number, which it returns.
func (at *place) same(path string) (ino uint64, err error) {
	var want, got unix.Stat_t
	if err := unix.Stat(at.real, &want); err != nil {
		return 0, fmt.Errorf("stat %s: %w", at.real, err)
	}
	if err := unix.Lstat(path, &got); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	if want.Ino != got.Ino {
		return 0, fmt.Errorf("volume %s was replaced while its snapshot was made", at.volume)
	}
	return got.Ino, nil
}

func (btrfs) Stands(ctx context.Context, ref Ref) (bool, error) {
	if err := checkRef(ctx, "look at", NameBtrfs, ref); err != nil {
		return false, err
	}
	stands, err := standsIn("look at", ref, isSnapshot)
	if err != nil || !stands {
		return false, err
	}
	dir, _, err := openHolder("look at", ref)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if stands, err = nestedStand(dir, ref); err != nil {
		err = fmt.Errorf("look at %s: %w", ref.Path, err)
	}
	return stands, err
}

// Check implements Checker.
func (p btrfs) Check(ctx context.Context, ref Ref) error { return checkStands(ctx, p, ref) }

// Remove flushes the folder of the snapshot. After a power loss before
// that the snapshot may be there again, and Leftovers finds it.
func (btrfs) Remove(ctx context.Context, ref Ref) error {
	if err := checkRef(ctx, "remove", NameBtrfs, ref); err != nil {
		return err
	}
	return removeBtrfs(ref)
}

func (btrfs) Room(ctx context.Context, req Request) (free, total int64, err error) {
	return folderRoom(ctx, req)
}

// Comparable is false for a tree with nested subvolumes: a comparison does not show their changes.
func (btrfs) Comparable(volume string) (bool, error) {
	kind, err := checkVolume(volume)
	if err != nil || kind != Tree {
		return err == nil, err
	}
	inside, err := holdsSubvolumes(volume)
	return err == nil && !inside, err
}

// Changed compares two snapshots of one subvolume by the generations and extents in its
// tree; compareTrees lists the conditions of a base. It reads the leaves that changed.
func (btrfs) Changed(ctx context.Context, base Base, now *Snapshot) (*Changes, error) {
	for _, ref := range []Ref{base.Ref, now.Ref} {
		if err := checkRef(ctx, "compare", NameBtrfs, ref); err != nil {
			return nil, err
		}
	}
	if base.Volume != now.Ref.Volume {
		return nil, fmt.Errorf("compare %s with %s: %w: it is of another volume, %s", now.Ref.Path, base.Path, ErrBase, base.Volume)
	}
	for _, ref := range []Ref{base.Ref, now.Ref} {
		// Inode numbers distinguish files within one subvolume, but not across subvolumes.
		if inside, err := Nested(ref); err != nil || len(inside) > 0 {
			return nil, fmt.Errorf("compare %s with %s: %w: %s holds further subvolumes (%v)", now.Ref.Path, base.Path, ErrBase, ref.Path, err)
		}
	}
	c, err := compareTrees(base.Ref, now.Ref)
	if err != nil || now.Kind != Image {
		return c, err
	}
	defer c.Close() // both folders were only read
	var st unix.Stat_t
	if err := unix.Lstat(now.Image, &st); err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w: %w", now.Image, base.Path, ErrBase, err)
	}
	// Another file may have been put in the place of the image. A file that is older than the
	// base is unchanged since the base, and yet it is not the file whose content is known.
	if base.Ino == 0 || st.Ino != base.Ino {
		return nil, fmt.Errorf("compare %s with %s: %w: the image is another file now", now.Image, base.Path, ErrBase)
	}
	if !c.Inode(st.Ino) {
		return ImageChanges(nil, true), nil
	}
	ranges, exact, err := c.File(st.Ino, st.Size)
	if err != nil {
		return nil, err
	}
	return ImageChanges(ranges, exact), nil
}

func removeBtrfs(ref Ref) error {
	dir, name, err := openHolder("remove", ref)
	if err == nil {
		defer dir.Close()
		if err = isSnapshot(dir, name); !errors.Is(err, ErrForeign) {
			if err := removeNested(dir, name); err != nil {
				return fmt.Errorf("remove %s: %w", ref.Path, err)
			}
		}
	}
	return removeIn(ref, isSnapshot, func(dir *os.File, name string) error {
		err := snapDestroy(dir, name)
		if err == nil && roomIsShort(dir) {
			// The space comes back when the kernel's cleaner has run after the next commit,
			// which may be half a minute away. BTRFS_IOC_SYNC commits in this thread and wakes
			// the cleaner. BTRFS_IOC_START_SYNC could wait out that half minute, and no signal
			// would end it, where the kernel's thread that commits is just about to sleep.
			_ = ioctl(dir, iocSync, nil)
		}
		return err
	})
}

// roomIsShort tells whether less than a quarter of the file system is free. Only then is
// it worth a commit of its own, for which everything that writes to the file system waits.
func roomIsShort(dir *os.File) bool {
	var st unix.Statfs_t
	err := unix.Fstatfs(int(dir.Fd()), &st)
	return err != nil || st.Bavail < st.Blocks/4
}

// openSnapshot opens the root of the read-only snapshot that ref names.
func openSnapshot(verb string, ref Ref) (*os.File, error) {
	dir, name, err := openHolder(verb, ref)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := openFolderIn(dir, name)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, ref.Path, err)
	}
	if err := checkSnapshot(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s %s: %w", verb, ref.Path, err)
	}
	return f, nil
}

// isSnapshot is nil when name in dir is the root of a read-only snapshot; else it is
// fs.ErrNotExist, or ErrForeign with a description of the object.
func isSnapshot(dir *os.File, name string) error {
	f, err := openFolderIn(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkSnapshot(f)
}

func openFolderIn(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: not a folder", ErrForeign)
	case err != nil:
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name)), nil
}

// checkSnapshot is nil when f is the root of a read-only snapshot, else ErrForeign with
// a description of f.
func checkSnapshot(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Ino != subvolIno {
		return fmt.Errorf("%w: a plain folder", ErrForeign)
	}
	if ro, err := isReadOnly(f); err != nil {
		return fmt.Errorf("%w: flags of the subvolume: %w", ErrForeign, err)
	} else if !ro {
		return fmt.Errorf("%w: a subvolume that can be written", ErrForeign)
	}
	info, err := getSubvolInfo(f)
	if err != nil {
		return fmt.Errorf("%w: facts of the subvolume: %w", ErrForeign, err)
	}
	if info.parentUUID == [16]byte{} {
		return fmt.Errorf("%w: a subvolume that is no snapshot", ErrForeign)
	}
	return nil
}

func (btrfs) Leftovers(ctx context.Context, req Request) ([]Ref, error) {
	// A crash may have left the snapshots of subvolumes inside, but no snapshot of the volume.
	return leftoversIn(ctx, req, NameBtrfs, func(dir *os.File, name string) error {
		err := isSnapshot(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			var f *os.File
			if f, err = openFolderIn(dir, name+nestedSuffix); err == nil {
				f.Close()
			}
		}
		return err
	})
}
