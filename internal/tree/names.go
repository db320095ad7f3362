package tree

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// namesMemory is about the most memory for the names of all folders on the way together, bytes.
	// The next folder on the way gets half of the remaining memory, but at least leastNames.
	namesMemory = 16 << 20
	leastNames  = 64 << 10
	// runBuffer is how much of each run is in memory while runs are merged, bytes.
	runBuffer = 16 << 10
)

// cname is a name of a folder with the NUL that ends it for the kernel.
type cname []byte

// bytes gives the name without its end.
func (n cname) bytes() []byte { return n[:len(n)-1] }

func (n cname) String() string { return string(n.bytes()) }

// names are the names that a walk has still to visit: for each folder on the way its remaining
// names, sorted. Names that do not fit in memory are in a file, as sorted runs that are merged
// when they are read. names is for one goroutine; its zero value is ready, close is due.
type names struct {
	memory int // namesMemory, but for tests
	lists  []*listing
	free   []*listing
	held   int // bytes of names of lists
	file   scratch
}

// listing has the names of one folder.
type listing struct {
	names []byte // each with its NUL
	spans []span // of names, sorted by name
	at    int    // the next of spans

	held  int   // bytes that its names take in memory
	begin int64 // where its runs begin in the file
	runs  []*run
	last  cname // that a merge gave
}

type span struct {
	ino uint64 // as the listing says: for a mount point, the number of the folder below the mount
	off uint32
	len uint16
}

// run is a sorted run of names in the file. Each name has its NUL and, behind it, its inode number.
type run struct {
	r    *bufio.Reader
	from int64
	size int64
	name cname  // at hand; nil at the end
	ino  uint64 // of name
}

const inoSize = 8

func (n *names) depth() int { return len(n.lists) }

// enter lists the folder fd, whose offset is at its start, through buf. The folder becomes the
// last one, also after an error. cut is the error that ended the listing before its end, if any:
// the folder then has the names that were listed before. A folder that is removed meanwhile is cut
// too (ENOENT), because a folder that can vanish with its content (a snapshot) had more names.
func (n *names) enter(fd int, buf []byte) (cut, err error) {
	l := &listing{}
	if last := len(n.free) - 1; last >= 0 {
		l, n.free = n.free[last], n.free[:last]
	}
	l.begin = n.file.end
	n.lists = append(n.lists, l)
	total := n.memory
	if total == 0 {
		total = namesMemory
	}
	limit := max(min(leastNames, total), (total-n.held)/2)
	for {
		got, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			cut = err
		}
		if err != nil || got == 0 {
			break
		}
		l.add(buf[:got])
		if l.size() > limit {
			if err := n.spill(l); err != nil {
				return cut, err
			}
		}
	}
	if len(l.runs) > 0 {
		if err := n.spill(l); err != nil {
			return cut, err
		}
	}
	if err := n.merge(l); err != nil {
		return cut, err
	}
	l.sort()
	l.held = l.size()
	n.held += l.held
	return cut, nil
}

// spill puts the names of l into the file as a run.
func (n *names) spill(l *listing) error {
	l.sort()
	r := &run{from: n.file.end}
	w := bufio.NewWriterSize(&n.file, 256<<10)
	var ino [inoSize]byte
	for _, s := range l.spans {
		binary.NativeEndian.PutUint64(ino[:], s.ino)
		_, _ = w.Write(l.names[s.off : s.off+uint32(s.len)+1]) // Flush reports
		_, _ = w.Write(ino[:])                                 // Flush reports
	}
	if err := w.Flush(); err != nil {
		return err
	}
	r.size = n.file.end - r.from
	l.runs = append(l.runs, r)
	l.names, l.spans = l.names[:0], l.spans[:0]
	return nil
}

// merge begins to read the runs of l.
func (n *names) merge(l *listing) error {
	if len(l.runs) == 0 {
		return nil
	}
	l.names, l.spans = nil, nil
	for _, r := range l.runs {
		r.r = bufio.NewReaderSize(io.NewSectionReader(n.file.f, r.from, r.size), runBuffer)
		if err := r.next(); err != nil {
			return err
		}
	}
	heap(l.runs)
	return nil
}

