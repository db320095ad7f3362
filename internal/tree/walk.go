package tree

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// WalkOptions tune a walk. The zero value is fine. All functions run on the goroutine of the walk.
type WalkOptions struct {
	// Warn gets each loss of exactness; nil drops the warnings.
	Warn func(Warning)
	// NoXattrs leaves Xattrs of all entries nil, and Flags and
	// Project 0: asking for them is half of a walk.
	NoXattrs bool
	// Exclude says whether the walk leaves out the entry at path, a folder with all below
	// it. It is asked before anything but the name is known, so that an excluded entry need
	// not be readable; folder finds out whether it is a folder. Nil leaves out nothing.
	Exclude func(path string, folder func() bool) bool
	// ExcludeCaches leaves out the content of folders with a CACHEDIR.TAG, except the
	// tag (bford.info/cachedir).
	ExcludeCaches bool
	// Vanished gets a name that was gone when the walk came to it, with the inode number
	// that it had; 0 where that is not known. Nil makes it a Warning that is Lost.
	Vanished func(path string, ino uint64)
}

// Walk calls fn for the root of the tree and every entry below it: depth first, a folder
// before its content, names of a folder in the order of their bytes. fn runs on the
// caller's goroutine and may keep the entries. Walk leaves Flags and Project of files to
// Root.ReadFlags, because Walk opens no files. If fn returns fs.SkipDir for a folder,
// Walk leaves out its content; any other error ends the walk and is returned as it is.
//
// Walk reads nothing outside the tree, even if another process changes the tree meanwhile: it
// opens each folder by name from the folder above, never through a link, and compares it with
// the folder that it saw before. It gives mount points as the folders that they are, with a
// warning, and does not enter them. Nested btrfs subvolumes are folders like others; so are the
// folders that Graft shows in the place of their stubs, and a stub without a graft is a warning.
//
// An entry whose attributes or content can't be read in full never ends the walk: Walk gives the
// entry as far as it could read it, or not at all, with one warning that is Lost. Two faults end
// the walk: a root that can't be opened, and an error of this process's own (see Ours). At most
// maxOpen folders are open at once. Names of large folders, and first names of many hard links,
// wait in an unlinked temporary file (os.TempDir), so that memory does not grow with the tree
// except by some 85 bytes for each file of which some names were seen and others not yet.
func (r *Root) Walk(ctx context.Context, o WalkOptions, fn func(*Entry) error) error {
	return r.walk(ctx, &walker{WalkOptions: o, fn: fn})
}

// walk runs w, of which options and fn are set.
func (r *Root) walk(ctx context.Context, w *walker) error {
	if r.closed.Load() {
		return pathError("walk", "", ErrClosed)
	}
	w.root, w.chain = r, chain{base: r.fd, root: r, flags: openDir | unix.O_NOATIME}
	w.dents = make([]byte, 128<<10)
	w.xattr, w.special = newXattrReader(r.noXattrs), r.kept.projects && !w.NoXattrs
	if w.Warn == nil {
		w.Warn = func(Warning) {}
	}
	w.folder, w.mounts = w.isFolder, MountPoints(r.name)
	w.states.warn = w.Warn
	defer w.chain.close()
	defer w.names.close()
	defer w.links.close()
	defer w.states.summarise()
	return w.run(ctx)
}

type walker struct {
	WalkOptions
	root  *Root
	fn    func(*Entry) error
	chain chain
	names names // left in each folder of the chain
	links links
	dents []byte
	xattr *xattrReader

	mounts map[string]bool // places in the tree at which something is mounted
	// take from all entries the flags that keep them from being removed, and fail where
	// an entry cannot be read, see Remove
	unseal  bool
	special bool // flags can be read also of entries that are neither files nor folders
	states  losses
	st      unix.Statx_t

	// Of the name at hand.
	dirfd  int
	name   cname
	ino    uint64      // as the listing said
	path   string      // "" until pathOf made it
	folder func() bool // isFolder
	wrong  []string    // the parts of it that could not be read
}

func (w *walker) run(ctx context.Context) error {
	fd, err := openAt(w.root.fd, ".", openDir|unix.O_NOATIME, 0)
	if err != nil {
		return pathError("open", "", err)
	}
	if err := statAt(fd, "", &w.st); err != nil {
		closeFD(fd)
		return pathError("stat", "", err)
	}
	if err := w.enter(cname{0}, fd); err != nil {
		return err
	}
	for w.names.depth() > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if w.name, w.ino, err = w.names.next(); err != nil {
			return pathError("list", string(w.chain.path), err)
		}
		if w.name == nil {
			w.chain.pop()
			w.names.leave()
			continue
		}
		w.path, w.wrong = "", nil
		if err := w.visit(); err != nil {
			return err
		}
	}
	return nil
}

// pathOf is the path of the name at hand.
func (w *walker) pathOf() string {
	if w.path == "" && w.name != nil {
		w.path = w.chain.join(w.name)
	}
	return w.path
}

