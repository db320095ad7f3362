package index

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/format"
	"holdfast/internal/vault/secondlook"
)

// segmentDir is a vault's folder of index segments on the local disk: files with the very
// bytes of the stored objects and their ids as names. They are sealed, so nobody with
// access to the disk can read or forge a row. Any number of processes may use a folder at
// once: a file gets its name by a rename, is never changed, and may be removed while
// others have it mapped. Without a path, files have no names and end with the process.
//
// Nothing is synced: after a power loss a file may be torn. Its length
// or its seal shows that, and then the segment is fetched again.
//
// No fault of the disk fails a backup: a segment for which the folder has no room is fetched
// into a file without a name, and where there is no room for that either, into memory, up to
// maxInMemory. The backup goes on without the other segments, and stores their chunks anew.
type segmentDir struct {
	path   string
	shared *segmentPlaces
}

// Unfinished begins the name of a file that is being written.
const Unfinished = ".new-"

// maxInMemory is how many bytes of segments one index holds in
// memory when no disk takes them. A segment has 51 bytes a chunk.
const maxInMemory = 64 << 20

// segmentPlaces is the state that the copies of a segmentDir share.
type segmentPlaces struct {
	mu       sync.Mutex
	locked   map[string]*os.File // by name: unfinished files of this process, with their locks
	inMemory int64               // bytes of segments
	maxInMem int64
	cause    error // why the disk did not take the first segment that it did not take
	without  int   // segments that are not there for lack of room
}

// newSegmentDir returns the folder of that path; "" is none.
func newSegmentDir(path string) segmentDir {
	return segmentDir{path, &segmentPlaces{locked: map[string]*os.File{}, maxInMem: maxInMemory}}
}

// openSegmentDir returns the vault's folder in dir, and removes the folders of vaults that were not
// used for long; "" keeps nothing. Beside an error it returns a folder that works without a disk.
func (in Place) openSegmentDir(dir string) (segmentDir, error) {
	none := newSegmentDir("")
	if dir == "" {
		return none, nil
	}
	path := filepath.Join(dir, in.Folder)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return none, err
	}
	others, err := os.ReadDir(dir)
	if err != nil {
		return none, err
	}
	now := clockNow()
	use(path, now)
	for _, e := range others {
		if id, err := hex.DecodeString(e.Name()); err != nil || len(id) != 8 || !e.IsDir() || e.Name() == in.Folder {
			continue // not of the form of a fingerprint
		}
		if other := filepath.Join(dir, e.Name()); unused(other, now) {
			_ = os.RemoveAll(other) // a file that stays costs room and nothing else
		}
	}
	return newSegmentDir(path), nil
}

func (d segmentDir) file(id SegmentID) string { return filepath.Join(d.path, id.String()) }

// create begins a file. keep or discard ends it. Until then the file is
// locked, by which others tell it from the files that a killed process left.
func (d segmentDir) create() (*os.File, error) {
	if d.path == "" {
		return d.nameless()
	}
	for range 10 {
		f, err := os.CreateTemp(d.path, Unfinished+"*")
		if err != nil {
			return nil, err
		}
		lock, err := lockFile(f)
		if err == nil {
			d.shared.mu.Lock()
			d.shared.locked[f.Name()] = lock
			d.shared.mu.Unlock()
			return f, nil
		}
		_ = os.Remove(f.Name()) // nobody uses it
		_ = f.Close()
		if !errors.Is(err, errSwept) {
			return nil, err
		}
	}
	return nil, errSwept
}

// errSwept says that somebody removed a file before it was locked.
var errSwept = errors.New("a file that was just made is gone again")

// lockFile locks f until the returned file is closed. Where the
// file system has no locks, nobody takes the file for left behind.
func lockFile(f *os.File) (*os.File, error) {
	// of the same open file, so it holds the lock when f is closed
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	lock := os.NewFile(uintptr(fd), f.Name())
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		_ = lock.Close() // nothing was written
		return nil, errSwept
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 {
		_ = lock.Close() // nothing was written
		return nil, cmp.Or(err, errSwept)
	}
	return lock, nil
}

