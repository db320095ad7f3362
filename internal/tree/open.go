package tree

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrVanished says that a path, which a walk saw, leads to nothing now.
	ErrVanished = errors.New("it is not there any more")
	// ErrFolder says that a path, at which a walk saw something else, leads to a folder now.
	ErrFolder = errors.New("it is a folder now")

	errChanging = errors.New("it kept changing into other kinds of file")
	errMounted  = errors.New("another file system is mounted here now")
	errUnknown  = errors.New("it is of a kind that Holdfast does not know now")
)

// Open opens the content of e, a File of a walk of this tree, for reading. It reads the
// file that is at its path now: where the path leads to another file by now, or the file
// changed since the walk, Open makes e anew from the file that it opened, except the
// flags, which ReadFlags reads. (Names that the walk gave as further names of e may then
// belong to another file.) Where the path leads to a symlink, fifo, socket or device by
// now, Open makes e that entry and returns no file. It is ErrVanished when the path
// leads nowhere, and ErrFolder when it leads to a folder. After an error e is unchanged.
//
// Open follows no link and no mount point on the way, leaves the access time alone
// where the kernel allows, and opens nothing but a regular file. On a file system that
// does not keep honest sizes, a read of the file does not wait for more content. warn
// gets a warning for attributes that could not be read; nil drops it.
func (r *Root) Open(e *Entry, warn func(Warning)) (*os.File, error) {
	if r.closed.Load() {
		return nil, pathError("open", e.Path, ErrClosed)
	}
	if e.Kind != File || e.Path == "" {
		return nil, pathError("open", e.Path, errors.New("it is not a regular file"))
	}
	for range 5 {
		f, err := r.open(e, warn)
		if err != errAgain {
			return f, err
		}
	}
	return nil, pathError("open", e.Path, errChanging)
}

// open is one try of Open; errAgain when the path became something else between two calls.
func (r *Root) open(e *Entry, warn func(Warning)) (*os.File, error) {
	var st unix.Stat_t
	var fd int
	if r.still { // nothing in it can change, so nobody puts a device in the file's place
		var err error
		if fd, err = r.openIn(e.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME); err != nil {
			return nil, openError(e.Path, err)
		}
		if err := unix.Fstat(fd, &st); err != nil {
			closeFD(fd)
			return nil, pathError("stat", e.Path, err)
		}
	} else {
		at, err := r.openIn(e.Path, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return nil, openError(e.Path, err)
		}
		defer closeFD(at)
		if err := unix.Fstat(at, &st); err != nil {
			return nil, pathError("stat", e.Path, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
		case unix.S_IFDIR:
			return nil, pathError("open", e.Path, ErrFolder)
		default:
			return nil, r.special(e, warn)
		}
		if fd, err = r.reopen(at, e.Path, &st); err != nil {
			return nil, err
		}
	}
	if e.HasLinkTo || statOf(&st) != (Stat{Ino: e.Ino, Size: e.Size, Mtime: e.Mtime, Ctime: e.Ctime}) {
		if err := r.renew(e, fd, warn); err != nil {
			closeFD(fd)
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), e.Path), nil
}

// openError translates the kernel's answer to opening a path of the tree.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		err = ErrVanished // a folder on the way may have become a file or a link
	case errors.Is(err, unix.EXDEV):
		err = errMounted
	}
	return pathError("open", path, err)
}

// reopen opens for reading the regular file that the O_PATH descriptor at
// is open on, and sets st anew where the path had to be followed once more.
func (r *Root) reopen(at int, path string, st *unix.Stat_t) (int, error) {
	flags := unix.O_RDONLY | unix.O_NOATIME
	if !r.HonestSizes() {
		flags |= unix.O_NONBLOCK
	}
	if procMounted() {
		fd, err := openUnleased(func() (int, error) { return openAt(unix.AT_FDCWD, procFD(at, ""), flags, 0) })
		if err == nil || err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOMEM {
			return fd, err
		}
	}
	// /proc is missing or unusable: only the path itself leads to the file. In the
	// moment since the look somebody may have put a fifo or a device at the path; this
	// call may open such an object, without waiting, and reads nothing from it.
	fd, err := openUnleased(func() (int, error) { return r.openIn(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK) })
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return -1, errAgain // it is a link or a socket by now
	}
	if err != nil {
		return -1, openError(path, err)
	}
	if err := unix.Fstat(fd, st); err != nil {
		closeFD(fd)
		return -1, pathError("stat", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		closeFD(fd)
		return -1, errAgain
	}
	return fd, nil
}

