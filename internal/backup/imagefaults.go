package backup

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/snapshot"
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
