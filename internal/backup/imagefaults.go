package backup

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
)

// imageFaults is what of an image could not be read as its size
// said. It may be used by several goroutines at once.
type imageFaults struct {
	mu  sync.Mutex
	any bool // something could be read
	// the least offset at which a read met the image's end; noEnd when none did
	end int64
	// that can't be read, up to maxBad; neighbours that came one after the other are one
	bad    []snapshot.Range
	more   int   // ranges beyond those
	bytes  int64 // in all of them
	reason error // of the first
}

const (
	// maxBad bounds the ranges in memory, and toldBad the ranges that warnings name.
	maxBad  = 4096
	toldBad = 16
)

func (f *imageFaults) add(r snapshot.Range, reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason == nil {
		f.reason = reason
	}
	f.bytes += r.Length
	if n := len(f.bad); n > 0 && f.bad[n-1].End() == r.Offset {
		f.bad[n-1].Length += r.Length
	} else if n < maxBad {
		f.bad = append(f.bad, r)
	} else {
		f.more++
	}
}

func (f *imageFaults) read(n int) {
	f.mu.Lock()
	f.any = f.any || n > 0
	f.mu.Unlock()
}

func (f *imageFaults) endsAt(at int64) {
	f.mu.Lock()
	f.end = min(f.end, at)
	f.mu.Unlock()
}

// String names the ranges that can't be read.
func (f *imageFaults) String() string {
	slices.SortFunc(f.bad, func(a, b snapshot.Range) int { return cmp.Compare(a.Offset, b.Offset) })
	joined := f.bad[:0:0]
	for _, r := range f.bad {
		if n := len(joined); n > 0 && joined[n-1].End() == r.Offset {
			joined[n-1].Length += r.Length
			continue
		}
		joined = append(joined, r)
	}
	var names []string
	for _, r := range joined[:min(len(joined), toldBad)] {
		names = append(names, fmt.Sprintf("%d to %d", r.Offset, r.End()-1))
	}
	if more := len(joined) - len(names) + f.more; more > 0 {
		names = append(names, fmt.Sprintf("and %d further ranges", more))
	}
	return strings.Join(names, ", ")
}

// tell tells, after all was read, what of the image is not as its size and its
// content were at one moment, and brings e, its entry, up to date while the
// recipe does not have it. It is an error when nothing of the image can be read.
func (r *imageReading) tell(e *tree.Entry, s *sender) error {
	f, path, size := &r.faults, r.img.File().Name(), r.img.Size()
	if len(f.bad) > 0 {
		if !f.any && !r.keeps {
			return fmt.Errorf("read image %s: none of it can be read: %w", path, f.reason)
		}
		r.lost(fmt.Sprintf("%d bytes of the image can't be read (%v), and are zeros in the backup: bytes %v", f.bytes, f.reason, f))
	}
	changed, err := r.img.Changed()
	if err = faultOf("stat image", path, err); err != nil && !isFault(err) {
		return err
	}
	length := min(f.end, size)
	if length < size && !s.streaming {
		e.Size = max(length, s.end())
	}
	switch {
	case changed || err != nil:
		r.lost("the image changed while it was read; its content is of no single moment")
	case length == size:
	case s.streaming || s.end() > length || !r.endsAt(length):
		r.lost(fmt.Sprintf("the image ended at byte %d while it was read, before its size of %d", length, size))
	default:
		r.p.tellSize(path, size, length)
	}
	return nil
}

// lost tells of content of the image that the backup does not have
// as it was, and keeps the backup from being a base.
func (r *imageReading) lost(what string) {
	r.p.lost(r.img.File().Name(), what)
	r.p.doubtful.Store(true)
}

func (r *imageReading) endsAt(length int64) bool {
	exact, err := tree.EndsAt(r.img, length)
	return err == nil && exact
}