// visit gives the name at hand, of the last folder of the chain.
func (w *walker) visit() (err error) {
	if w.dirfd, err = w.chain.fd(); err != nil {
		return w.lostFolder(err)
	}
	if w.Exclude != nil && w.Exclude(w.pathOf(), w.folder) {
		return nil
	}
	// A file system that is mounted in the tree, of which only the
	// root is given, may never answer a question.
	flags := 0
	if w.mounts != nil && w.mounts[w.pathOf()] {
		flags = unix.AT_STATX_DONT_SYNC
	}
	// A name may become something else between two calls; a second look sees one state of it.
	for try := 0; ; try++ {
		if err := statName(w.dirfd, w.name, flags, &w.st); err != nil {
			return w.unseen(err)
		}
		if w.unseal && w.st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0 {
			if err := unsealed(w.dirfd, w.name.String(), nil); err != nil {
				return pathError("make removable", w.pathOf(), err)
			}
		}
		if w.st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = w.visitDir(&w.st)
		} else {
			err = w.visitOther(&w.st)
		}
		if err != errAgain {
			return err
		}
		w.wrong = nil
		if try == 4 {
			return w.leftOut("it kept changing into other kinds of file, left out")
		}
	}
}

// errAgain says that a name became something else between two calls. Callbacks can't return it.
var errAgain = errors.New("changed between two looks")

// changed says whether an open failed because the name is no folder, or not that folder, any more.
func changed(err error) bool {
	return errors.Is(err, ErrChanged) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV)
}

// visitDir gives the folder at hand and enters it, unless another file system begins there.
func (w *walker) visitDir(st *unix.Statx_t) error {
	if len(w.root.grafts) > 0 && w.root.isGraft(w.pathOf()) {
		return w.visitGraft(st)
	}
	if what, lost := w.boundary(idOf(st)); what != "" {
		e := w.entry(w.pathOf(), st)
		w.Warn(Warning{Path: e.Path, What: what, Lost: lost})
		return skipped(w.fn(e))
	}
	fd, err := openAt(w.dirfd, w.name.String(), w.chain.flags, 0)
	if err == nil {
		if err = statAt(fd, "", st); err != nil {
			closeFD(fd)
		}
	}
	switch {
	case err == nil && w.ends(idOf(st)): // by now another file system is mounted there
		closeFD(fd)
		return errAgain
	case err == nil:
		// The walk enters a folder that took the place of the folder before. (Some file
		// systems in user space tell another inode number at every look.)
		return w.enter(w.name, fd)
	case changed(err):
		return errAgain
	case gone(err):
		return w.gone(st.Ino)
	}
	if err := w.fault("open", err, "it can't be opened", "its content is left out"); err != nil {
		return err
	}
	return w.closed(st)
}

// closed gives a folder that can't be opened.
func (w *walker) closed(st *unix.Statx_t) error {
	e := w.entry(w.pathOf(), st)
	var err error
	if e.Xattrs, err = w.xattrs(w.dirfd, w.name); gone(err) {
		return w.gone(st.Ino)
	} else if err := w.fault("read attributes of", err, attrsWrong, attrsSo); err != nil {
		return err
	}
	w.tellStates(e.Path, st)
	w.tellLoss(e.Path)
	return skipped(w.fn(e))
}

// ownSnapshots is the folder beside a volume that holds its snapshots
// (snapshot.SnapshotFolder), and ownPrefix is the begin of the names of snapshots.
const (
	ownSnapshots = ".holdfast-snapshots"
	ownPrefix    = "hf."
)

