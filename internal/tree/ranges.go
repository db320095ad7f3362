package tree

import (
	"errors"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// Range is a run of bytes of a file.
type Range struct{ Off, Len int64 }

// DataRanges yields the parts of f that hold data, in order, none empty, none beyond
// size; between them are holes. It moves the offset of f, so read with ReadAt. A file
// system that does not know holes gives one range.
func DataRanges(f *os.File, size int64) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for off := int64(0); ; {
			r := NextData(f, off, size)
			if r.Len == 0 || !yield(r) {
				return
			}
			off = r.Off + r.Len
		}
	}
}

// NextData returns the first range of DataRanges from off on, which is
// 0 or the end of the range before; its Len is 0 when there is none.
func NextData(f *os.File, off, size int64) Range {
	if off >= size {
		return Range{}
	}
	// SEEK_DATA answers with a place, or says that there is none. No other answer tells
	// of holes, so the rest is read as data; if the file is at fault, the read shows it.
	rest := Range{off, size - off}
	data, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but a hole up to the end
		return Range{}
	case err != nil || data < off:
		return rest
	case data >= size:
		return Range{}
	}
	hole, err := f.Seek(data, unix.SEEK_HOLE)
	switch {
	case errors.Is(err, unix.ENXIO): // it became shorter meanwhile
		return Range{}
	case err != nil || hole <= data:
		return rest
	}
	return Range{data, min(hole, size) - data}
}
