package index

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
)

// Set is the segments of a vault as one listing of the store had them.
type Set struct {
	in       Place
	dir      segmentDir
	listed   map[SegmentID]int64    // size
	open     map[SegmentID]*segment // the segments that open and that no other open segment replaces
	replaced map[SegmentID]bool     // ids that another replaces, listed or not
	damaged  map[SegmentID]error
	// sound for all that is known, but neither disk nor memory takes them
	noRoom map[SegmentID]bool
	tell   func(error)

	mu sync.Mutex
}

// fileWriter buffers writes to a file of the local disk.
func fileWriter(f *os.File) *bufio.Writer { return bufio.NewWriterSize(f, 64<<10) }

// maxRounds is how often the index is listed when segments are replaced while they
// are read. A reader that then still lacks segments stores their chunks anew.
const maxRounds = 10

// OpenSet lists the index and opens the listed segments, from the local folder where they
// are there, and otherwise from the store. A segment that is listed but gone was replaced, so
// the index is listed again. Damaged segments are reported and left out. When the folder can't
// be used, that is reported, and the segments are fetched into files without a name.
func (in Place) OpenSet(ctx context.Context, dir string, tell func(error)) (_ *Set, err error) {
	set := &Set{in: in, open: map[SegmentID]*segment{}, replaced: map[SegmentID]bool{}, damaged: map[SegmentID]error{}, noRoom: map[SegmentID]bool{}, tell: tell}
	defer func() {
		if err != nil {
			set.Close()
		}
	}()
	if set.dir, err = in.openSegmentDir(dir); err != nil {
		set.dir.failed(&diskError{err})
	}
	for range maxRounds {
		if set.listed, err = in.List(ctx); err != nil {
			return nil, err
		}
		set.openCached()
		gone, err := set.fetchMissing(ctx)
		if err != nil {
			return nil, err
		}
		if !gone {
			break
		}
	}
	for id := range set.replaced {
		if s := set.open[id]; s != nil {
			s.close()
			delete(set.open, id)
		}
	}
	if trouble := set.dir.trouble(); trouble != nil {
		tell(trouble)
	}
	set.dir.sweep(func(id SegmentID) bool { return set.open[id] != nil })
	return set, nil
}

// wanted says whether a listed segment has to be opened yet.
func (set *Set) wanted(id SegmentID) bool {
	return set.open[id] == nil && !set.replaced[id] && set.damaged[id] == nil && !set.noRoom[id]
}

// put adds an open segment.
func (set *Set) put(s *segment) {
	set.mu.Lock()
	defer set.mu.Unlock()
	set.open[s.id] = s
	for i := range s.replaced {
		set.replaced[s.replacedID(i)] = true
	}
}

func (set *Set) openCached() {
	for id, size := range set.listed {
		if !set.wanted(id) {
			continue
		}
		if s, err := set.dir.open(set.in, id, size); err == nil { // else it is fetched
			set.put(s)
		}
	}
}

// fetchMissing fetches the segments that are not open, the largest first, since large
// segments replace small ones. gone says that some segment was not there any more.
func (set *Set) fetchMissing(ctx context.Context) (gone bool, err error) {
	ids := slices.SortedFunc(maps.Keys(set.listed), func(a, b SegmentID) int { return cmp.Compare(set.listed[b], set.listed[a]) })
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(8)
	for _, id := range ids {
		g.Go(func() error {
			set.mu.Lock()
			wanted := set.wanted(id)
			set.mu.Unlock()
			if !wanted {
				return nil
			}
			s, err := set.dir.fetch(ctx, set.in, id, set.listed[id])
			switch {
			case err == nil:
				set.put(s)
				return nil
			case errors.Is(err, obs.ErrNotFound):
				set.mu.Lock()
				gone = true
				set.mu.Unlock()
				return nil
			case errors.Is(err, format.ErrCorrupt):
				set.mu.Lock()
				set.damaged[id] = err
				set.mu.Unlock()
				set.tell(err)
				return nil
			case errors.Is(err, errNoRoom):
				set.mu.Lock()
				set.noRoom[id] = true
				set.mu.Unlock()
				return nil
			}
			return err
		})
	}
	err = g.Wait()
	return gone, err
}

// Close frees the open segments.
func (set *Set) Close() {
	for _, s := range set.open {
		s.close()
	}
}
