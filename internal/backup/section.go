package backup

import (
	"bytes"
	"cmp"
	"errors"
	"io"

	"holdfast/internal/chunk"
)

// section is a part of a data range that a worker reads and cuts before anybody knows where its
// first chunk begins, since a chunk of the section before may reach into it. The worker cuts ahead
// as if a chunk began with the section. The end of a chunk depends on its content and on nothing
// before, so from the first common end on, both ways of cutting share all ends: when the worker's
// turn comes, it only cuts up to that end. The cuts are the cuts of one pass over the range.
type section struct {
	cuts
	src io.ReaderAt
	at  int64 // offset in the file
	// bytes up to the next section or the end of the range; but for
	// the last, no less than the largest chunk
	size int
	left int64 // bytes up to the end of the range
	step int   // how much more is read at a time to find the end of a chunk, bytes; 0 is lookahead

	// the bytes from at on, beyond size where a chunk reaches there; has room for those bytes
	buf   []byte
	ended bool  // nothing follows buf
	ahead []int // ends of the chunks that were cut ahead
	ends  []int // of the chunks that are cut
}

// cuts says where a file is cut.
type cuts struct {
	cutter *chunk.Cutter
	grid   int // size of chunks at fixed places, bytes; 0 cuts where the content says
}

// cut returns the length of the chunk that p, which is at that offset of the file, begins with.
func (c cuts) cut(p []byte, at int64) int {
	if c.grid > 0 {
		return min(len(p), c.grid-int(at%int64(c.grid)))
	}
	return c.cutter.Cut(p)
}

// lookahead is how much more is read at a time to find the end of a section's last chunk, bytes.
const lookahead = 64 << 10

// read reads until buf has n bytes, or is full, or the range or the file ends.
func (s *section) read(n int) error {
	n = int(min(int64(min(n, cap(s.buf))), s.left))
	got, err := s.src.ReadAt(s.buf[len(s.buf):n], s.at+int64(len(s.buf)))
	s.buf = s.buf[:len(s.buf)+got]
	s.ended = int64(len(s.buf)) == s.left
	if errors.Is(err, io.EOF) { // the file became shorter, and ends where it ends
		s.ended, err = true, nil
	}
	return err
}

// cutAhead reads the section and cuts it as if a chunk began with it.
func (s *section) cutAhead() error {
	err := s.read(s.size)
	if err == nil {
		s.ahead, err = s.chain(s.ahead[:0], 0, nil)
	}
	return err
}

// cutFrom cuts the section knowing that a chunk begins at from, and returns
// where the first chunk of the next one begins: none when the file ended before.
func (s *section) cutFrom(from int64) (next int64, err error) {
	s.ends, err = s.chain(s.ends[:0], int(from-s.at), s.ahead)
	if n := len(s.ends); n > 0 && s.ends[n-1] >= s.size {
		return s.at + int64(s.ends[n-1]), err
	}
	return none, err
}

// chain appends the ends of the chunks from from on that begin in the section.
// At the first end that known has too it takes what follows from there. Where
// content decides, a chunk that begins with the bytes of the one before it ends
// like it: what repeats itself, zeros above all, is compared and not scanned.
func (s *section) chain(ends []int, from int, known []int) ([]int, error) {
	for last := 0; from < min(s.size, len(s.buf)); {
		end := from + last
		if s.grid > 0 || last == 0 || end > len(s.buf) || !bytes.Equal(s.buf[from-last:from], s.buf[from:end]) {
			var err error
			if end, err = s.end(from); err != nil {
				return ends, err
			}
		}
		ends = append(ends, end)
		for len(known) > 0 && known[0] < end {
			known = known[1:]
		}
		if len(known) > 0 && known[0] == end {
			return append(ends, known[1:]...), nil
		}
		last, from = end-from, end
	}
	return ends, nil
}

// end returns where the chunk ends that begins at from, in buf.
func (s *section) end(from int) (int, error) {
	for {
		n := s.cut(s.buf[from:], s.at+int64(from))
		if from+n < len(s.buf) || n == s.cutter.Params().Max || s.ended || s.grid > 0 && n > 0 && (s.at+int64(from+n))%int64(s.grid) == 0 {
			return from + n, nil
		}
		if err := s.read(len(s.buf) + cmp.Or(s.step, lookahead)); err != nil {
			return 0, err
		}
	}
}

// none is the place of a chunk that there is not.
const none = -1
