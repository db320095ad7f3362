package vault

import (
	"bufio"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/offheap"
)

// A verification notes every chunk that recipes name, and compares them with the tables of the
// packs, pack after pack. The chunks of a large vault do not fit into memory, so they are sorted
// outside: in memory up to a bound, then in sorted runs in temporary files, which are merged
// when they have twice as much as after the merge before. A chunk that several recipes name is
// kept once, so the files have at most about three times the chunks of the vault, 16 bytes each.

// chunkRef is a chunk that a recipe names. pack is the number of its pack in the verification.
type chunkRef struct{ pack, off, size, raw uint32 }

func compareRefs(a, b chunkRef) int {
	return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size), cmp.Compare(a.raw, b.raw))
}

const (
	refSize = 16 // bytes
	// verifyBudget is how much memory a verification takes for what recipes name, bytes.
	verifyBudget = 64 << 20
	// maxRuns bounds the files that are open at once.
	maxRuns = 64
)

// refSorter takes references in any order and gives each once, in
// order. It is for one goroutine. close is due.
type refSorter struct {
	most   int    // references in memory
	mem    []byte // what buf lies in; nil where that is on the Go heap
	buf    []chunkRef
	runs   []refRun
	stored int64 // references in runs
	merged int64 // after the last merge
}

// refRun is a sorted file without a name.
type refRun struct {
	f *os.File
	n int64
}

func newRefSorter(budget int) *refSorter {
	s := &refSorter{most: max(budget/refSize, 2)}
	// The memory is taken at once, since growing would leave as much again behind,
	// and outside of the Go heap, since the collector would let the heap grow in
	// proportion to it. Its unused part costs address space and no memory.
	if mem, err := offheap.Take(s.most * refSize); err == nil {
		s.mem = mem
		s.buf = unsafe.Slice((*chunkRef)(unsafe.Pointer(unsafe.SliceData(mem))), s.most)[:0]
	} else {
		s.buf = make([]chunkRef, 0, s.most)
	}
	return s
}

// add takes a reference.
func (s *refSorter) add(r chunkRef) error {
	s.buf = append(s.buf, r)
	if len(s.buf) < s.most {
		return nil
	}
	s.compact()
	if len(s.buf) <= s.most/2 {
		return nil
	}
	return s.spill()
}

// compact sorts the references in memory.
func (s *refSorter) compact() {
	slices.SortFunc(s.buf, compareRefs)
	s.buf = slices.Compact(s.buf)
}

// spill moves the sorted references in memory to a file, and merges the files when that is due.
func (s *refSorter) spill() error {
	run, err := s.write(func(put func(chunkRef) error) error {
		for _, r := range s.buf {
			if err := put(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.buf = s.buf[:0]
	s.runs = append(s.runs, run)
	s.stored += run.n
	if len(s.runs) < maxRuns && s.stored < 2*max(s.merged, 4*int64(s.most)) {
		return nil
	}
	all, err := s.write(s.eachStored)
	if err != nil {
		return err
	}
	s.closeRuns()
	s.runs, s.stored, s.merged = []refRun{all}, all.n, all.n
	return nil
}

// write makes a run of what from puts.
func (s *refSorter) write(from func(put func(chunkRef) error) error) (refRun, error) {
	f, err := os.CreateTemp("", "holdfast-verify-*")
	if err != nil {
		return refRun{}, tempError(err)
	}
	run := refRun{f: f}
	err = os.Remove(f.Name()) // it is gone with the process, whatever ends that
	w := bufio.NewWriterSize(f, 64<<10)
	if err == nil {
		var b [refSize]byte
		err = from(func(r chunkRef) error {
			for i, u := range [...]uint32{r.pack, r.off, r.size, r.raw} {
				binary.LittleEndian.PutUint32(b[4*i:], u)
			}
			run.n++
			_, err := w.Write(b[:])
			return err
		})
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return refRun{}, errors.Join(tempError(err), f.Close())
	}
	return run, nil
}

// tempError says where the temporary files are, and what to do.
func tempError(err error) error {
	return fmt.Errorf("keep what the recipes name in temporary files in %s (make room there, or set TMPDIR to another folder): %w", os.TempDir(), err)
}

// each gives all references, each once, in order. Nothing may be added any more.
func (s *refSorter) each(give func(chunkRef) error) error {
	s.compact()
	return s.merge(s.buf, give)
}

func (s *refSorter) eachStored(give func(chunkRef) error) error { return s.merge(nil, give) }

// merge gives the references of the runs and of sorted, each reference once, in order.
func (s *refSorter) merge(sorted []chunkRef, give func(chunkRef) error) error {
	var h refHeap
	for i := range s.runs {
		r := &refReader{r: bufio.NewReaderSize(io.NewSectionReader(s.runs[i].f, 0, s.runs[i].n*refSize), 64<<10)}
		if err := r.next(); err == nil {
			h = append(h, r)
		} else if !errors.Is(err, io.EOF) {
			return err
		}
	}
	if len(sorted) > 0 {
		h = append(h, &refReader{at: sorted[0], rest: sorted[1:]})
	}
	heap.Init(&h)
	var last chunkRef
	for first := true; len(h) > 0; {
		r := h[0]
		if first || r.at != last {
			if err := give(r.at); err != nil {
				return err
			}
			last, first = r.at, false
		}
		switch err := r.next(); {
		case err == nil:
			heap.Fix(&h, 0)
		case errors.Is(err, io.EOF):
			heap.Pop(&h)
		default:
			return err
		}
	}
	return nil
}

// close frees the files.
func (s *refSorter) close() {
	s.closeRuns()
	s.runs, s.buf = nil, nil
	if s.mem != nil {
		_ = unix.Munmap(s.mem) // fails only for memory that is not mapped
		s.mem = nil
	}
}

func (s *refSorter) closeRuns() {
	for _, r := range s.runs {
		_ = r.f.Close() // it has no name, and is gone
	}
}

// refReader reads a run, or the references in memory.
type refReader struct {
	r    *bufio.Reader // nil: rest has what follows
	rest []chunkRef
	at   chunkRef
}

// next goes to the next reference; io.EOF at the end.
func (r *refReader) next() error {
	if r.r == nil {
		if len(r.rest) == 0 {
			return io.EOF
		}
		r.at, r.rest = r.rest[0], r.rest[1:]
		return nil
	}
	b, err := r.r.Peek(refSize)
	if errors.Is(err, io.EOF) && len(b) == 0 {
		return io.EOF
	} else if err != nil {
		return tempError(err)
	}
	u := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	r.at = chunkRef{u(0), u(1), u(2), u(3)}
	_, err = r.r.Discard(refSize)
	return err
}

// refHeap has the readers, that with the smallest reference first.
type refHeap []*refReader

func (h refHeap) Len() int           { return len(h) }
func (h refHeap) Less(i, j int) bool { return compareRefs(h[i].at, h[j].at) < 0 }
func (h refHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is for heap.Interface; nothing is pushed.
func (h *refHeap) Push(x any) { *h = append(*h, x.(*refReader)) }

// Pop takes the last.
func (h *refHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