// next gives the next name of the last folder, good until the next call,
// and the inode number that the listing gave; nil when there is none.
func (n *names) next() (cname, uint64, error) {
	l := n.lists[len(n.lists)-1]
	if l.at < len(l.spans) {
		s := l.spans[l.at]
		l.at++
		return cname(l.names[s.off : s.off+uint32(s.len)+1]), s.ino, nil
	}
	for len(l.runs) > 0 && l.runs[0].name != nil {
		r := l.runs[0]
		again := bytes.Equal(l.last, r.name) // see sort
		l.last = append(l.last[:0], r.name...)
		ino := r.ino
		if err := r.next(); err != nil {
			return nil, 0, err
		}
		sink(l.runs, 0)
		if !again {
			return l.last, ino, nil
		}
	}
	return nil, 0, nil
}

// drop forgets the remaining names of the last folder.
func (n *names) drop() {
	l := n.lists[len(n.lists)-1]
	l.at, l.runs = len(l.spans), nil
}

// empty says whether nothing was listed of the last folder, of which no name was given yet.
func (n *names) empty() bool {
	l := n.lists[len(n.lists)-1]
	return len(l.spans) == 0 && len(l.runs) == 0
}

// only leaves of the last folder, of which no name was given yet, no name but this one.
func (n *names) only(name string) {
	l := n.lists[len(n.lists)-1]
	l.names, l.spans, l.at, l.runs = append(append(l.names[:0], name...), 0), []span{{len: uint16(len(name))}}, 0, nil
}

// leave forgets the last folder.
func (n *names) leave() {
	last := len(n.lists) - 1
	l := n.lists[last]
	n.lists = n.lists[:last]
	n.held -= l.held
	n.file.end = l.begin
	// The buffers of a huge folder are not kept for the small folders after it.
	if cap(l.names) <= 1<<20 {
		*l = listing{names: l.names[:0], spans: l.spans[:0]}
		n.free = append(n.free, l)
	}
}

func (n *names) close() { n.file.close() }

// size is the memory of the names, in bytes.
func (l *listing) size() int {
	const ofSpan = 16
	return len(l.names) + ofSpan*len(l.spans)
}

func (l *listing) bytes(s span) []byte { return l.names[s.off : s.off+uint32(s.len)] }

func (l *listing) sort() {
	slices.SortFunc(l.spans, func(a, b span) int { return bytes.Compare(l.bytes(a), l.bytes(b)) })
	// A folder that changes while it is listed may give a name twice.
	l.spans = slices.CompactFunc(l.spans, func(a, b span) bool { return bytes.Equal(l.bytes(a), l.bytes(b)) })
}

// add takes the names of a run of struct linux_dirent64: inode,
// offset, length (at 16), type, name (at 19).
func (l *listing) add(d []byte) {
	const inoAt, lenAt, nameAt = 0, 16, 19
	for len(d) > nameAt {
		n := int(binary.NativeEndian.Uint16(d[lenAt:]))
		if n <= nameAt || n > len(d) {
			return
		}
		name, ino := d[nameAt:n], binary.NativeEndian.Uint64(d[inoAt:])
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		d = d[n:]
		if string(name) == "." || string(name) == ".." || len(name) == 0 {
			continue
		}
		l.spans = append(l.spans, span{ino: ino, off: uint32(len(l.names)), len: uint16(len(name))})
		l.names = append(append(l.names, name...), 0)
	}
}

// next reads the next name of the run. No name has a NUL, so it ends at the first.
func (r *run) next() error {
	name, err := r.r.ReadSlice(0)
	switch {
	case err == nil:
		r.name = append(r.name[:0], name...)
	case errors.Is(err, io.EOF) && len(name) == 0:
		r.name = nil
		return nil
	default:
		return &ownFault{fmt.Errorf("read back names: %w", err)}
	}
	var ino [inoSize]byte
	if _, err := io.ReadFull(r.r, ino[:]); err != nil {
		return &ownFault{fmt.Errorf("read back names: %w", err)}
	}
	r.ino = binary.NativeEndian.Uint64(ino[:])
	return nil
}