// unlock ends the lock of an unfinished file.
func (d segmentDir) unlock(tmp string) {
	d.shared.mu.Lock()
	lock := d.shared.locked[tmp]
	delete(d.shared.locked, tmp)
	d.shared.mu.Unlock()
	if lock != nil {
		_ = lock.Close() // nothing was written through it
	}
}

// nameless begins a file without a name in the folder for temporary files.
func (segmentDir) nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "holdfast-index-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // never used
		return nil, err
	}
	return f, nil
}

// errNoRoom says that neither a disk nor the memory takes a segment.
var errNoRoom = errors.New("no room for a part of the index")

// memory begins a file in memory for size bytes.
func (d segmentDir) memory(size int64) (*os.File, error) {
	d.shared.mu.Lock()
	room := d.shared.inMemory+size <= d.shared.maxInMem
	if room {
		d.shared.inMemory += size
	}
	d.shared.mu.Unlock()
	if !room {
		return nil, errNoRoom
	}
	fd, err := unix.MemfdCreate("holdfast-index", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "holdfast-index"), nil
}

// keep gives the file begun as tmp its name, and returns that; ""
// when it could not, and then the next writer fetches the segment.
func (d segmentDir) keep(tmp string, id SegmentID) string {
	if d.path == "" {
		return ""
	}
	defer d.unlock(tmp)
	if os.Rename(tmp, d.file(id)) != nil {
		_ = os.Remove(tmp) // a file that stays is swept later
		return ""
	}
	return d.file(id)
}

// discard removes a file begun as tmp that was not kept.
func (d segmentDir) discard(tmp string) {
	if d.path != "" {
		_ = os.Remove(tmp) // a file that stays is swept later
		d.unlock(tmp)
	}
}

// open maps the cached segment of that id and size, and removes a file with other content.
func (d segmentDir) open(in Place, id SegmentID, size int64) (*segment, error) {
	if d.path == "" {
		return nil, os.ErrNotExist
	}
	f, err := os.Open(d.file(id))
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	s, err := mapSegment(id, in.AEAD(id), f)
	if err == nil && int64(s.size()) != size {
		s.close()
		err = fmt.Errorf("cached index segment has not the %d bytes of the stored one", size)
	}
	if err != nil {
		_ = os.Remove(d.file(id)) // else it fails the same way next time
		return nil, err
	}
	s.path = d.file(id)
	return s, nil
}

// sweep removes the files of segments for which keep is false, and
// the files that killed processes left. Files with other names stay.
func (d segmentDir) sweep(keep func(SegmentID) bool) {
	if d.path == "" {
		return
	}
	files, err := os.ReadDir(d.path)
	if err != nil {
		return // a file that stays costs room and nothing else
	}
	for _, f := range files {
		name := filepath.Join(d.path, f.Name())
		if strings.HasPrefix(f.Name(), Unfinished) {
			sweepUnfinished(name)
		} else if id, ok := ParseSegmentID(f.Name()); ok && !keep(id) {
			_ = os.Remove(name)
		}
	}
}

// sweepUnfinished removes an unfinished file whose writer has
// ended: a lock goes with the process that has it.
func sweepUnfinished(name string) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close() // nothing is written
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = os.Remove(name) // a file that stays costs room and nothing else
	}
}

// fetchPart is how much of a segment is in memory while it is fetched.
const fetchPart = 1 << 20

