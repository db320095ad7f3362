package restore

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/internal/evidence"
)

// A restore must not take the last room of a file system, on which others write too. So the needs
// of a backup are compared with the free space before the first byte is written, and while a
// restore writes, it looks again and again: the neighbours write as well, and no estimate is exact.

// ErrRoom says that a file system has too little room for a restore.
var ErrRoom = errors.New("not enough room")

// Reserve is the space that a restore leaves free on a file system. The zero value leaves nothing.
type Reserve struct {
	Bytes   uint64
	Percent int    // of the bytes of the file system, where that is more than Bytes
	Most    uint64 // bounds what Percent asks for, bytes; 0 is no bound
	// InodePercent is of the inodes, where the file system has a number of them.
	InodePercent int
}

// of is the reserve of one file system.
func (r Reserve) of(fs *unix.Statfs_t) (bytes, inodes uint64) {
	share := fs.Blocks * blockSize(fs) / 100 * uint64(r.Percent)
	if r.Most > 0 {
		share = min(share, r.Most)
	}
	return max(r.Bytes, share), fs.Files / 100 * uint64(r.InodePercent)
}

func blockSize(fs *unix.Statfs_t) uint64 { return uint64(max(fs.Frsize, 1)) }

// Need is the space that one volume of a backup takes.
type Need struct {
	Volume  string
	Folder  string // that holds the volume's place; it is there
	Bytes   uint64 // of content, holes not counted
	Entries uint64
	// Freed and FreedEntries go from the file system before.
	Freed        uint64
	FreedEntries uint64
}

// space is the room of a file system, and the part of it that stays free.
type space struct {
	id                    string
	free, inodes          uint64
	keep, keepInodes      uint64
	block                 uint64 // a file takes half of it more than its content, on average
	needBytes, needInodes uint64
	volumes               []string
	folder                string
}

// lookAt asks the kernel for the space around a folder. A quota of the folder's project counts as
// the size of the file system, where the file system tells of it so (ext4 and xfs do).
func lookAt(folder string, r Reserve) (space, error) {
	fd, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return space{}, &os.PathError{Op: "open", Path: folder, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only looked at
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fs)); err != nil {
		return space{}, &os.PathError{Op: "look at the room of", Path: folder, Err: err}
	}
	s := space{id: fmt.Sprintf("device %d", st.Dev), free: fs.Bavail * blockSize(&fs), inodes: math.MaxUint64, block: blockSize(&fs), folder: folder}
	s.keep, s.keepInodes = r.of(&fs)
	if fs.Type == unix.BTRFS_SUPER_MAGIC { // each subvolume has a device number of its own, and small files take no block
		s.id, s.block = evidence.FileSystemByFD(fd), 0
	}
	if fs.Files > 0 {
		s.inodes = fs.Ffree
	}
	return s, nil
}

// RoomError tells which volumes do not fit. It is an ErrRoom.
type RoomError struct {
	Volumes               []string
	Folder                string // on the file system
	NeedBytes, NeedInodes uint64 // 0 while it is not known
	FreeBytes, FreeInodes uint64 // MaxUint64: the file system counts no inodes
	KeepBytes, KeepInodes uint64 // that stay free
	Writing               bool   // it showed while the restore wrote
	Cause                 error  // the kernel's error; nil where the restore stopped before that
	Btrfs                 bool   // a quota is the quota of a subvolume, which FreeBytes does not show
}

