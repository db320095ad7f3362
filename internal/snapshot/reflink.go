package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// reflink makes a clone of an image file that shares its blocks (FICLONE).
//
// The kernel guarantees (fs/remap_range.c and the file systems): the call holds the
// locks that writes of the image take, and before it remaps it writes out the image's
// dirty pages, so the clone is the image as it was at one instant, even if its instance
// runs on. The guarantee does not cover two images: for several volumes at one instant
// the instance is held. The clone has no name until it is whole and on the disk
// (O_TMPFILE, then a link), so a crash leaves either all of it or nothing.
//
// The mark by which we recognize our clones is an extended attribute that holds the clone's
// name: neither a copy under another name nor a file that someone put there has it.
type reflink struct{}

// markAttr is on every clone; FICLONE copies no attributes, so an image never has it.
const markAttr = "user.holdfast.snapshot"

func (reflink) Name() string { return NameReflink }

func (reflink) InPlace() bool { return false }

func (reflink) Fits(_ context.Context, req Request) (string, error) {
	if _, err := checkVolume(req.Volume); err != nil {
		return "", err
	}
	at, err := locateImage(req)
	if err == nil {
		err = checkFolder(at.folder)
	}
	if err == nil {
		err = at.tryClone()
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is an image on %s, which shares blocks between files; clones go to %s", req.Volume, at.fs, at.folder), nil
}

func (reflink) Costs(Kind) Costs {
	return Costs{
		Hold:    "while the image is cloned: 0.1 to 0.3 seconds per ten thousand extents, and the time to write out what is not yet on the disk",
		Space:   "what is overwritten in the image while the clone stands",
		Changes: "changed ranges by comparing where the blocks of two clones lie",
		Limits:  []string{"an image alone, no folder", "the first write to each block after a clone costs a new block: the image gets more fragmented"},
	}
}

// imagePlace has the paths of an image and of its clones.
type imagePlace struct {
	real   string // the image without symbolic links
	fs     string // the kind of its file system
	home   string // the folder that holds folder
	folder string // the snapshot folder; need not exist
}

func locateImage(req Request) (*imagePlace, error) {
	real, err := filepath.EvalSymlinks(req.Volume)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, err)
	}
	st, err := os.Stat(real)
	switch {
	case err != nil:
		return nil, fmt.Errorf("volume %s: %w", req.Volume, err)
	case st.IsDir():
		return nil, unsupported("%s is a folder, no image", req.Volume)
	case !st.Mode().IsRegular():
		return nil, unsupported("%s is a device, no file", req.Volume)
	}
	at := &imagePlace{real: real}
	if at.fs, err = fsKind(real); err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, err)
	}
	if at.home, err = snapshotHome(real, req.Dir); err != nil {
		return nil, err
	}
	at.folder = filepath.Join(at.home, SnapshotFolder)
	return at, nil
}

// tryClone finds out whether the image can be cloned into its folder, by cloning it into a
// file without a name: no table of file systems knows whether one was made with or without
// shared blocks. An image that is larger than a quick clone is tried with its first block.
func (at *imagePlace) tryClone() error {
	src, err := os.Open(at.real)
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	defer src.Close()
	tmp, err := openUnnamed(at.home)
	if err != nil {
		return unsupported("%s, where the clones of %s would go, can't be written: %v", at.home, at.real, err)
	}
	defer tmp.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(tmp.Fd()), &st); err != nil {
		return fmt.Errorf("block size at %s: %w", at.home, err)
	}
	info, err := src.Stat()
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	args := unix.FileCloneRange{Src_fd: int64(src.Fd()), Src_length: uint64(st.Bsize)}
	if info.Size() <= st.Bsize {
		args.Src_length = 0 // to the end
	}
	switch err := unix.IoctlFileCloneRange(int(tmp.Fd()), &args); {
	case errors.Is(err, unix.EXDEV):
		return unsupported("%s, where the clones of %s would go, is on another file system", at.home, at.real)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.ETXTBSY):
		return unsupported("%s lies on %s and can't be cloned there: %v", at.real, at.fs, err)
	case err != nil:
		return fmt.Errorf("try to clone %s: %w", at.real, err)
	}
	return nil
}

// openUnnamed opens a new file that has no name yet, on the file system of dir.
func openUnnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func (reflink) Plan(_ context.Context, req Request) (Ref, error) {
	_, ref, err := planImage(req)
	return ref, err
}

func planImage(req Request) (*imagePlace, Ref, error) {
	name, _, err := checkRequest(req)
	if err != nil {
		return nil, Ref{}, err
	}
	at, err := locateImage(req)
	if err != nil {
		return nil, Ref{}, err
	}
	return at, Ref{Provider: NameReflink, Path: filepath.Join(at.folder, name), Volume: req.Volume}, nil
}

