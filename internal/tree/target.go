package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrOrder says that an entry came out of the order of a walk, or without its folder.
var ErrOrder = errors.New("entry out of order")

// Target builds a tree in a new folder. Create and Finish are for one goroutine, FinishFile
// for any number of them. Target does not trust entries: for every entry, it touches nothing
// outside the folder and follows no link, because it makes every name in a folder that it
// made itself and holds open. Close is due in any case; the entries made so far stay.
//
// A folder gets its metadata when the first entry after its content comes, so that
// memory is bounded by depth, not by the number of folders.
type Target struct {
	root  int
	chain chain
	// dirs are the folders of each level of the chain, whose metadata is still due.
	dirs   []dueDir
	last   string
	any    bool
	setter setter
	// customs spare the calls that would change nothing.
	customs customs
	// late are the folders that a user other than root could not pass through with
	// their own mode; hard links to their content may still come.
	late []lateMode
	// skipped are the paths that could not be made, so that links to
	// them are not mistaken for forged ones.
	skipped map[string]struct{}
	// seal is the entry of the root, for Seal; nil for a root that no entry came for.
	seal   *Entry
	closed bool
}

// dueDir is a folder that was made.
type dueDir struct {
	// entry has no path, since the chain has it: the paths of a deep tree would add up to the
	// square of its depth. It is nil for a root that no entry came for.
	entry *Entry
	birth birth // of the folder
	gives birth // the owner of entries made in it
}

type lateMode struct {
	path string
	mode uint32
}

// NewTarget makes a Target of dir, an empty folder that the caller made and nobody else
// writes to. It calls warn for each loss of exactness, one call at a time but on any
// goroutine; nil drops the warnings.
func NewTarget(dir string, warn func(Warning)) (*Target, error) {
	if warn == nil {
		warn = func(Warning) {}
	}
	fd, err := openAt(unix.AT_FDCWD, dir, openDir, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open target", Path: dir, Err: err}
	}
	t := &Target{root: fd, skipped: make(map[string]struct{})}
	t.chain = chain{base: fd, flags: openDir}
	t.setter.warn = warn
	t.setter.root = os.Geteuid() == 0
	if err := t.prepare(dir); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// prepare checks that the folder is empty and removes from it everything that its children would
// inherit: ACLs, and flags, which folders get only after their content. (Its project id stays until
// Seal, without which the folder can't be renamed into a folder whose children inherit theirs.)
func (t *Target) prepare(dir string) error {
	var in names
	defer in.close()
	var some cname
	fd, err := openAt(t.root, ".", openDir, 0)
	if err == nil {
		t.chain.push(cname{0}, fd, fileID{})
		t.dirs = append(t.dirs, dueDir{})
		var cut error
		if cut, err = in.enter(fd, make([]byte, 4<<10)); err == nil {
			err = cut
		}
	}
	if err == nil {
		some, _, err = in.next()
	}
	if err == nil && some != nil {
		err = unix.ENOTEMPTY
	}
	if err == nil {
		err = unix.Fchmod(fd, 0o700)
	}
	if err != nil {
		return &os.PathError{Op: "prepare target", Path: dir, Err: err}
	}
	var st unix.Statx_t
	if err := statAt(fd, "", &st); err != nil {
		return &os.PathError{Op: "stat target", Path: dir, Err: err}
	}
	t.chain.levels[0].id = idOf(&st)
	for _, acl := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		if err := unix.Fremovexattr(fd, acl); err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return &os.PathError{Op: "remove " + acl + " from target", Path: dir, Err: err}
		}
	}
	if err := clearFlags(fd); err != nil {
		t.setter.warn(Warning{Path: "", What: "what is restored inherits flags of the target's folder, which could not be taken from it: " + err.Error()})
	}
	if t.customs, err = learn(fd); err != nil {
		return &os.PathError{Op: "prepare target", Path: dir, Err: err}
	}
	t.dirs[0].gives = t.customs.inRoot
	// A file system with coarse times rounds this time, which shows its coarseness.
	probe := Time{Sec: 1, Nsec: 123_456_789}
	if err := setTime(fd, "", probe); err == nil && statAt(fd, "", &st) == nil && st.Mtime.Nsec != probe.Nsec {
		t.setter.warn(Warning{Path: "", What: "the target's file system rounds times"})
	}
	return nil
}

