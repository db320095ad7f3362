package index

import (
	"bytes"
	"cmp"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime/debug"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"holdfast/internal/chunk"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
	"holdfast/internal/vault/offheap"
)

// The bytes of an index segment, see FORMAT.md.
const (
	indexMagic     = "HFINDX\x00\x01"
	indexRowSize   = 32 + 4 + 4 + 4 + 4
	blockRows      = 21 // of one block, which with its tag has 1024 bytes
	blockSize      = blockRows*indexRowSize + format.Tag
	packEntry      = 16 + 4 // of a pack that a segment lists: its id and its size
	indexTrailer   = 4*4 + len(indexMagic)
	maxIndexRows   = 1 << 20 // of one segment
	maxReplaced    = 1 << 12
	maxIndexObject = int64(maxIndexRows*indexRowSize + (maxIndexRows/blockRows+1)*(format.Tag+8) +
		packEntry*maxIndexRows + 16*maxReplaced + filterLine*(filterBits*maxIndexRows/(8*filterLine)+1) + format.Tag + indexTrailer)
)

// shape is how many there are of each part of a segment; its trailer says so.
type shape struct{ rows, packs, replaced, lines int }

func (s shape) blocks() int { return (s.rows + blockRows - 1) / blockRows }

func (s shape) headSize() int {
	return packEntry*s.packs + 16*s.replaced + 8*s.blocks() + filterLine*s.lines
}

// blocksSize is where the blocks end and the sealed head begins.
func (s shape) blocksSize() int { return s.rows*indexRowSize + s.blocks()*format.Tag }

func (s shape) size() int { return s.blocksSize() + s.headSize() + format.Tag + indexTrailer }

func (s shape) trailer() []byte {
	out := make([]byte, 0, indexTrailer)
	for _, n := range []int{s.rows, s.packs, s.replaced, s.lines} {
		out = binary.LittleEndian.AppendUint32(out, uint32(n))
	}
	return append(out, indexMagic...)
}

// parseTrailer reads the end of a segment of size bytes. Its
// numbers are within the limits of the format and fit the size.
func parseTrailer(b []byte, size int64) (s shape, err error) {
	if len(b) != indexTrailer || string(b[4*4:]) != indexMagic {
		if len(b) == indexTrailer && bytes.HasPrefix(b[4*4:], []byte(indexMagic[:6])) {
			return s, format.ErrNewer
		}
		return s, errors.New("does not end as an index segment does: cut off, or none of a known version")
	}
	u := func(i int) int { return int(binary.LittleEndian.Uint32(b[4*i:])) }
	s = shape{rows: u(0), packs: u(1), replaced: u(2), lines: u(3)}
	if s.rows < 1 || s.rows > maxIndexRows || s.packs < 1 || s.packs > maxIndexRows || s.replaced > maxReplaced ||
		s.lines < 1 || s.lines > filterLines(maxIndexRows) || int64(s.size()) != size {
		return s, fmt.Errorf("%d bytes is no size of an index segment of %d rows", size, s.rows)
	}
	return s, nil
}

// A filter tells of most names that a segment does not have them, without a look at
// its rows: a Bloom filter whose bits of one name all lie in one line of a
// processor's cache (Putze, Sanders, Singler, "Cache-, hash- and space-efficient
// Bloom filters", 2007). Names are keyed hashes, so bits of the name serve as hash.
type filter []byte

const (
	filterLine   = 64 // bytes
	filterBits   = 12 // a row: one absent name in 150 passes
	filterProbes = 7
)

// filterLines is how many lines a filter of that many rows has.
func filterLines(rows int) int { return (rows*filterBits + 8*filterLine - 1) / (8 * filterLine) }

// at returns the line of a name and the positions of its bits, 9 bits each.
func (f filter) at(name *chunk.Name) (line []byte, positions uint64) {
	n, _ := bits.Mul64(binary.LittleEndian.Uint64(name[8:]), uint64(len(f)/filterLine))
	return f[n*filterLine:][:filterLine], binary.LittleEndian.Uint64(name[16:])
}

func (f filter) add(name *chunk.Name) {
	line, p := f.at(name)
	for range filterProbes {
		line[p>>3%filterLine] |= 1 << (p & 7)
		p >>= 9
	}
}

func (f filter) mayHold(name *chunk.Name) bool {
	line, p := f.at(name)
	for range filterProbes {
		if line[p>>3%filterLine]&(1<<(p&7)) == 0 {
			return false
		}
		p >>= 9
	}
	return true
}

