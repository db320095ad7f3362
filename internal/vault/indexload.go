package vault

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// segmentSet is the segments of a vault as one listing of the store had them.
type segmentSet struct {
	v        *Vault
	dir      segmentDir
	listed   map[segmentID]int64    // size
	open     map[segmentID]*segment // the segments that open and that no other open segment replaces
	replaced map[segmentID]bool     // ids that another replaces, listed or not
	damaged  map[segmentID]error
	// sound for all that is known, but neither disk nor memory takes them
	noRoom map[segmentID]bool
	tell   func(error)

	mu sync.Mutex
}

// fileWriter buffers writes to a file of the local disk.
func fileWriter(f *os.File) *bufio.Writer { return bufio.NewWriterSize(f, 64<<10) }

// maxRounds is how often the index is listed when segments are replaced while they
// are read. A reader that then still lacks segments stores their chunks anew.
const maxRounds = 10

// openSegments lists the index and opens the listed segments, from the local folder where they
// are there, and otherwise from the store. A segment that is listed but gone was replaced, so
// the index is listed again. Damaged segments are reported and left out. When the folder can't
// be used, that is reported, and the segments are fetched into files without a name.
func (v *Vault) openSegments(ctx context.Context, dir string, tell func(error)) (_ *segmentSet, err error) {
	set := &segmentSet{v: v, open: map[segmentID]*segment{}, replaced: map[segmentID]bool{}, damaged: map[segmentID]error{}, noRoom: map[segmentID]bool{}, tell: tell}
	defer func() {
		if err != nil {
			set.close()
		}
	}()
	if set.dir, err = v.openSegmentDir(dir); err != nil {
		set.dir.failed(&diskError{err})
	}
	for range maxRounds {
		if set.listed, err = v.listSegments(ctx); err != nil {
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
	set.dir.sweep(func(id segmentID) bool { return set.open[id] != nil })
	return set, nil
}

// listSegments returns the sizes of the segments that the store has.
func (v *Vault) listSegments(ctx context.Context) (map[segmentID]int64, error) {
	listed := map[segmentID]int64{}
	for info, err := range v.st.List(ctx, v.indexPrefix()) {
		if err != nil {
			return nil, fmt.Errorf("list the index: %w", err)
		}
		if id, ok := parseSegmentID(strings.TrimPrefix(info.Key, v.indexPrefix())); ok {
			listed[id] = info.Size
		}
	}
	return listed, nil
}

// wanted says whether a listed segment has to be opened yet.
func (set *segmentSet) wanted(id segmentID) bool {
	return set.open[id] == nil && !set.replaced[id] && set.damaged[id] == nil && !set.noRoom[id]
}

// put adds an open segment.
func (set *segmentSet) put(s *segment) {
	set.mu.Lock()
	defer set.mu.Unlock()
	set.open[s.id] = s
	for i := range s.replaced {
		set.replaced[s.replacedID(i)] = true
	}
}

func (set *segmentSet) openCached() {
	for id, size := range set.listed {
		if !set.wanted(id) {
			continue
		}
		if s, err := set.dir.open(set.v, id, size); err == nil { // else it is fetched
			set.put(s)
		}
	}
}

// fetchMissing fetches the segments that are not open, the largest first, since large
// segments replace small ones. gone says that some segment was not there any more.
func (set *segmentSet) fetchMissing(ctx context.Context) (gone bool, err error) {
	ids := slices.SortedFunc(maps.Keys(set.listed), func(a, b segmentID) int { return cmp.Compare(set.listed[b], set.listed[a]) })
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
			s, err := set.dir.fetch(ctx, set.v, id, set.listed[id])
			switch {
			case err == nil:
				set.put(s)
				return nil
			case errors.Is(err, obs.ErrNotFound):
				set.mu.Lock()
				gone = true
				set.mu.Unlock()
				return nil
			case errors.Is(err, ErrCorrupt):
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

// close frees the open segments.
func (set *segmentSet) close() {
	for _, s := range set.open {
		s.close()
	}
}