// Create makes e, without content and for files and folders without metadata yet. For a
// File it returns the file; the caller writes the data ranges, in any order, and hands the
// file to FinishFile. What is not written is a hole. For every other kind it returns nil.
//
// Entries come in the order of a walk, each after its folder, else the error is
// ErrOrder; an entry whose Path or LinkTo is not of the form of a path is
// ErrUnsafePath. If the file system or the lack of privilege does not let Create make
// an entry other than a file or folder, that is a warning and not an error.
func (t *Target) Create(e *Entry) (*Content, error) {
	if t.closed {
		return nil, pathError("create", e.Path, ErrClosed)
	}
	if err := CheckPath(e.Path); err != nil {
		return nil, err
	}
	if t.any && ComparePaths(t.last, e.Path) >= 0 {
		return nil, pathError("create", e.Path, fmt.Errorf("%w: it comes after %s", ErrOrder, quote(t.last)))
	}
	t.any, t.last = true, e.Path
	if e.Path == "" {
		if e.Kind != Dir || e.HasLinkTo {
			return nil, pathError("create", e.Path, fmt.Errorf("%w: the root is no folder", ErrUnsafePath))
		}
		t.dirs[0].entry = pathless(e)
		return nil, t.rootCase(e)
	}
	parent, name := splitPath(e.Path)
	if err := t.leaveTo(parent); err != nil {
		return nil, err
	}
	dirfd, err := t.chain.fd()
	if err != nil {
		return nil, pathError("open", parent, err)
	}
	if e.HasLinkTo {
		return nil, t.link(dirfd, name, e)
	}
	switch e.Kind {
	case File:
		return t.file(dirfd, name, e)
	case Dir:
		return nil, t.folder(dirfd, name, e)
	default:
		return nil, t.node(dirfd, name, e)
	}
}

// leaveTo finishes the folders that are left on the way to the folder parent, which must be open.
func (t *Target) leaveTo(parent string) error {
	for {
		if string(t.chain.path) == parent {
			return nil
		}
		if t.chain.holds(parent) {
			return pathError("create", t.last, fmt.Errorf("%w: its folder did not come", ErrOrder))
		}
		if err := t.leave(); err != nil {
			return err
		}
	}
}

// leave finishes the last folder of the chain.
func (t *Target) leave() error {
	if d := t.dirs[len(t.dirs)-1]; d.entry != nil {
		e := d.entry
		path := string(t.chain.path)
		fd, err := t.chain.fd()
		if err != nil {
			return pathError("open", path, err)
		}
		if len(t.dirs) == 1 {
			t.holdBack(e)
		}
		if e.Flags&storage != 0 {
			if err := t.setter.plain(fd, path, e.Flags, storage); err != nil {
				return err
			}
		}
		mode := e.Mode
		if !t.setter.root && mode&0o700 != 0o700 {
			t.late = append(t.late, lateMode{path, mode})
			mode |= 0o700
		}
		if err := t.setter.apply(fd, path, e, mode, d.birth); err != nil {
			return err
		}
	}
	t.dirs = t.dirs[:len(t.dirs)-1]
	t.chain.pop()
	return nil
}