// boundary says why the folder name is not entered, or nothing.
// lost is true when content is missing for that.
func (w *walker) boundary(id fileID) (why string, lost bool) {
	const (
		firstFree = 256 // BTRFS_FIRST_FREE_OBJECTID: the root folder of every subvolume
		// BTRFS_EMPTY_SUBVOL_DIR_OBJECTID: the folder that a snapshot has in its place
		stub = 2
	)
	above := w.chain.levels[len(w.chain.levels)-1].id // one subvolume may begin in another
	subvolume := w.root.btrfs && id.mnt != 0 && id.mnt == above.mnt && (id.ino == stub || id.dev != above.dev && id.ino == firstFree)
	switch {
	case subvolume && strings.HasPrefix(w.name.String(), ownPrefix) && w.chain.inFolder(ownSnapshots):
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

// ends tells whether the tree ends at the folder id.
func (w *walker) ends(id fileID) bool {
	what, _ := w.boundary(id)
	return what != ""
}

// visitGraft gives the folder that is shown in the place of the stub at hand, and enters it.
func (w *walker) visitGraft(st *unix.Statx_t) error {
	fd, err := w.root.openIn(w.pathOf(), w.chain.flags)
	if err == nil {
		if err = statAt(fd, "", st); err != nil {
			closeFD(fd)
		}
	}
	if err != nil {
		return pathError("open", w.pathOf(), err)
	}
	return w.enter(w.name, fd)
}

// enter gives the folder fd, of which w.st tells, and makes it the last one of the chain.
func (w *walker) enter(name cname, fd int) error {
	path, st := "", &w.st
	if w.names.depth() > 0 {
		path = w.pathOf()
	}
	id, e := idOf(st), w.entry(path, st)
	w.tellStates(path, st)
	removed, err := w.readFolder(fd, e, st.Attributes&unix.STATX_ATTR_ENCRYPTED != 0)
	if err != nil {
		closeFD(fd)
		return err
	}
	w.tellLoss(path)
	if err := w.fn(e); err != nil {
		closeFD(fd)
		w.names.leave()
		return skipped(err)
	}
	if removed {
		w.Vanished(path, w.number(id.dev, id.ino))
	}
	w.chain.push(name, fd, id)
	return nil
}

// readFolder reads the facts about the open folder fd that a stat does not tell, and
// lists it. After nil its names are the last of w.names. removed says that the folder
// was removed while it was listed; the caller must report that to Vanished.
func (w *walker) readFolder(fd int, e *Entry, encrypted bool) (removed bool, err error) {
	if !w.NoXattrs {
		if err := w.fault("read flags of", w.root.kept.read(fd, e), flagsWrong, flagsSo); err != nil {
			return false, err
		}
	}
	e.Xattrs, err = w.xattrs(fd, nil)
	if err := w.fault("read attributes of", err, attrsWrong, attrsSo); err != nil {
		return false, err
	}
	cut, err := w.names.enter(fd, w.dents)
	if err != nil {
		return false, pathError("list", e.Path, err)
	}
	switch {
	case encrypted && locked(fd):
		if e.Path == "" {
			return false, pathError("list", e.Path, errLocked)
		}
		w.names.drop()
		w.wrong = append(w.wrong, errLocked.Error()+", its content is left out")
	case cut == nil:
	case gone(cut) && w.Vanished != nil && e.Path != "":
		removed = true
	case e.Path == "" && w.names.empty():
		return false, pathError("list", e.Path, cut)
	case gone(cut):
		w.wrong = append(w.wrong, "it was removed while it was listed")
	default:
		if err := w.fault("list", cut, "it can't be listed to its end", "the rest of its content is left out"); err != nil {
			return false, err
		}
	}
	if w.ExcludeCaches && isCache(fd) {
		if e.Path == "" {
			w.Warn(Warning{Path: e.Path, What: "it has a " + cacheTag + ", and is backed up all the same: a whole volume is no cache"})
		} else {
			w.names.only(cacheTag)
		}
	}
	return removed, nil
}

func (w *walker) xattrs(dirfd int, name cname) ([]Xattr, error) {
	if w.NoXattrs {
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

// visitOther gives an entry that is no folder.
func (w *walker) visitOther(st *unix.Statx_t) error {
	path := w.pathOf()
	id := idOf(st)
	if id.mnt != w.root.id.mnt {
		return w.leftOut("another file is mounted here, it is left out")
	}
	e := w.entry(path, st)
	if e == nil {
		return w.leftOut("it is of a kind that Holdfast does not know, left out")
	}
	if st.Nlink > 1 {
		first, ok, err := w.links.further(id)
		if err != nil {
			return pathError("remember the first name of", path, err)
		}
		if ok {
			return w.fn(&Entry{Path: path, Kind: e.Kind, LinkTo: first, HasLinkTo: true, Ino: e.Ino, Ctime: e.Ctime, Nested: e.Nested})
		}
	}
	var err error
	if e.Kind == Symlink {
		if e.Target, err = readLink(w.dirfd, w.name.String(), int(st.Size)); err != nil {
			return w.noLink(err, st.Ino)
		}
	}
	if e.Xattrs, err = w.xattrs(w.dirfd, w.name); gone(err) {
		return w.gone(st.Ino)
	} else if err := w.fault("read attributes of", err, attrsWrong, attrsSo); err != nil {
		return err
	}
	if w.special && e.Kind != File {
		if err := w.specialFlags(w.dirfd, w.name, e); gone(err) {
			return w.gone(st.Ino)
		} else if err := w.fault("read flags of", err, flagsWrong, flagsSo); err != nil {
			return err
		}
	}
	w.tellStates(path, st)
	if st.Nlink > 1 {
		if err := w.links.first(id, path, st.Nlink-1); err != nil {
			return pathError("remember the first name of", path, err)
		}
	}
	w.tellLoss(path)
	return w.fn(e)
}

// specialFlags reads the flags and the project id of an entry that can't be opened,
// where the kernel and the file system have a way (XFS on Linux 6.17).
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

// tellStates counts the states of the file that no restore puts back.
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

// entry makes an entry of the attributes of an object that the walk met, and marks it
// as Nested if it is on another device than the root; nil for an unknown kind.
func (w *walker) entry(path string, st *unix.Statx_t) *Entry {
	e := entryOf(path, st)
	if e != nil {
		e.Nested = idOf(st).dev != w.root.id.dev
	}
	return e
}

// entryOf makes an entry of the attributes st; nil for an unknown kind.
func entryOf(path string, st *unix.Statx_t) *Entry {
	e := &Entry{
		Path: path, Mode: uint32(st.Mode) & 0o7777, UID: st.Uid, GID: st.Gid, Ino: st.Ino,
		Mtime: Time{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec},
		Ctime: Time{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec},
	}
	e.Linked = st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR
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
