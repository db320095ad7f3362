package tree

import (
	"errors"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// Range is a run of bytes of a file.
type Range struct{ Off, Len int64 }

// DataRanges yields the parts of f that hold data, in order, none empty, none beyond size; what lies
// between them is holes. It moves the offset of f, so read with ReadAt. A file system that does not know
// holes gives one range. After an error, which is the last thing yielded, nothing is known of the rest.
func DataRanges(f *os.File, size int64) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		for off := int64(0); off < size; {
			data, err := f.Seek(off, unix.SEEK_DATA)
			switch {
			case errors.Is(err, unix.ENXIO): // nothing but a hole up to the end
				return
			case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
				yield(Range{off, size - off}, nil)
				return
			case err != nil:
				yield(Range{}, err)
				return
			case data >= size:
				return
			}
			hole, err := f.Seek(data, unix.SEEK_HOLE)
			switch {
			case errors.Is(err, unix.ENXIO): // it became shorter meanwhile
				return
			case err == nil && hole <= data: // never, unless the file system is broken
				err = io.ErrNoProgress
				fallthrough
			case err != nil:
				yield(Range{}, err)
				return
			}
			hole = min(hole, size)
			if !yield(Range{data, hole - data}, nil) {
				return
			}
			off = hole
		}
	}
}