func (t *Target) file(dirfd int, name string, e *Entry) (*Content, error) {
	if e.Size < 0 {
		return nil, pathError("create", e.Path, fmt.Errorf("%w: its size is negative", ErrUnsafePath))
	}
	born := t.dirs[len(t.dirs)-1].gives
	mode, has := t.customs.ask(e.Mode, 0o600)
	if has {
		born.mode = mode
	}
	fd, err := openAt(dirfd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		return nil, pathError("create", e.Path, err)
	}
	c := &Content{fd: fd, entry: e, birth: born}
	if e.Flags&storage != 0 { // only an empty file takes all of them
		if err := t.setter.plain(fd, e.Path, e.Flags, storage); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if e.Size >= writeBackFrom {
		if err := c.setSize(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (t *Target) folder(dirfd int, name string, e *Entry) error {
	mode, _ := t.customs.ask(e.Mode, 0o700)
	if err := unix.Mkdirat(dirfd, name, mode); err != nil {
		return pathError("create folder", e.Path, err)
	}
	fd, err := openAt(dirfd, name, openDir, 0)
	if err != nil {
		return pathError("open", e.Path, err)
	}
	var st unix.Statx_t
	if err := statAt(fd, "", &st); err != nil {
		closeFD(fd)
		return pathError("stat", e.Path, err)
	}
	// The kernel sets or clears this flag only on an empty folder; a new folder
	// inherits it from the folder above.
	if above := t.dirs[len(t.dirs)-1].entry; (e.Flags|flagsOf(above))&Casefold != 0 {
		if err := t.setter.plain(fd, e.Path, e.Flags, Casefold); err != nil {
			closeFD(fd)
			return err
		}
	}
	t.chain.push(cname(name+"\x00"), fd, idOf(&st))
	born := birthOf(&st)
	gives := born
	gives.mode = noMode
	t.dirs = append(t.dirs, dueDir{entry: pathless(e), birth: born, gives: gives})
	return nil
}

func flagsOf(e *Entry) Flags {
	if e == nil {
		return 0
	}
	return e.Flags
}

func pathless(e *Entry) *Entry {
	c := *e
	c.Path = ""
	return &c
}

// node makes a symlink, fifo, socket or device, with its metadata.
func (t *Target) node(dirfd int, name string, e *Entry) error {
	var err error
	mode, ok := map[Kind]uint32{
		Fifo: unix.S_IFIFO, Socket: unix.S_IFSOCK, CharDevice: unix.S_IFCHR, BlockDevice: unix.S_IFBLK,
	}[e.Kind]
	switch {
	case e.Kind == Symlink:
		err = unix.Symlinkat(e.Target, dirfd, name)
	case ok:
		err = unix.Mknodat(dirfd, name, mode|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	default:
		return pathError("create", e.Path, fmt.Errorf("%w: kind %d does not exist", ErrUnsafePath, e.Kind))
	}
	if err != nil {
		return t.skip(e, "create", err)
	}
	fd, err := openAt(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return pathError("open", e.Path, err)
	}
	defer closeFD(fd)
	return t.setter.apply(fd, e.Path, e, e.Mode, birth{})
}

// link makes a further name of an entry made before, which is found without following links.
func (t *Target) link(dirfd int, name string, e *Entry) error {
	if err := CheckPath(e.LinkTo); err != nil {
		return err
	}
	if e.LinkTo == "" || ComparePaths(e.LinkTo, e.Path) >= 0 {
		return pathError("link", e.Path, fmt.Errorf("%w: %s did not come before", ErrUnsafePath, quote(e.LinkTo)))
	}
	if _, ok := t.skipped[e.LinkTo]; ok {
		t.skipped[e.Path] = struct{}{}
		t.setter.warning(Warning{Path: e.Path, What: "left out, it is a further name of one that is left out"})
		return nil
	}
	parent, base := splitPath(e.LinkTo)
	from, err := openBeneath(t.root, parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return pathError("link", e.Path, fmt.Errorf("%w: %s: %w", ErrUnsafePath, quote(e.LinkTo), err))
	}
	defer closeFD(from)
	err = unix.Linkat(from, base, dirfd, name, 0)
	if err == unix.EPERM {
		err = linkSealed(from, base, dirfd, name)
	}
	switch err {
	case nil:
		return nil
	case unix.ENOENT:
		return pathError("link", e.Path, fmt.Errorf("%w: %s: %w", ErrUnsafePath, quote(e.LinkTo), err))
	default:
		return t.skip(e, "link", err)
	}
}

// skip makes a warning of err if it says that this file system or
// this user can't make such a thing.
func (t *Target) skip(e *Entry, op string, err error) error {
	switch err {
	case unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS, unix.EMLINK, unix.ENAMETOOLONG, unix.EINVAL:
		t.skipped[e.Path] = struct{}{}
		t.setter.warning(Warning{Path: e.Path, What: fmt.Sprintf("left out: the target can't hold a %s: %v", e.Kind, err)})
		return nil
	}
	return pathError(op, e.Path, err)
}

// writeBackFrom is the size, in bytes, from which on the content of a file is written
// back at once. The file system places the many smaller files better together.
const writeBackFrom = 128 << 10

// FinishFile gives c, made by Create for e, its owner, attributes, mode and time,
// and closes it in any case. It may run on any goroutine, for each file once.
func (t *Target) FinishFile(e *Entry, c *Content) error {
	err := c.settleSize()
	if err == nil {
		if e.Size >= writeBackFrom {
			// Only begun: so the disk works while more is fetched, and Finish
			// has little left to wait for. Whether it is done shows there.
			_ = unix.SyncFileRange(c.fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		}
		err = t.setter.apply(c.fd, e.Path, e, e.Mode, c.birth)
	}
	if closeErr := c.Close(); closeErr != nil && err == nil {
		err = pathError("close", e.Path, closeErr)
	}
	return err
}

// Finish gives the folders that are still open their metadata, from the leaves up, and tells
// the warnings that are counted. Every FinishFile has returned before. Attributes that would
// keep the root from being renamed are left to Seal; nothing is durable before Sync.
func (t *Target) Finish() error {
	if t.closed {
		return pathError("finish", "", ErrClosed)
	}
	for len(t.chain.levels) > 0 {
		if err := t.leave(); err != nil {
			return err
		}
	}
	for i := len(t.late) - 1; i >= 0; i-- {
		if err := t.setLate(t.late[i]); err != nil {
			return err
		}
	}
	t.late = nil
	t.setter.summarise()
	return nil
}

// Sync makes the entries made so far durable. It changes nothing that a reader of the
// tree sees, so it may run beside readers.
func (t *Target) Sync() error {
	if err := unix.Syncfs(t.root); err != nil {
		return pathError("sync", "", err)
	}
	return nil
}

func (t *Target) setLate(l lateMode) error {
	fd, err := openBeneath(t.root, l.path, openDir)
	if err == nil {
		err = unix.Fchmod(fd, l.mode)
		closeFD(fd)
	}
	if err != nil {
		return pathError("set mode of", l.path, err)
	}
	return nil
}

// Close releases the descriptors. It is idempotent.
func (t *Target) Close() error {
	if t.closed {
		return nil
	}
	t.closed = true
	t.chain.close()
	return unix.Close(t.root)
}