// Create flushes the image first, so that a disk which is full or
// broken shows as an error of its own.
func (reflink) Create(ctx context.Context, req Request) (*Snapshot, error) {
	at, ref, err := planImage(req)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Snapshot, error) {
		return nil, fmt.Errorf("clone %s of %s: %w", ref.Path, req.Volume, err)
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	src, err := os.Open(at.real)
	if err != nil {
		return fail(err)
	}
	defer src.Close()
	unflushed := FlushStacked(ctx, at.real)
	if err := src.Sync(); err != nil {
		return fail(fmt.Errorf("flush the image: %w", err))
	}
	if err := makeIn(at.folder, func(dir *os.File) error { return cloneTo(dir, src, filepath.Base(ref.Path)) }); err != nil {
		return fail(err)
	}
	return &Snapshot{Ref: ref, Kind: Image, Image: ref.Path, Unflushed: unflushed}, nil
}

// cloneTo makes the clone of src in dir, marks it, and gives it its name last.
func cloneTo(dir, src *os.File, name string) error {
	// Through the open folder: another one may have been put in its place by name.
	tmp, err := openUnnamed("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())))
	if err != nil {
		return err
	}
	defer tmp.Close()
	if err := unix.Fsetxattr(int(tmp.Fd()), markAttr, []byte(name), 0); err != nil {
		return fmt.Errorf("mark it: %w", err)
	}
	if err := unix.IoctlFileClone(int(tmp.Fd()), int(src.Fd())); err != nil {
		return explain(err)
	}
	if err := tmp.Sync(); err != nil {
		return fmt.Errorf("flush it: %w", err)
	}
	if err := unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(tmp.Fd())), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return errors.Join(fmt.Errorf("flush its folder: %w", err), unix.Unlinkat(int(dir.Fd()), name, 0))
	}
	return nil
}

// openClone opens the clone name in dir; fs.ErrNotExist, or ErrForeign with a
// description of the object.
func openClone(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: a symbolic link", ErrForeign)
	case err != nil:
		return nil, err
	}
	f := os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name))
	if err := checkClone(f, name); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func checkClone(f *os.File, name string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%w: no regular file", ErrForeign)
	}
	mark := make([]byte, 256)
	n, err := unix.Fgetxattr(int(f.Fd()), markAttr, mark)
	if err != nil || string(mark[:n]) != name {
		return fmt.Errorf("%w: a file without the mark of a snapshot", ErrForeign)
	}
	return nil
}

func isClone(dir *os.File, name string) error {
	f, err := openClone(dir, name)
	if err != nil {
		return err
	}
	return f.Close()
}

func (reflink) Stands(ctx context.Context, ref Ref) (bool, error) {
	if err := checkRef(ctx, "look at", NameReflink, ref); err != nil {
		return false, err
	}
	return standsIn("look at", ref, isClone)
}

// Check implements Checker.
func (p reflink) Check(ctx context.Context, ref Ref) error { return checkStands(ctx, p, ref) }

func (reflink) Comparable(volume string) (bool, error) {
	_, err := checkVolume(volume)
	return err == nil, err
}

// Changed compares the extents of two clones; see ChangedRanges. The comparison needs
// no trust in the base's history: blocks that both share are equal, after any change to
// either. The mark proves that the base is the clone that was made under this name.
func (reflink) Changed(ctx context.Context, base Base, now *Snapshot) (*Changes, error) {
	for _, ref := range []Ref{base.Ref, now.Ref} {
		if err := checkRef(ctx, "compare", NameReflink, ref); err != nil {
			return nil, err
		}
	}
	doubt := func(why any) error {
		return fmt.Errorf("compare %s with %s: %w: %v", now.Ref.Path, base.Path, ErrBase, why)
	}
	if base.Volume != now.Ref.Volume {
		return nil, doubt("it is of another volume, " + base.Volume)
	}
	if base.Ref == now.Ref {
		return nil, doubt("it is the view itself")
	}
	var files [2]*os.File
	for i, ref := range []Ref{base.Ref, now.Ref} {
		dir, name, err := openHolder("open", ref)
		if err != nil {
			return nil, doubt(err)
		}
		files[i], err = openClone(dir, name)
		dir.Close()
		if err != nil {
			return nil, doubt(err)
		}
		defer files[i].Close()
	}
	ranges, exact, err := ChangedRanges(files[0], files[1])
	if err != nil {
		return nil, err
	}
	return ImageChanges(ranges, exact), nil
}

func (reflink) Room(ctx context.Context, req Request) (free, total int64, err error) {
	return folderRoom(ctx, req)
}

// Remove is not flushed: after a power loss the clone may be there again, and Leftovers finds it.
func (reflink) Remove(ctx context.Context, ref Ref) error {
	if err := checkRef(ctx, "remove", NameReflink, ref); err != nil {
		return err
	}
	return removeIn(ref, isClone, func(dir *os.File, name string) error { return unix.Unlinkat(int(dir.Fd()), name, 0) })
}

func (reflink) Leftovers(ctx context.Context, req Request) ([]Ref, error) {
	return leftoversIn(ctx, req, NameReflink, isClone)
}
