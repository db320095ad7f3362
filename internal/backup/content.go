package backup

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"holdfast/internal/tree"
)

// content is an open file of a tree while it is read. Its methods, except next,
// may be called from several goroutines at once. The reads count, and not the
// size that stat gave: content notes where reads met the end of the file.
type content struct {
	f        *os.File
	size     int64 // up to where it is read
	holesToo bool  // holes are read like data
	end      atomic.Int64
}

// noEnd says that no read has met the end of the file.
const noEnd = math.MaxInt64

func newContent(f *os.File, size int64, holesToo bool) *content {
	c := &content{f: f, size: size, holesToo: holesToo}
	c.end.Store(noEnd)
	return c
}

// ReadAt reads as io.ReaderAt does. An error other than io.EOF is a *fault, unless it is our own.
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		at := off + int64(n)
		for {
			end := c.end.Load()
			if at >= end || c.end.CompareAndSwap(end, at) {
				return n, io.EOF
			}
		}
	}
	return n, faultOf("read", c.f.Name(), err)
}

// next returns the first range of data from off on, which is 0 or
// the end of the range before; its Len is 0 when there is none.
func (c *content) next(off int64) tree.Range {
	if c.holesToo {
		return tree.Range{Off: off, Len: max(c.size-off, 0)}
	}
	return tree.NextData(c.f, off, c.size)
}

// length is how much there is: size, or less where the file ended
// before, or more where a read met its end behind.
func (c *content) length() int64 {
	if end := c.end.Load(); end != noEnd {
		return end
	}
	return c.size
}

// fault says why a file of the user can't be read: an answer of its file system,
// which is a loss of that file and lets the backup go on. All other errors end the
// backup. Its text is the reason alone, since whoever tells it names the file.
type fault struct{ err error }

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// faultOf makes a fault of the error of an operation on the file at
// path, unless the error is our own.
func faultOf(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if at, ok := errors.AsType[*os.PathError](err); ok {
		err = at.Err
	} else if at, ok := errors.AsType[*tree.PathError](err); ok {
		err = at.Err
	}
	if tree.Ours(err) {
		return fmt.Errorf("%s %q: %w", op, path, err)
	}
	if errors.Is(err, unix.EAGAIN) {
		err = errWaits
	}
	return &fault{err}
}

// errWaits is the reason of a read that would have to wait for content: nobody knows for how long.
var errWaits = errors.New("a read of it has to wait for content")

func isFault(err error) bool {
	_, ok := errors.AsType[*fault](err)
	return ok
}
