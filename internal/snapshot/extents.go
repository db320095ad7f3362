package snapshot

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extent is a run of a file's content and its address. Content that no extent covers is a hole.
type Extent struct {
	Logical, Length int64 // bytes, in the file; a last extent may reach beyond its end
	// Physical is the address in bytes in the file's AddressSpace. Where Encoded, it is
	// the address of the whole encoded (compressed) run, and Inside is how far into the
	// decoded run the extent begins.
	Physical uint64
	Inside   uint64
	Encoded  bool
	// Zero marks allocated space that was never written: it reads as zeros.
	Zero bool
	// Vague marks an extent whose address does not determine its content: not allocated
	// yet, inside the file system's own trees, or encoded with an unknown Inside. Its
	// other fields are of no use.
	Vague bool
}

// End is the offset of the first byte behind the extent.
func (e Extent) End() int64 { return e.Logical + e.Length }

// same tells whether two extents have the same bytes at pos, which lies in both,
// and to the end of the shorter one, because they are the same bytes of the device.
func (e Extent) same(o Extent, pos int64) bool {
	if e.Vague || o.Vague || e.Encoded != o.Encoded {
		return false
	}
	if e.Encoded {
		return e.Physical == o.Physical && e.Inside+uint64(pos-e.Logical) == o.Inside+uint64(pos-o.Logical)
	}
	return e.Physical+uint64(pos-e.Logical) == o.Physical+uint64(pos-o.Logical)
}

