package tree

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// String gives the kind as messages name it.
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "folder"
	case Symlink:
		return "symlink"
	case Fifo:
		return "fifo"
	case Socket:
		return "socket"
	case CharDevice:
		return "character device"
	case BlockDevice:
		return "block device"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// told is how many losses of one sort are listed one by one before the rest is only counted.
const told = 20

// count counts losses of one sort, for instance an attribute that the target does not take.
type count struct {
	what  string
	limit int // how many are listed one by one
	n     int
	first string
}

// losses reports and counts metadata that can't be kept exact. Safe for several goroutines.
type losses struct {
	warn func(Warning)

	mu     sync.Mutex
	counts []*count
}

// lose reports or counts the loss what of path.
func (s *losses) lose(path, what string, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c *count
	for _, have := range s.counts {
		if have.what == what {
			c = have
		}
	}
	if c == nil {
		c = &count{what: what, limit: limit, first: path}
		s.counts = append(s.counts, c)
	}
	c.n++
	if c.n <= c.limit {
		s.warn(Warning{Path: path, What: what})
	}
}

// warning tells w, one caller at a time.
func (s *losses) warning(w Warning) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warn(w)
}

// summarise tells how often the losses came that were not listed one by one.
func (s *losses) summarise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.counts {
		switch more := c.n - c.limit; {
		case more <= 0:
		case c.limit == 0:
			s.warn(Warning{Path: c.first, What: fmt.Sprintf("%s; %d entries in all", c.what, c.n)})
		default:
			s.warn(Warning{Path: c.first, What: fmt.Sprintf("%s; %d further entries", c.what, more)})
		}
	}
	s.counts = nil
}

// setter applies metadata and counts the losses. Safe for several goroutines.
type setter struct {
	losses
	root      bool
	flagsLost atomic.Bool // some flag or project id could not be set
}

// apply gives fd, the open entry e at path, the metadata that the entry was not born with. fd
// is O_PATH for all but files and folders. The order matters: a change of owner removes setuid
// and security.capability, and an ACL writes into the mode. No other change alters the time of
// the content. An immutable entry takes no further change, so the flags come last.
func (s *setter) apply(fd int, path string, e *Entry, mode uint32, born birth) error {
	if !born.owned(e) {
		var err error
		if mode, err = s.owner(fd, path, e, mode); err != nil {
			return err
		}
	}
	for i := range e.Xattrs {
		if err := s.xattr(fd, path, e, &e.Xattrs[i]); err != nil {
			return err
		}
	}
	if !born.moded(e, mode) {
		if err := setMode(fd, e.Kind, mode&0o7777); err != nil {
			return pathError("set mode of", path, err)
		}
	}
	if e.Mtime.Nsec > 999_999_999 { // would be taken for UTIME_NOW or UTIME_OMIT
		return pathError("set time of", path, unix.EINVAL)
	}
	if err := setTime(fd, "", e.Mtime); err != nil {
		return pathError("set time of", path, err)
	}
	if err := s.checkTime(fd, path, e); err != nil {
		return err
	}
	return s.extended(fd, path, e)
}

func setMode(fd int, kind Kind, mode uint32) error {
	switch kind {
	case File, Dir:
		return unix.Fchmod(fd, mode)
	case Symlink: // has no mode of its own
		return nil
	default:
		return chmodAt(fd, mode)
	}
}

// owner sets user and group, and returns the mode to set: never setuid for another owner.
func (s *setter) owner(fd int, path string, e *Entry, mode uint32) (uint32, error) {
	err := unix.Fchownat(fd, "", int(e.UID), int(e.GID), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		return mode, nil
	}
	if err != unix.EPERM && err != unix.EINVAL && err != unix.EOVERFLOW {
		return mode, pathError("set owner of", path, err)
	}
	if int(e.UID) != os.Geteuid() || err == unix.EINVAL {
		s.lose(path, "its owner could not be set: "+err.Error(), 0)
		if mode&unix.S_ISUID != 0 {
			s.lose(path, "setuid was left out, because its owner could not be set", told)
			mode &^= unix.S_ISUID
		}
	}
	// A user may still give a file to a group of their own.
	err = unix.Fchownat(fd, "", -1, int(e.GID), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		s.lose(path, "its group could not be set: "+err.Error(), 0)
		if mode&unix.S_ISGID != 0 {
			s.lose(path, "setgid was left out, because its group could not be set", told)
			mode &^= unix.S_ISGID
		}
	}
	return mode, nil
}

func (s *setter) xattr(fd int, path string, e *Entry, x *Xattr) error {
	if x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 {
		return pathError("set attribute of", path, fmt.Errorf("%w: %s is no name of an attribute", ErrUnsafePath, quote(x.Name)))
	}
	if strings.HasPrefix(x.Name, OwnXattrs) {
		s.lose(path, fmt.Sprintf("attribute %s is one of Holdfast's own, which no backup has; left out", quote(x.Name)), told)
		return nil
	}
	var err error
	switch e.Kind {
	case File, Dir:
		err = unix.Fsetxattr(fd, x.Name, x.Value, 0)
	default: // an O_PATH descriptor; the path leads to the open object, even if that is a link
		err = viaProc(fd, "", func(path string) error { return unix.Setxattr(path, x.Name, x.Value, 0) })
	}
	switch err {
	case nil:
	case ErrNoProc:
		s.lose(path, fmt.Sprintf("attribute %s could not be set: %v", quote(x.Name), err), told)
	case unix.EPERM, unix.EACCES:
		limit := told
		if !s.root && strings.HasPrefix(x.Name, "trusted.") {
			limit = 0
		}
		s.lose(path, fmt.Sprintf("attribute %s could not be set: %v", quote(x.Name), err), limit)
	case unix.EOPNOTSUPP, unix.EINVAL, unix.E2BIG, unix.ERANGE, unix.ENOSPC, unix.EDQUOT:
		// ENOSPC: ext4 has one block for the attributes of a file; a
		// disk that is full shows elsewhere.
		s.lose(path, fmt.Sprintf("attribute %s could not be set: %v", quote(x.Name), err), told)
	default:
		return pathError("set attribute "+quote(x.Name)+" of", path, err)
	}
	return nil
}

// setTime sets when the content of name in dirfd changed, or of
// dirfd itself, and leaves the access time.
func setTime(dirfd int, name string, t Time) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: t.Sec, Nsec: int64(t.Nsec)}}
	return unix.UtimesNanoAt(dirfd, name, ts, flags)
}

// checkTime checks whether a time outside the range of some file systems was kept.
func (s *setter) checkTime(fd int, path string, e *Entry) error {
	if e.Mtime.Sec >= 0 && e.Mtime.Sec < 1<<31 {
		return nil
	}
	var st unix.Statx_t
	if err := statAt(fd, "", &st); err != nil {
		return pathError("stat", path, err)
	}
	if st.Mtime.Sec != e.Mtime.Sec {
		s.lose(path, "its time is outside what the target's file system holds", told)
	}
	return nil
}
