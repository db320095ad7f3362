package tree

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// WalkOptions tune a walk. The zero value is fine.
type WalkOptions struct {
	// Warn is told what could not be kept exact; nil drops it. It runs on the goroutine of the walk.
	Warn func(Warning)
	// NoXattrs leaves Xattrs of all entries nil, and Flags and Project 0: asking for them is half of a walk.
	NoXattrs bool
}

// Walk calls fn for the root of the tree and every entry below it: depth first, a folder before its
// content, names of a folder in the order of their bytes. fn runs on the caller's goroutine and may
// keep the entries. Flags and Project of files are left to Root.ReadFlags, as a walk opens none. If fn
// returns fs.SkipDir for a folder, what it holds is left out; any other error ends the walk and is
// returned as it is.
//
// Nothing outside the tree is read, whoever changes it meanwhile: folders are opened by name from the
// folder above, never through a link, and compared with what was there before. Mount points are given as the
// folders that they are, with a warning, and not entered. Nested btrfs subvolumes are folders like others; so is what Graft shows in
// the place of their stubs, and a stub without is a warning. A name that vanishes is a warning; a folder, link or
// attribute that can't be read is an error.
// At most maxOpen folders are open at once. Names of large folders, and first names of many hard links, wait in an
// unlinked temporary file (os.TempDir), so that memory does not grow with the tree but for some 85 bytes for each file
// of which some names were seen and others not yet.
func (r *Root) Walk(ctx context.Context, o WalkOptions, fn func(*Entry) error) error {
	return r.walk(ctx, &walker{warn: o.Warn, noXattrs: o.NoXattrs, fn: fn})
}

// walk runs w, of which options and fn are set.
func (r *Root) walk(ctx context.Context, w *walker) error {
	if r.closed.Load() {
		return pathError("walk", "", ErrClosed)
	}
	w.root, w.chain = r, chain{base: r.fd, root: r, flags: openDir | unix.O_NOATIME}
	w.dents = make([]byte, 128<<10)
	w.xattr, w.special = newXattrReader(r.noXattrs), r.kept.projects && !w.noXattrs
	if w.warn == nil {
		w.warn = func(Warning) {}
	}
	w.states.warn = w.warn
	defer w.chain.close()
	defer w.names.close()
	defer w.links.close()
	defer w.states.summarise()
	return w.run(ctx)
}

type walker struct {
	root  *Root
	fn    func(*Entry) error
	warn  func(Warning)
	chain chain
	names names // left in each folder of the chain
	links links
	dents []byte
	xattr *xattrReader

	noXattrs bool
	unseal   bool // take from all what keeps it from being removed, see Remove
	special  bool // flags of what is neither file nor folder can be read
	states   losses
	st       unix.Statx_t
}

func (w *walker) run(ctx context.Context) error {
	fd, err := openAt(w.root.fd, ".", openDir|unix.O_NOATIME, 0)
	if err != nil {
		return pathError("open", "", err)
	}
	if err := w.enter(cname{0}, fd); err != nil {
		return err
	}
	for w.names.depth() > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		name, err := w.names.next()
		if err != nil {
			return pathError("list", string(w.chain.path), err)
		}
		if name == nil {
			w.chain.pop()
			w.names.leave()
			continue
		}
		if err := w.visit(name); err != nil {
			return err
		}
	}
	return nil
}

// visit gives one name of the last folder of the chain.
func (w *walker) visit(name cname) error {
	dirfd, err := w.chain.fd()
	if err != nil {
		return w.lost(err)
	}
	// A name may become something else between two calls; a second look sees one state of it.
	for try := 0; ; try++ {
		if err := statName(dirfd, name, &w.st); err != nil {
			return w.gone("stat", name, err)
		}
		if w.unseal && w.st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0 {
			if err := unsealed(dirfd, name.String(), nil); err != nil {
				return pathError("make removable", w.chain.join(name), err)
			}
		}
		if w.st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = w.visitDir(dirfd, name, &w.st)
		} else {
			err = w.visitOther(dirfd, name, &w.st)
		}
		if err != errAgain {
			return err
		}
		if try == 4 {
			w.warn(Warning{Path: w.chain.join(name), What: "it kept changing into other kinds of file, left out", Lost: true})
			return nil
		}
	}
}