// segment is an open index segment: its file is mapped, its head lies open in
// memory. Its methods may be called from any number of goroutines until close.
type segment struct {
	id   SegmentID
	aead cipher.AEAD
	shape
	data []byte // the mapped file
	open []byte // the head, outside the Go heap, which would let the heap grow to twice of it
	path string // of the cached file, "" when it has none

	listed   []byte // the packs; these four are parts of the head
	replaces []byte
	fences   []byte
	filter   filter

	faulty atomic.Bool // a block did not open, and that was told
}

var errTooShort = errors.New("is too short for an index segment")

// newSegment opens the head of a segment whose bytes are data. It does not look at the blocks.
func newSegment(id SegmentID, aead cipher.AEAD, data []byte) (*segment, error) {
	if len(data) < indexTrailer {
		return nil, errTooShort
	}
	trailer := slices.Clone(data[len(data)-indexTrailer:])
	sh, err := parseTrailer(trailer, int64(len(data)))
	if err != nil {
		return nil, err
	}
	open, err := offheap.Take(sh.headSize() + format.Tag)
	if err != nil {
		return nil, err
	}
	copy(open, data[sh.blocksSize():])
	head, err := aead.Open(open[:0], format.Nonce(0), open, trailer)
	if err != nil {
		offheap.Free(open)
		return nil, seal.ErrOpen
	}
	s := &segment{id: id, aead: aead, shape: sh, data: data, open: open}
	cut := func(n int) []byte {
		part := head[:n:n]
		head = head[n:]
		return part
	}
	s.listed, s.replaces, s.fences, s.filter = cut(packEntry*sh.packs), cut(16*sh.replaced), cut(8*sh.blocks()), cut(filterLine*sh.lines)
	return s, nil
}

// mapSegment opens the segment in f, which may be closed afterwards. Nobody changes the
// file, but the disk may fail under it, so its mapping is only read under guardFaults.
func mapSegment(id SegmentID, aead cipher.AEAD, f *os.File) (*segment, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < int64(indexTrailer) || info.Size() > maxIndexObject {
		return nil, fmt.Errorf("%d bytes is no size of an index segment", info.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map index segment: %w", err)
	}
	_ = unix.Madvise(data, unix.MADV_RANDOM) // names are random: reading ahead is of no use
	var s *segment
	if ferr := guardFaults(func() { s, err = newSegment(id, aead, data) }); ferr != nil {
		err = ferr
	}
	if err != nil {
		_ = unix.Munmap(data) // fails only for memory that is not mapped
		return nil, err
	}
	return s, nil
}

// close frees the memory and the mapping. Nobody may use the segment any more. It is idempotent.
func (s *segment) close() {
	offheap.Free(s.open)
	_ = unix.Munmap(s.data) // fails only for memory that is not mapped
	s.open, s.data = nil, nil
}

// errFault says that the disk failed under a mapping.
var errFault = errors.New("cached index segment can't be read")

// guardFaults runs read, which reads mapped memory, and returns an error where that
// fails: a disk that can't be read, or a file that somebody made shorter, raises SIGBUS.
func guardFaults(read func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			// the runtime panics with such a value, see SetPanicOnFault
			fault, ok := r.(interface{ Addr() uintptr })
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%w at %#x", errFault, fault.Addr())
		}
	}()
	read()
	return nil
}

// blockBuffers are for one block each.
var blockBuffers = sync.Pool{New: func() any { return new([blockSize]byte) }}

// block opens block i into buf and returns its rows.
func (s *segment) block(i int, buf *[blockSize]byte) ([]byte, error) {
	n := min(blockRows, s.rows-i*blockRows)*indexRowSize + format.Tag
	if err := guardFaults(func() { copy(buf[:n], s.data[i*blockSize:]) }); err != nil {
		return nil, err
	}
	rows, err := s.aead.Open(buf[:0], format.Nonce(uint32(i+1)), buf[:n], nil)
	if err != nil {
		return nil, seal.ErrOpen
	}
	return rows, nil
}

func (s *segment) fence(i int) uint64 { return binary.BigEndian.Uint64(s.fences[8*i:]) }

