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
		for off := int64(0); ; {
			r, err := NextData(f, off, size)
			if err == nil && r.Len == 0 || !yield(r, err) || err != nil {
				return
			}
			off = r.Off + r.Len
		}
	}
}

// NextData returns the first range of DataRanges from off on, which is 0 or the end of the range before; its Len is 0 when
// there is none.
func NextData(f *os.File, off, size int64) (Range, error) {
	if off >= size {
		return Range{}, nil
	}
	data, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but a hole up to the end
		return Range{}, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		return Range{off, size - off}, nil
	case err != nil:
		return Range{}, err
	case data >= size:
		return Range{}, nil
	}
	hole, err := f.Seek(data, unix.SEEK_HOLE)
	switch {
	case errors.Is(err, unix.ENXIO): // it became shorter meanwhile
		return Range{}, nil
	case err != nil:
		return Range{}, err
	case hole <= data: // never, unless the file system is broken
		return Range{}, io.ErrNoProgress
	}
	return Range{data, min(hole, size) - data}, nil
}