// lost tells that the last folder of the chain can't be opened again, and gives up what is left in it.
func (w *walker) lost(err error) error {
	path := string(w.chain.path)
	if !vanished(err) && !changed(err) {
		return pathError("open", path, err)
	}
	w.warn(Warning{Path: path, What: "it was moved or removed while it was read, the rest of it is left out", Lost: true})
	w.names.drop()
	return nil
}

// gone makes a warning of an error that means that name vanished.
func (w *walker) gone(op string, name cname, err error) error {
	path := w.chain.join(name)
	if !vanished(err) {
		return pathError(op, path, err)
	}
	w.warn(Warning{Path: path, What: "it vanished while the tree was read", Lost: true})
	return nil
}

// errAgain says that a name became something else between two calls. Callbacks can't return it.
var errAgain = errors.New("changed between two looks")

// changed says whether an open failed because the name is no folder, or not that folder, any more.
func changed(err error) bool {
	return errors.Is(err, ErrChanged) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV)
}

// visitDir gives the folder name and enters it, unless another file system begins there.
func (w *walker) visitDir(dirfd int, name cname, st *unix.Statx_t) error {
	id := idOf(st)
	if len(w.root.grafts) > 0 && w.root.isGraft(w.chain.join(name)) {
		fd, err := w.root.openIn(w.chain.join(name), w.chain.flags)
		if err != nil {
			return pathError("open", w.chain.join(name), err)
		}
		return w.enter(name, fd)
	}
	if what, lost := w.boundary(name, id); what != "" {
		path := w.chain.join(name)
		w.warn(Warning{Path: path, What: what, Lost: lost})
		e := entryOf(path, st)
		return skipped(w.fn(e))
	}
	fd, err := openAt(dirfd, name.String(), w.chain.flags, 0)
	if err != nil {
		if changed(err) {
			return errAgain
		}
		return w.gone("open", name, err)
	}
	if !isFile(fd, id) {
		closeFD(fd)
		return errAgain
	}
	return w.enter(name, fd)
}

// ownSnapshots is the folder that snapshots of volumes are made in, beside each (snapshot.SnapshotFolder), and ownPrefix what the names of
// snapshots begin with.
const (
	ownSnapshots = ".holdfast-snapshots"
	ownPrefix    = "hf."
)

// boundary says why the folder name is not entered, or nothing. lost is true when content is missing for that.
func (w *walker) boundary(name cname, id fileID) (why string, lost bool) {
	const (
		firstFree = 256 // BTRFS_FIRST_FREE_OBJECTID: the root folder of every subvolume
		stub      = 2   // BTRFS_EMPTY_SUBVOL_DIR_OBJECTID: what a snapshot holds in its place
	)
	above := w.chain.levels[len(w.chain.levels)-1].id // one subvolume may begin in another
	subvolume := w.root.btrfs && id.mnt != 0 && id.mnt == above.mnt && (id.ino == stub || id.dev != above.dev && id.ino == firstFree)
	switch {
	case subvolume && strings.HasPrefix(name.String(), ownPrefix) && w.chain.inFolder(ownSnapshots):
		return "a snapshot that Holdfast has made of another volume, left out", false
	case subvolume && id.ino == stub:
		return "a btrfs subvolume was nested here, the snapshot has nothing of it", true
	case subvolume:
		return "", false
	case id.mnt != above.mnt || id.dev != above.dev:
		return "another file system is mounted here, its content is left out", true
	}
	return "", false
}

// enter gives the folder fd and makes it the last one of the chain.
func (w *walker) enter(name cname, fd int) error {
	path, st := "", &w.st
	if w.names.depth() > 0 {
		path = w.chain.join(name)
	}
	if err := statAt(fd, "", st); err != nil {
		closeFD(fd)
		return pathError("stat", path, err)
	}
	id, e := idOf(st), entryOf(path, st)
	w.tellStates(path, st)
	var err error
	if !w.noXattrs {
		if err := w.root.kept.read(fd, e); err != nil {
			closeFD(fd)
			return pathError("read flags of", path, err)
		}
	}
	if e.Xattrs, err = w.xattrs(fd, nil); err != nil {
		closeFD(fd)
		return pathError("read attributes of", path, err)
	}
	whole, err := w.names.enter(fd, w.dents)
	if err != nil {
		closeFD(fd)
		return pathError("list", path, err)
	}
	if !whole {
		w.warn(Warning{Path: path, What: "it was removed while it was listed", Lost: true})
	}
	if err = w.fn(e); err != nil {
		closeFD(fd)
		w.names.leave()
		return skipped(err)
	}
	w.chain.push(name, fd, id)
	return nil
}