// fetch copies the stored segment of that id and size to the local disk, or into memory where the
// disk does not take it, and maps it. obs.ErrNotFound when it is not in the store any more, a
// *format.CorruptError when it is damaged, errNoRoom when nothing takes it; other errors are the
// store's.
func (d segmentDir) fetch(ctx context.Context, in Place, id SegmentID, size int64) (*segment, error) {
	key := in.Key(id)
	if size < int64(indexTrailer) || size > maxIndexObject {
		return nil, &format.CorruptError{Object: key, Reason: fmt.Sprintf("%d bytes is no size of an index segment", size)}
	}
	places := []func() (*os.File, error){d.nameless, func() (*os.File, error) { return d.memory(size) }}
	if d.path != "" {
		s, err := d.fetchInto(ctx, in, id, size, d.create, true)
		if !d.failed(err) {
			return s, err
		}
	}
	for _, place := range places {
		s, err := d.fetchInto(ctx, in, id, size, place, false)
		if !d.failed(err) {
			return s, err
		}
	}
	d.shared.mu.Lock()
	defer d.shared.mu.Unlock()
	d.shared.without++
	return nil, errNoRoom
}

// diskError is a fault of the place that a segment is to be kept in, not of the store.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

// failed tells whether err is of the place, and keeps the first such in mind.
func (d segmentDir) failed(err error) bool {
	disk, ok := errors.AsType[*diskError](err)
	if !ok {
		return false
	}
	d.shared.mu.Lock()
	defer d.shared.mu.Unlock()
	if d.shared.cause == nil {
		d.shared.cause = disk.err
	}
	return true
}

// firstFault notes that the disk did not take something, and tells whether it took all before.
func (d segmentDir) firstFault(err error) bool {
	d.shared.mu.Lock()
	defer d.shared.mu.Unlock()
	first := d.shared.cause == nil
	d.shared.cause = cmp.Or(d.shared.cause, err)
	return first
}

// trouble says in one sentence what the disk refused; nil when it refused nothing.
func (d segmentDir) trouble() error {
	d.shared.mu.Lock()
	defer d.shared.mu.Unlock()
	switch p := d.shared; {
	case p.cause == nil:
		return nil
	case p.without > 0:
		return fmt.Errorf("the disk does not take the index, and %d of its parts have no room in memory: %w", p.without, p.cause)
	default:
		return fmt.Errorf("the disk does not take the index, which is fetched anew each time: %w", p.cause)
	}
}

// fetchInto is fetch into one place; named gives the file its name.
func (d segmentDir) fetchInto(ctx context.Context, in Place, id SegmentID, size int64, place func() (*os.File, error), named bool) (*segment, error) {
	f, err := place()
	if err != nil {
		return nil, &diskError{err}
	}
	defer f.Close() // the mapping stays
	s, err := secondlook.Read(ctx, in.Store, in.Key(id), func(ctx context.Context) (*segment, error) { return d.fetchTo(ctx, in, id, size, f) })
	switch {
	case err != nil && named:
		d.discard(f.Name())
		return nil, err
	case err != nil:
		return nil, err
	case named:
		s.path = d.keep(f.Name(), id)
	}
	return s, nil
}

func (d segmentDir) fetchTo(ctx context.Context, in Place, id SegmentID, size int64, f *os.File) (*segment, error) {
	key := in.Key(id)
	part := make([]byte, min(size, fetchPart))
	for off := int64(0); off < size; off += int64(len(part)) {
		part = part[:min(size-off, fetchPart)]
		n, err := in.Store.ReadAt(ctx, key, part, off)
		switch {
		case n == len(part):
		case errors.Is(err, io.EOF):
			return nil, &format.CorruptError{Object: key, Reason: fmt.Sprintf("is cut off: ends at byte %d of %d", off+int64(n), size)}
		default:
			return nil, fmt.Errorf("read the index: %w", err)
		}
		if _, err := f.WriteAt(part, off); err != nil {
			return nil, &diskError{err}
		}
	}
	s, err := mapSegment(id, in.AEAD(id), f)
	var errno unix.Errno
	switch {
	case err == nil:
		return s, nil
	case format.IsNewer(err):
		return nil, fmt.Errorf("index segment %s: %w", key, err)
	case errors.As(err, &errno), errors.Is(err, errFault): // it was written, and can't be read
		return nil, &diskError{err}
	}
	return nil, &format.CorruptError{Object: key, Reason: err.Error()}
}