// inWords writes a number of bytes for people.
func inWords(bytes uint64) string {
	for _, u := range []struct {
		name string
		size uint64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= u.size {
			return fmt.Sprintf("%.1f %s", float64(bytes)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// Unwrap gives ErrRoom, and the kernel's error.
func (e *RoomError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrRoom}
	}
	return []error{ErrRoom, e.Cause}
}

func (e *RoomError) Error() string {
	var b strings.Builder
	which := "volume "
	if len(e.Volumes) > 1 {
		which = "volumes "
	}
	quoted := make([]string, len(e.Volumes))
	for i, v := range e.Volumes {
		quoted[i] = fmt.Sprintf("%q", v)
	}
	b.WriteString(ErrRoom.Error())
	if len(quoted) > 0 {
		fmt.Fprintf(&b, " for %s%s", which, strings.Join(quoted, ", "))
	}
	if e.NeedBytes > 0 || e.NeedInodes > 0 {
		fmt.Fprintf(&b, ", of %s in %d entries", inWords(e.NeedBytes), e.NeedInodes)
	}
	fmt.Fprintf(&b, ": the file system of %s has %s", e.Folder, inWords(e.FreeBytes))
	if e.FreeInodes != math.MaxUint64 {
		fmt.Fprintf(&b, " and %d inodes", e.FreeInodes)
	}
	fmt.Fprintf(&b, " free, of which %s", inWords(e.KeepBytes))
	if e.FreeInodes != math.MaxUint64 {
		fmt.Fprintf(&b, " and %d inodes", e.KeepInodes)
	}
	b.WriteString(" are to stay free")
	switch {
	case errors.Is(e.Cause, unix.EDQUOT) && e.Btrfs:
		fmt.Fprintf(&b, "; the quota of a subvolume is used up, which the free space does not show: `btrfs qgroup show -re %s` shows the limits; "+
			"raise one (`btrfs qgroup limit`), or remove content that nobody needs", e.Folder)
	case errors.Is(e.Cause, unix.EDQUOT):
		b.WriteString("; a quota is used up: raise the quota of the user, group or project, or remove content that nobody needs")
	case e.Cause != nil:
		fmt.Fprintf(&b, "; the kernel says %q", e.Cause.Error())
	case e.Writing:
		b.WriteString("; the restore stopped while it wrote, before the file system was full")
	}
	return b.String()
}

// CheckRoom compares the needs of volumes with the free space around them, and returns a *RoomError
// where they do not fit. Volumes on one file system add up. Blocks that could be shared by
// reflinks, and compression, do not count: nothing tells before how much that is.
func CheckRoom(needs []Need, r Reserve) error {
	places := map[string]*space{}
	for _, n := range needs {
		own, err := lookAt(n.Folder, r)
		if err != nil {
			return err
		}
		bytes, inodes := n.Bytes+n.Entries*own.block/2, n.Entries
		bytes, inodes = bytes-min(bytes, n.Freed), inodes-min(inodes, n.FreedEntries)
		if err := own.fits([]string{n.Volume}, bytes, inodes); err != nil {
			return err
		}
		all := places[own.id]
		if all == nil {
			all = &own
			places[own.id] = all
		}
		// folders of one file system may have quotas of their own: the sum has the room of the
		// largest
		all.free, all.inodes = max(all.free, own.free), max(all.inodes, own.inodes)
		all.needBytes, all.needInodes = all.needBytes+bytes, all.needInodes+inodes
		all.volumes = append(all.volumes, n.Volume)
	}
	for _, s := range places {
		if err := s.fits(s.volumes, s.needBytes, s.needInodes); err != nil {
			return err
		}
	}
	return nil
}

// Short returns a *RoomError while the file system of a folder has less free than is to stay so.
func Short(folder string, r Reserve) error {
	s, err := lookAt(folder, r)
	if err != nil {
		return err
	}
	return s.fits(nil, 0, 0)
}

func (s *space) fits(volumes []string, bytes, inodes uint64) error {
	short := s.free < s.keep || s.free-s.keep < bytes
	if s.inodes != math.MaxUint64 {
		short = short || s.inodes < s.keepInodes || s.inodes-s.keepInodes < inodes
	}
	if !short {
		return nil
	}
	return s.short(volumes, bytes, inodes)
}

func (s *space) short(volumes []string, bytes, inodes uint64) *RoomError {
	return &RoomError{
		Volumes: volumes, Folder: s.folder, NeedBytes: bytes, NeedInodes: inodes, FreeBytes: s.free, FreeInodes: s.inodes, KeepBytes: s.keep, KeepInodes: s.keepInodes,
	}
}

// Bounds of the watch while a restore writes.
const (
	// watchBytes and watchEntries are how much is written between two looks: a look takes
	// microseconds, and the bytes in between are a small part of any reserve.
	watchBytes   = 4 << 20
	watchEntries = 256
)

// watch stops a restore before its file system is full. It is for any number of goroutines. A nil
// *watch allows everything.
type watch struct {
	folder, volume string
	reserve        Reserve

	mu             sync.Mutex
	bytes, entries uint64 // written since the last look
	// unseen are the bytes written since all was flushed last: a file system may not count
	// bytes that are not on its disk yet.
	unseen  uint64
	flushed uint64 // bytes free then; 0: not known
	failed  error
}

// take is called before so much is written. Its error is a *RoomError, and the same for all
// callers.
func (w *watch) take(bytes, entries uint64) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes, w.entries, w.unseen = w.bytes+bytes, w.entries+entries, w.unseen+bytes
	if w.failed != nil || w.bytes < watchBytes && w.entries < watchEntries && w.flushed > 0 {
		return w.failed
	}
	w.failed = w.look()
	return w.failed
}

// look compares the free space with the reserve. Before the restore is stopped for that, its bytes
// are flushed, so that the file system counts it.
func (w *watch) look() error {
	s, err := lookAt(w.folder, w.reserve)
	if err != nil {
		return err
	}
	w.bytes, w.entries = 0, 0
	if w.flushed == 0 {
		w.flushed, w.unseen = max(s.free, 1), 0
	}
	if left := min(s.free, w.flushed-min(w.flushed, w.unseen)); left >= s.keep && w.inodesFit(&s) {
		return nil
	}
	if err := flush(w.folder); err != nil {
		return err
	}
	if s, err = lookAt(w.folder, w.reserve); err != nil {
		return err
	}
	w.flushed, w.unseen = max(s.free, 1), 0
	if s.free >= s.keep && w.inodesFit(&s) {
		return nil
	}
	short := s.short([]string{w.volume}, 0, 0)
	short.Writing = true
	return short
}

func (w *watch) inodesFit(s *space) bool {
	return s.inodes == math.MaxUint64 || s.inodes >= s.keepInodes
}

// flush writes out the dirty pages of the file system of a folder.
func flush(folder string) error {
	fd, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: folder, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only flushed through
	if err := unix.Syncfs(fd); err != nil {
		return &os.PathError{Op: "flush", Path: folder, Err: err}
	}
	return nil
}

// full makes a *RoomError of the kernel's error for a file system, or a quota, that is full.
func full(err error, volume, folder string, r Reserve) error {
	cause := unix.ENOSPC
	switch {
	case err == nil, errors.Is(err, ErrRoom):
		return err
	case errors.Is(err, unix.EDQUOT):
		cause = unix.EDQUOT
	case !errors.Is(err, unix.ENOSPC):
		return err
	}
	s, lookErr := lookAt(folder, r)
	if lookErr != nil {
		return err
	}
	short := s.short([]string{volume}, 0, 0)
	short.Writing, short.Cause = true, cause
	var fs unix.Statfs_t
	short.Btrfs = unix.Statfs(folder, &fs) == nil && fs.Type == unix.BTRFS_SUPER_MAGIC
	return short
}
