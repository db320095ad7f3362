package backup

import (
	"errors"
	"io"

	"holdfast/internal/image"
	"holdfast/internal/snapshot"
	"holdfast/internal/vault"
)

// imageSection is a section while it is read.
type imageSection struct {
	w       *worker
	img     *image.Image
	grid    int64
	faults  *imageFaults
	at      int64
	buf     []byte
	extents []vault.Extent // of each chunk; no length for a hole, and before it was read
	faulty  map[int]bool   // chunks that were not read whole: what of them was not is zeros in buf
	stop    int            // where the content in buf stops, if the image ended there
}

// chunk is where chunk i lies in buf.
func (s *imageSection) chunk(i int) (from, to int) {
	return i * int(s.grid), min((i+1)*int(s.grid), len(s.buf))
}

// Content is for the sharing of blocks, as Stored and Take are.
func (s *imageSection) Content(i int) (content []byte, off int64, complete bool) {
	from, to := s.chunk(i)
	return s.buf[from:to], s.at + int64(from), !s.faulty[i]
}

// Stored returns where chunk i lies in the vault.
func (s *imageSection) Stored(i int) vault.Loc { return s.extents[i].Chunk }

// Take uses a chunk that the vault already has.
func (s *imageSection) Take(i int, loc vault.Loc) {
	from, to := s.chunk(i)
	s.w.p.counts.known.Add(uint64(to - from))
	s.faults.read(to - from)
	if loc.Len > 0 { // no zeros
		s.extents[i] = vault.Extent{Off: s.at + int64(from), Chunk: loc, Len: uint32(to - from)}
	}
}

// read reads and stores the chunks of those numbers, which ascend.
// Neighbours are read together, unless that fails.
func (s *imageSection) read(chunks []int) error {
	for len(chunks) > 0 {
		n := 1
		for n < len(chunks) && chunks[n] == chunks[n-1]+1 {
			n++
		}
		err := s.fill(chunks[:n])
		if isFault(err) {
			for i := range n {
				if err = s.fill(chunks[i : i+1]); isFault(err) {
					from, to := s.chunk(chunks[i])
					clear(s.buf[from:to])
					s.faulty[chunks[i]] = true
					s.faults.add(snapshot.Range{Offset: s.at + int64(from), Length: int64(to - from)}, err)
				} else if err != nil {
					return err
				}
			}
		} else if err != nil {
			return err
		}
		if err := s.store(chunks[:n]); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}

// fill reads chunks that lie side by side into buf.
func (s *imageSection) fill(chunks []int) error {
	from, _ := s.chunk(chunks[0])
	_, to := s.chunk(chunks[len(chunks)-1])
	got, err := s.img.ReadAt(s.buf[from:to], s.at+int64(from))
	if errors.Is(err, io.EOF) {
		clear(s.buf[from+got : to])
		s.stop = min(s.stop, from+got)
		for _, i := range chunks {
			if _, end := s.chunk(i); end > from+got {
				s.faulty[i] = true
			}
		}
		s.faults.endsAt(s.at + int64(from+got))
	} else if err != nil {
		return faultOf("read image", s.img.File().Name(), err)
	}
	s.faults.read(got)
	s.w.p.counts.read.Add(uint64(got))
	return nil
}

// store stores chunks that lie side by side, but for zeros.
func (s *imageSection) store(chunks []int) error {
	for len(chunks) > 0 {
		n, ends := 0, []int(nil)
		for ; n < len(chunks); n++ {
			from, to := s.chunk(chunks[n])
			if from >= s.stop || image.IsZero(s.buf[from:to]) {
				break
			}
			ends = append(ends, min(to, s.stop))
		}
		if n == 0 {
			chunks = chunks[1:]
			continue
		}
		first, _ := s.chunk(chunks[0])
		stored, err := s.w.storeAll(s.buf, first, ends)
		if err != nil {
			return err
		}
		for i, st := range stored {
			from, _ := s.chunk(chunks[i])
			s.extents[chunks[i]] = vault.Extent{Off: s.at + int64(from), Chunk: st.Loc, Len: uint32(ends[i] - from)}
		}
		chunks = chunks[n:]
	}
	return nil
}