// find returns where the chunk of that name is. Its error says that a block is damaged.
func (s *segment) find(name *chunk.Name) (format.Loc, bool, error) {
	if !s.filter.mayHold(name) {
		return format.Loc{}, false, nil
	}
	want := binary.BigEndian.Uint64(name[:])
	after := sort.Search(s.blocks(), func(i int) bool { return s.fence(i) > want })
	buf := blockBuffers.Get().(*[blockSize]byte)
	defer blockBuffers.Put(buf)
	// The row is in the last block that does not begin behind it; where
	// that begins with the same eight bytes, perhaps in the one before.
	for i := after - 1; i >= 0; i-- {
		rows, err := s.block(i, buf)
		if err != nil {
			return format.Loc{}, false, err
		}
		n := len(rows) / indexRowSize
		at := sort.Search(n, func(i int) bool { return bytes.Compare(rows[i*indexRowSize:][:32], name[:]) >= 0 })
		if at < n && chunk.Name(rows[at*indexRowSize:]) == *name {
			loc, err := s.loc(rows[at*indexRowSize:])
			return loc, err == nil, err
		}
		if s.fence(i) < want {
			break
		}
	}
	return format.Loc{}, false, nil
}

// loc decodes what follows the name of a row.
func (s *segment) loc(row []byte) (format.Loc, error) {
	u := func(i int) uint32 { return binary.LittleEndian.Uint32(row[32+4*i:]) }
	if int64(u(0)) >= int64(s.packs) {
		return format.Loc{}, errors.New("index segment names a pack that it does not list")
	}
	return format.Loc{Pack: s.pack(int(u(0))), Off: u(1), Len: u(2), Raw: u(3)}, nil
}

func (s *segment) pack(i int) format.PackID { return format.PackID(s.listed[packEntry*i:]) }

// packRef returns the i-th pack that the segment lists, with its size.
func (s *segment) packRef(i int) format.PackRef {
	return format.PackRef{ID: s.pack(i), Size: int64(binary.LittleEndian.Uint32(s.listed[packEntry*i+16:]))}
}

func (s *segment) replacedID(i int) SegmentID { return SegmentID(s.replaces[16*i:]) }

// lists says whether the segment lists any of those packs.
func (s *segment) lists(packs map[format.PackID]bool) bool {
	for i := range s.packs {
		if packs[s.pack(i)] {
			return true
		}
	}
	return false
}

// damage returns what to tell of a segment of which a block did not
// open because of err. Is it the cached copy, that is removed, so that
// the next writer fetches the segment; else it is a *format.CorruptError.
func (in Place) damage(s *segment, err error) error {
	if s.path == "" {
		return &format.CorruptError{Object: in.Key(s.id), Reason: err.Error()}
	}
	_ = os.Remove(s.path) // when it stays it fails again, and is told again
	return fmt.Errorf("index segment %s, as it was cached: %w", s.id, err)
}

// check opens all blocks and checks all that a lookup relies on.
func (s *segment) check() error {
	c := s.cursor()
	for c.next() {
	}
	return c.err
}

// cursor walks over the rows of a segment. It is for one goroutine.
type cursor struct {
	s    *segment
	buf  [blockSize]byte
	left []byte // of the block
	n    int    // blocks opened
	name chunk.Name
	loc  format.Loc
	err  error
	done bool // next returned false
}

func (s *segment) cursor() *cursor { return &cursor{s: s} }

// next goes to the next row. It returns false at the end, or with err set.
func (c *cursor) next() bool {
	c.done = c.done || !c.step()
	return !c.done
}

func (c *cursor) step() bool {
	last, first := c.name, c.n == 0
	if len(c.left) == 0 {
		if c.n == c.s.blocks() {
			return false
		}
		if c.left, c.err = c.s.block(c.n, &c.buf); c.err != nil {
			return false
		}
		if binary.BigEndian.Uint64(c.left) != c.s.fence(c.n) {
			c.err = fmt.Errorf("block %d of the index segment does not begin with the name that its head says", c.n)
			return false
		}
		c.n++
	}
	c.name = chunk.Name(c.left)
	if c.loc, c.err = c.s.loc(c.left); c.err != nil {
		return false
	}
	c.left = c.left[indexRowSize:]
	if !first && bytes.Compare(last[:], c.name[:]) >= 0 {
		c.err = errors.New("rows of the index segment are not in order")
	} else if !c.s.filter.mayHold(&c.name) {
		c.err = errors.New("the index segment's filter does not pass a name that it has")
	}
	return c.err == nil
}

// compareLoc is the rule by which of two places of one chunk the first is taken, by every writer
// alike, whatever segments they are in: recipes of unchanged content stay the same bytes.
func compareLoc(a, b format.Loc) int {
	return cmp.Or(bytes.Compare(a.Pack[:], b.Pack[:]), cmp.Compare(a.Off, b.Off))
}
