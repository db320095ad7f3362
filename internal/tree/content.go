package tree

import (
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Content is a file that a Target made, open for its content. WriteAt may run on any number of
// goroutines. FinishFile closes it, or Close where the tree is thrown away. It is no *os.File,
// which costs more calls of the kernel and a finalizer for each file.
type Content struct {
	fd     int
	entry  *Entry
	birth  birth
	closed atomic.Bool

	// A small file gets its size by its writes, as long as each begins where the one before ends.
	// All others get it at once, before the first write behind a hole: some file systems keep
	// blocks for a file that grows, and would fill the hole with them.
	end    atomic.Int64 // the file has all its bytes up to here, once all writes returned
	sizing sync.Once
	sized  error
}

// WriteAt writes b at off, as io.WriterAt says.
func (c *Content) WriteAt(b []byte, off int64) (int, error) {
	if c.closed.Load() {
		return 0, os.ErrClosed
	}
	if c.entry.Size < writeBackFrom && !c.end.CompareAndSwap(off, off+int64(len(b))) {
		if err := c.setSize(); err != nil {
			return 0, err
		}
	}
	done := 0
	for done < len(b) {
		n, err := unix.Pwrite(c.fd, b[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// setSize gives the file its size, once.
func (c *Content) setSize() error {
	c.sizing.Do(func() {
		c.end.Store(-1) // no further write is at the end
		if err := unix.Ftruncate(c.fd, c.entry.Size); err != nil {
			c.sized = pathError("set size of", c.entry.Path, err)
		}
	})
	return c.sized
}

// settleSize gives the file its size unless its writes did. All writes have returned.
func (c *Content) settleSize() error {
	if c.entry.Size >= writeBackFrom || c.end.Load() == c.entry.Size {
		return nil
	}
	return c.setSize()
}

// Close closes a file that is not finished. After FinishFile or another Close it does nothing.
func (c *Content) Close() error {
	if c == nil || !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	return unix.Close(c.fd)
}

// birth is the owner and the mode that the kernel gave to a new entry, so that only a
// difference takes a call. The zero value is of an entry about which nothing is known.
type birth struct {
	known    bool
	uid, gid uint32
	mode     uint32 // noMode where it is not known
}

const noMode = 1 << 31

// owned tells whether the entry has that owner already.
func (b birth) owned(e *Entry) bool { return b.known && b.uid == e.UID && b.gid == e.GID }

// moded tells whether the entry, whose attributes were set, has that mode already. The
// attributes of the kernel (ACLs) write into the mode.
func (b birth) moded(e *Entry, mode uint32) bool {
	if !b.known || b.mode != mode&0o7777 {
		return false
	}
	for i := range e.Xattrs {
		if isSystem(e.Xattrs[i].Name) {
			return false
		}
	}
	return true
}

// isSystem tells whether a file system may take an attribute for more than a name and a value.
func isSystem(attribute string) bool {
	namespace, _, _ := strings.Cut(attribute, ".")
	return namespace != "user" && namespace != "security" && namespace != "trusted"
}

func birthOf(st *unix.Statx_t) birth {
	const all = unix.STATX_UID | unix.STATX_GID | unix.STATX_MODE
	return birth{known: st.Mask&all == all, uid: st.Uid, gid: st.Gid, mode: uint32(st.Mode) & 0o7777}
}

// customs are the owner and the mode that the file system and the kernel give to new entries.
type customs struct {
	inRoot birth  // of an entry in the root; its mode is not known
	masked uint32 // bits of the mode that new entries do not get
	exact  bool   // all other bits are as they were asked for
}

// learn makes two files in the empty folder fd, looks at them and removes them. Where that fails,
// nothing is known, and owners and modes are set as if they differed.
func learn(fd int) (c customs, err error) {
	const name = "probe"
	probe := func(mode uint32) (b birth, err error) {
		made, err := openAt(fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
		if err != nil {
			return birth{}, nil
		}
		var st unix.Statx_t
		if statAt(made, "", &st) == nil {
			b = birthOf(&st)
		}
		closeFD(made)
		return b, unix.Unlinkat(fd, name, 0)
	}
	all, err := probe(0o777)
	if err != nil || !all.known {
		return customs{}, err
	}
	const some = 0o642 // no file system has this mode for all files
	one, err := probe(some)
	c = customs{inRoot: all, masked: 0o777 &^ all.mode}
	c.inRoot.mode = noMode
	c.exact = one.known && one.mode == some&^c.masked && all.mode&^0o777 == 0
	return c, err
}

// ask returns the mode with which an entry is made that will have mode want, at least the
// bits of least, and whether the entry has it then.
func (c *customs) ask(want, least uint32) (mode uint32, has bool) {
	want &= 0o7777
	fits := c.exact && want&^0o777 == 0 && want&c.masked == 0 && want&least == least
	if !fits {
		return least, false
	}
	return want, true
}