const (
	// leaseWait is longer than a program may hold on to a lease after
	// another one opened the file (fs.lease-break-time).
	leaseWait = time.Minute
	leaseLook = 50 * time.Millisecond
)

// openUnleased calls open until the file has no lease (fcntl(2),
// F_SETLEASE) that stands against reading it.
func openUnleased(open func() (int, error)) (int, error) {
	for waited := time.Duration(0); ; waited += leaseLook {
		fd, err := open()
		if err != unix.EAGAIN || waited >= leaseWait {
			return fd, err
		}
		time.Sleep(leaseLook)
	}
}

// renew makes e anew from the open file fd.
func (r *Root) renew(e *Entry, fd int, warn func(Warning)) error {
	var st unix.Statx_t
	if err := statAt(fd, "", &st); err != nil {
		return pathError("stat", e.Path, err)
	}
	fresh := entryOf(e.Path, &st)
	if fresh == nil || fresh.Kind != File {
		return errAgain
	}
	if err := r.attributes(fresh, fd, nil, warn); err != nil {
		return err
	}
	fresh.Linked = fresh.Linked || e.Linked
	*e = *fresh
	return nil
}

// attributes reads the attributes of name in dirfd, or without a name of dirfd
// itself, into e. Attributes that can't be read are a loss and no error.
func (r *Root) attributes(e *Entry, dirfd int, name cname, warn func(Warning)) (err error) {
	reader := r.readers.Get().(*xattrReader)
	defer r.readers.Put(reader)
	if e.Xattrs, err = reader.read(dirfd, name); err == nil {
		return nil
	}
	if Ours(err) {
		return pathError("read attributes of", e.Path, err)
	}
	if warn != nil {
		warn(Warning{Path: e.Path, What: unread(attrsWrong, err, attrsSo), Lost: true})
	}
	return nil
}

// special makes e the symlink, fifo, socket or device that is at its path now.
func (r *Root) special(e *Entry, warn func(Warning)) error {
	dir, base := splitPath(e.Path)
	parent, err := r.openIn(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return openError(e.Path, err)
	}
	defer closeFD(parent)
	name := cname(base + "\x00")
	var st unix.Statx_t
	if err := statName(parent, name, 0, &st); err != nil {
		return openError(e.Path, err)
	}
	if idOf(&st).mnt != r.id.mnt {
		return pathError("open", e.Path, errMounted)
	}
	fresh := entryOf(e.Path, &st)
	switch {
	case fresh == nil:
		return pathError("open", e.Path, errUnknown)
	case fresh.Kind == File || fresh.Kind == Dir:
		return errAgain
	case fresh.Kind == Symlink:
		if fresh.Target, err = readLink(parent, base, int(st.Size)); err == unix.EINVAL {
			return errAgain
		} else if err != nil {
			return openError(e.Path, err)
		}
	}
	if err := r.attributes(fresh, parent, name, warn); err != nil {
		return err
	}
	if r.kept.projects {
		// as in a walk, where the kernel has a way
		if x, err := getAttrAt(parent, name, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			fresh.Flags, fresh.Project = x.flags(), x.projid
		}
	}
	fresh.Linked = e.Linked
	*e = *fresh
	return nil
}

// Refresh reports whether the open file f still matches e, as Unchanged does, and makes
// e anew from f when it does not, as Open does.
func (r *Root) Refresh(e *Entry, f *os.File, warn func(Warning)) (same bool, err error) {
	if same, err = r.Unchanged(e, f); same || err != nil {
		return same, err
	}
	return false, control(f, func(fd int) error { return r.renew(e, fd, warn) })
}