// before orders runs by the name at hand, runs at their end last. The NUL sorts before
// every other byte.
func (r *run) before(other *run) bool {
	return r.name != nil && (other.name == nil || bytes.Compare(r.name, other.name) < 0)
}

// heap orders runs so that the first is the least of all, and run i not after runs 2i+1 and 2i+2.
func heap(runs []*run) {
	for i := len(runs)/2 - 1; i >= 0; i-- {
		sink(runs, i)
	}
}

// sink restores that order after run i has become greater.
func sink(runs []*run, i int) {
	for {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < len(runs) && runs[child].before(runs[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		runs[i], runs[least] = runs[least], runs[i]
		i = least
	}
}

// scratch is a file without a name, made with the first write. Its zero value is ready.
type scratch struct {
	f   *os.File
	end int64 // where the next write goes
}

func (s *scratch) Write(p []byte) (int, error) {
	if s.f == nil {
		f, err := os.CreateTemp("", "holdfast-names-")
		if err != nil {
			return 0, &ownFault{fmt.Errorf("make a file for what does not fit in memory: %w", err)}
		}
		s.f = f
		if err := os.Remove(f.Name()); err != nil {
			return 0, &ownFault{fmt.Errorf("unlink a temporary file: %w", err)}
		}
	}
	n, err := s.f.WriteAt(p, s.end)
	s.end += int64(n)
	if err != nil {
		err = &ownFault{fmt.Errorf("write what does not fit in memory to the temporary folder: %w", err)}
	}
	return n, err
}

func (s *scratch) close() {
	if s.f != nil {
		_ = s.f.Close() // nobody reads it again
	}
}

// links remembers the first name of every file of which further
// names are to come. Its zero value is ready, close is due.
type links struct {
	seen  map[linkID]firstName
	file  scratch // paths, one behind the other
	fresh []byte  // the end of them, not in the file yet
}

// linkID is a fileID without the mount: all linkIDs are on the mount of the tree's root.
type linkID struct{ dev, ino uint64 }

// firstName is the place of the path of a first name, and the number of names still to come.
type firstName struct {
	at   int64
	len  uint32
	left uint32
}

// freshLinks is how many bytes of paths are in memory.
const freshLinks = 1 << 20

// first remembers path as the first name of a file, of which left names are to come.
func (l *links) first(id fileID, path string, left uint32) error {
	if len(l.fresh)+len(path) > freshLinks {
		if _, err := l.file.Write(l.fresh); err != nil {
			return err
		}
		l.fresh = l.fresh[:0]
	}
	if l.seen == nil {
		l.seen = make(map[linkID]firstName)
	}
	l.seen[linkID{id.dev, id.ino}] = firstName{at: l.file.end + int64(len(l.fresh)), len: uint32(len(path)), left: left}
	l.fresh = append(l.fresh, path...)
	return nil
}

// further returns the first name of a file, if it had one.
func (l *links) further(id fileID) (path string, ok bool, err error) {
	key := linkID{id.dev, id.ino}
	n, ok := l.seen[key]
	if !ok {
		return "", false, nil
	}
	if n.left--; n.left == 0 {
		delete(l.seen, key)
	} else {
		l.seen[key] = n
	}
	if n.at >= l.file.end {
		at := n.at - l.file.end
		return string(l.fresh[at : at+int64(n.len)]), true, nil
	}
	p := make([]byte, n.len)
	if _, err := l.file.f.ReadAt(p, n.at); err != nil {
		return "", false, &ownFault{fmt.Errorf("read it back: %w", err)}
	}
	return string(p), true, nil
}

// known says whether a name of the file id was given and others were still to come.
func (l *links) known(id linkID) bool {
	_, ok := l.seen[id]
	return ok
}

func (l *links) close() { l.file.close() }