func (w *walker) xattrs(dirfd int, name cname) ([]Xattr, error) {
	if w.noXattrs {
		return nil, nil
	}
	return w.xattr.read(dirfd, name)
}

// skipped makes fs.SkipDir no error.
func skipped(err error) error {
	if errors.Is(err, fs.SkipDir) {
		return nil
	}
	return err
}

// visitOther gives what is no folder.
func (w *walker) visitOther(dirfd int, name cname, st *unix.Statx_t) error {
	path := w.chain.join(name)
	id := idOf(st)
	if id.mnt != w.root.id.mnt {
		w.warn(Warning{Path: path, What: "another file is mounted here, it is left out", Lost: true})
		return nil
	}
	e := entryOf(path, st)
	if e == nil {
		w.warn(Warning{Path: path, What: "it is of a kind that Holdfast does not know, left out", Lost: true})
		return nil
	}
	if st.Nlink > 1 {
		first, ok, err := w.links.further(id)
		if err != nil {
			return pathError("remember the first name of", path, err)
		}
		if ok {
			return w.fn(&Entry{Path: path, Kind: e.Kind, LinkTo: first, HasLinkTo: true, Ino: e.Ino, Ctime: e.Ctime})
		}
	}
	var err error
	if e.Kind == Symlink {
		if e.Target, err = readLink(dirfd, name.String(), int(st.Size)); err != nil {
			if err == unix.EINVAL {
				return errAgain
			}
			return w.gone("read link", name, err)
		}
	}
	if e.Xattrs, err = w.xattrs(dirfd, name); err != nil {
		return w.gone("read attributes of", name, err)
	}
	if w.special && e.Kind != File {
		if err := w.specialFlags(dirfd, name, e); err != nil {
			return w.gone("read flags of", name, err)
		}
	}
	w.tellStates(path, st)
	if st.Nlink > 1 {
		if err := w.links.first(id, path, st.Nlink-1); err != nil {
			return pathError("remember the first name of", path, err)
		}
	}
	return w.fn(e)
}

// specialFlags reads the flags and the project id of what can't be opened, where the kernel and the file system have a
// way (XFS on Linux 6.17).
func (w *walker) specialFlags(dirfd int, name cname, e *Entry) error {
	x, err := getAttrAt(dirfd, name, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		if noFlags(err) {
			w.special = false // for all others too
			return nil
		}
		return err
	}
	e.Flags, e.Project = x.flags(), x.projid
	return nil
}

// tellStates counts what the file is in and no restore puts back.
func (w *walker) tellStates(path string, st *unix.Statx_t) {
	if st.Attributes&(unix.STATX_ATTR_ENCRYPTED|unix.STATX_ATTR_VERITY) == 0 {
		return
	}
	for _, s := range states {
		if st.Attributes&s.attribute != 0 {
			w.states.lose(path, s.what, 0)
		}
	}
}

func readLink(dirfd int, name string, size int) (string, error) {
	for buf := make([]byte, max(size+1, 64)); ; buf = make([]byte, 2*len(buf)) {
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
	}
}

// entryOf makes an entry of what statx said; nil for a kind that does not exist.
func entryOf(path string, st *unix.Statx_t) *Entry {
	e := &Entry{
		Path: path, Mode: uint32(st.Mode) & 0o7777, UID: st.Uid, GID: st.Gid, Ino: st.Ino,
		Mtime: Time{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec},
		Ctime: Time{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec},
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Kind, e.Size = File, int64(st.Size)
	case unix.S_IFDIR:
		e.Kind = Dir
	case unix.S_IFLNK:
		e.Kind = Symlink
	case unix.S_IFIFO:
		e.Kind = Fifo
	case unix.S_IFSOCK:
		e.Kind = Socket
	case unix.S_IFCHR:
		e.Kind, e.Major, e.Minor = CharDevice, st.Rdev_major, st.Rdev_minor
	case unix.S_IFBLK:
		e.Kind, e.Major, e.Minor = BlockDevice, st.Rdev_major, st.Rdev_minor
	default:
		return nil
	}
	return e
}