// AddressSpace names the space of the addresses of extents: two files can share bytes
// only when their spaces are the same, and then extents with the same address (and the
// same Inside) have the same content for as long as neither file is written. The name
// is good while the file system stays mounted.
func AddressSpace(f *os.File) (string, error) {
	if id, err := fsid(f); err == nil {
		// subvolumes differ in st_dev, and share their blocks
		return fmt.Sprintf("btrfs %x", id), nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	var attr fsxattr
	if ioctl(f, iocFsGetXattr, unsafe.Pointer(&attr)) == nil && attr.xflags&xflagRealtime != 0 {
		// XFS: another device, with addresses of its own
		return fmt.Sprintf("realtime %x", st.Dev), nil
	}
	return fmt.Sprintf("device %x", st.Dev), nil
}

// Extents lists the extents of a regular file in the order of Logical; it
// flushes the file first. The same run may come in several pieces. On btrfs with
// CAP_SYS_ADMIN they come from the file system's trees, elsewhere from FIEMAP; a
// file system that has neither gives unix.EOPNOTSUPP. An error ends the list.
func Extents(f *os.File) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var st unix.Stat_t
		err := unix.Fstat(int(f.Fd()), &st)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			yield(Extent{}, fmt.Errorf("extents of %s: %w", f.Name(), err))
			return
		}
		list := fiemap(f)
		if hasSysAdmin() {
			if _, err := fsid(f); err == nil {
				list = treeExtents(f, st.Ino)
			}
		}
		for e, err := range list {
			if err != nil {
				yield(Extent{}, fmt.Errorf("extents of %s: %w", f.Name(), err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// fiemapBatch is how many extents one call asks for: 28 KiB of answer.
const fiemapBatch = 512

// From linux/fiemap.h.
const (
	iocFiemap  = 0xc020660b // _IOWR('f', 11, struct fiemap)
	fiemapSync = 1

	extentLast       = 1 << 0
	extentUnknown    = 1 << 1
	extentDelalloc   = 1 << 2
	extentEncoded    = 1 << 3
	extentEncrypted  = 1 << 7
	extentNotAligned = 1 << 8
	extentInline     = 1 << 9
	extentTail       = 1 << 10
	extentUnwritten  = 1 << 11
)

type fiemapArgs struct {
	start, length         uint64
	flags, mapped, wanted uint32
	_                     uint32
	extents               [fiemapBatch]struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
}

// fiemap asks the kernel for the extents of f. Compressed extents of
// btrfs are Vague here: their place inside the encoded run is not told.
func fiemap(f *os.File) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		args := new(fiemapArgs)
		for start := uint64(0); ; {
			*args = fiemapArgs{start: start, length: ^uint64(0) - start, flags: fiemapSync, wanted: fiemapBatch}
			if err := ioctl(f, iocFiemap, unsafe.Pointer(args)); err != nil {
				yield(Extent{}, fmt.Errorf("FIEMAP: %w", err))
				return
			}
			if args.mapped == 0 {
				return
			}
			for _, e := range args.extents[:min(args.mapped, fiemapBatch)] {
				if e.logical < start || e.length == 0 || e.logical+e.length < e.logical {
					yield(Extent{}, fmt.Errorf("FIEMAP: extent at %d, of %d bytes, is out of order", e.logical, e.length))
					return
				}
				start = e.logical + e.length
				const vague = extentUnknown | extentDelalloc | extentEncoded | extentEncrypted | extentNotAligned | extentInline | extentTail
				if !yield(Extent{
					Logical: int64(e.logical), Length: int64(e.length), Physical: e.physical,
					Zero: e.flags&extentUnwritten != 0 && e.flags&vague == 0, Vague: e.flags&vague != 0,
				}, nil) || e.flags&extentLast != 0 {
					return
				}
			}
		}
	}
}

// ChangedRanges lists, in order and without overlap, the ranges of now that may differ
// from base. It compares the addresses of both: bytes of the same address are equal, and
// so are holes and space that was never written. All bytes behind the end of base
// differ. Both must be regular files on one file system that nobody writes to meanwhile:
// views, such as a clone and a later clone. They need not be of the same volume.
//
// The list is a superset of the bytes that differ, in units of the file system's blocks.
// Ranges are joined where the list would grow beyond a million ranges. exact is false when
// some ranges are listed only because the file system told too little about them, such as
// a compressed extent without CAP_SYS_ADMIN. ErrBase says that the two can't be compared.
func ChangedRanges(base, now *os.File) (ranges []Range, exact bool, err error) {
	fail := func(err error) ([]Range, bool, error) {
		return nil, false, fmt.Errorf("compare the extents of %s with %s: %w", now.Name(), base.Name(), err)
	}
	before, err := views(base, now)
	if err != nil {
		return fail(err)
	}
	spaces := [2]string{}
	for i, f := range []*os.File{base, now} {
		if spaces[i], err = AddressSpace(f); err != nil {
			return fail(err)
		}
	}
	if spaces[0] != spaces[1] {
		return fail(fmt.Errorf("%w: they lie on different file systems", ErrBase))
	}
	ranges, exact, err = differ(Extents(base), Extents(now), before[0].Size, before[1].Size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return fail(fmt.Errorf("%w: %w", ErrBase, err))
	}
	if err != nil {
		return fail(err)
	}
	// A defragmentation that moved blocks while the lists were read could
	// make two addresses look equal that never were so at one time.
	after, err := views(base, now)
	if err != nil {
		return fail(err)
	}
	for i := range after {
		if after[i].Size != before[i].Size || after[i].Mtim != before[i].Mtim || after[i].Ctim != before[i].Ctim {
			return fail(fmt.Errorf("%w: one of them changed meanwhile", ErrBase))
		}
	}
	return ranges, exact, nil
}

// views looks at two files, which must be regular.
func views(files ...*os.File) ([]unix.Stat_t, error) {
	stats := make([]unix.Stat_t, len(files))
	for i, f := range files {
		if err := unix.Fstat(int(f.Fd()), &stats[i]); err != nil {
			return nil, fmt.Errorf("stat %s: %w", f.Name(), err)
		}
		if stats[i].Mode&unix.S_IFMT != unix.S_IFREG {
			return nil, fmt.Errorf("%w: %s is no regular file", ErrBase, f.Name())
		}
	}
	return stats, nil
}

// differ compares two lists of extents of files of the given sizes in one walk over both.
func differ(base, now iter.Seq2[Extent, error], baseSize, nowSize int64) ([]Range, bool, error) {
	a, stopA := pull(base)
	defer stopA()
	b, stopB := pull(now)
	defer stopB()
	list := rangeList{}
	exact := true
	end := min(baseSize, nowSize)
	for pos := int64(0); pos < end; {
		x, inX, endX := a.at(pos)
		y, inY, endY := b.at(pos)
		if err := errors.Join(a.err, b.err); err != nil {
			return nil, false, err
		}
		next := min(endX, endY, end)
		zeroX, zeroY := !inX || x.Zero, !inY || y.Zero
		switch {
		case zeroX && zeroY:
		case !zeroX && !zeroY && x.same(y, pos):
		default:
			list.add(Range{pos, next - pos})
			exact = exact && !x.Vague && !y.Vague
		}
		pos = next
	}
	if nowSize > end {
		list.add(Range{end, nowSize - end})
	}
	return list.ranges, exact, nil
}

// extentCursor walks over a list of extents.
type extentCursor struct {
	next func() (Extent, error, bool)
	cur  Extent
	done bool
	err  error
}

func pull(list iter.Seq2[Extent, error]) (*extentCursor, func()) {
	next, stop := iter.Pull2(list)
	return &extentCursor{next: next}, stop
}

// at gives the extent that holds pos, and where it ends; or that pos lies in a hole, and where the
// hole ends. pos must not be less than before.
func (c *extentCursor) at(pos int64) (e Extent, in bool, end int64) {
	for !c.done && c.cur.End() <= pos {
		cur, err, ok := c.next()
		if c.done = !ok || err != nil; c.done {
			c.err = err
			break
		}
		if c.cur = cur; cur.Logical < 0 || cur.Length <= 0 {
			c.done, c.err = true, fmt.Errorf("extent at %d of %d bytes", cur.Logical, cur.Length)
		}
	}
	switch {
	case c.done:
		return Extent{}, false, 1<<63 - 1
	case c.cur.Logical > pos:
		return Extent{}, false, c.cur.Logical
	}
	return c.cur, true, c.cur.End()
}

// maxRanges bounds the memory of a list of ranges to 16 MiB.
const maxRanges = 1 << 20

// rangeList collects ranges in order, and joins near ones when they become too many.
type rangeList struct {
	ranges []Range
	gap    int64 // ranges that are so near are joined
	limit  int   // 0: maxRanges
}

func (l *rangeList) add(r Range) {
	limit := l.limit
	if limit == 0 {
		limit = maxRanges
	}
	for !l.join(r) {
		if len(l.ranges) < limit {
			l.ranges = append(l.ranges, r)
			return
		}
		l.gap = max(2*l.gap, 4096)
		old := l.ranges
		l.ranges = old[:1]
		for _, x := range old[1:] { // writes never get ahead of reads
			if !l.join(x) {
				l.ranges = append(l.ranges, x)
			}
		}
	}
}

// join puts r into the last range if it is near.
func (l *rangeList) join(r Range) bool {
	if len(l.ranges) == 0 {
		return false
	}
	last := &l.ranges[len(l.ranges)-1]
	if r.Offset-last.End() > l.gap {
		return false
	}
	last.Length = max(last.End(), r.End()) - last.Offset
	return true
}
