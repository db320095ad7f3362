package backup

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Base is an earlier view of a volume that still stands, by which a
// backup knows what changed without reading it.
type Base struct {
	// Catalogue is the id of the catalogue that was made of that view, from
	// Result.Catalogues. While the volume's catalogue on this host is another
	// one, the base is not looked at, since nothing tells its content.
	Catalogue string
	Changes   Changes
}

// Changes is what may differ between a base and the view that is backed up: a
// superset. *snapshot.Changes is one. It is used by one goroutine at a time.
type Changes interface {
	// Inode tells whether anything of the file with that number may differ.
	Inode(ino uint64) bool
	// File lists in order the ranges of the file, which now has that
	// size, that may differ. After an error the file is read in whole.
	File(ino uint64, size int64) (ranges []snapshot.Range, exact bool, err error)
}

var _ Changes = (*snapshot.Changes)(nil)

// known holds the facts of an earlier backup about a file.
type known struct {
	stretch      // where its content was; the extents are never nil
	same    bool // and is: it need not be read
	// ranges does not tell what changed: the file has to be read, and its pieces compared
	whole  bool
	ranges []snapshot.Range
}

// patchExtents bounds the extents in memory of a large file that changed in
// part (16 GiB of average chunks, 12 MiB); a larger file is read in whole.
const patchExtents = 256 << 10

// knownSums bounds the sums in memory of a database (16 GiB
// of content, 32 MiB); a larger database is read in whole.
const knownSums = 2 << 20

// judge compares the entry of the walk with the catalogue's item of the same path. It
// reports whether the old extents can be reused; if not, the caller reads the whole file.
func (p *previous) judge(it *vault.Item, e *tree.Entry, content stretch) (known, bool) {
	if it.Kind != tree.File || it.HasLinkTo {
		return known{}, false
	}
	// The pieces of a database are compared, whichever file they are of.
	pieces := known{stretch: content, whole: true}
	compared := e.Size > bundleMax && framed(content.extents)
	if it.Ino != e.Ino {
		return pieces, compared
	}
	extents := content.extents
	if extents == nil {
		extents = []vault.Extent{} // a file of holes only is known too
	}
	k := known{stretch: stretch{extents: extents, sums: content.sums}}
	// Where the time of change can't be relied upon, only a base can
	// tell: it was too young, or the file system was mounted anew.
	dated := p.dated(it)
	like := it.Size == e.Size && it.Mtime == e.Mtime && (it.Ctime == e.Ctime || !dated)
	gone := func(x vault.Extent) bool { return p.without[x.Chunk.Pack] }
	if p.base == nil {
		k.same = like && dated && len(extents) <= wholeExtents && !slices.ContainsFunc(extents, gone)
		if !k.same {
			return pieces, compared
		}
		return k, true
	}
	if like && !p.base.Inode(e.Ino) {
		k.same = !slices.ContainsFunc(extents, gone)
	}
	if k.same {
		return k, true
	}
	// A file that was only read has another time of access, and nothing else.
	if !(like && dated) && e.Size <= bundleMax {
		return known{}, false
	}
	ranges, _, err := p.base.File(e.Ino, e.Size)
	if err != nil {
		return pieces, compared
	}
	k.ranges = ranges
	k.same = like && dated && len(ranges) == 0 && !slices.ContainsFunc(extents, gone)
	return k, k.same || e.Size > bundleMax
}

// Ways by which content is known not to have changed.
const (
	ByBase  = "base snapshot"
	ByTimes = "times of change"
)

// DriftError says that something changed although it was known not to: the means by which that was
// known can't be relied upon. It is an alarm. The backup starts over and reads the volume in full.
type DriftError struct {
	Instance, Volume string
	Path             string // in the volume
	By               string // ByBase or ByTimes
}

func (e *DriftError) Error() string {
	return fmt.Sprintf("volume %s of %s: %q changed, although the %s says that it did not", e.Volume, e.Instance, e.Path, e.By)
}

// A share of the content that is known not to have changed is read all the same and compared
// with the vault: the first such file, one in checkEvery, and some more between, so that a
// backup with few such files has some. At most checkMost chunks are checked in a backup:
// where chunks have to be fetched, that is some round trips to the store and no more.
const (
	checkEvery = 512
	checkMost  = 16
)

// sampler picks the content to check.
type sampler struct {
	mu     sync.Mutex
	seen   int
	picked int
}

func (s *sampler) pick() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	if s.picked >= checkMost || rand.Float64() >= 1/float64(s.seen)+1.0/checkEvery {
		return false
	}
	s.picked++
	return true
}

// picks tells whether something that was taken as unchanged is to be checked.
// Never where no sample is read back either: there is no time for it.
func (p *pipeline) picks() bool { return p.o.Sample > 0 && p.checks.pick() }

// distrusted has, by volume, what turned out not to be reliable.
type distrusted struct {
	mu sync.Mutex
	by map[string]bool
}

func distrustKey(v *vault.Vault, instance, volume, by string) string {
	return v.Info().ID + "\x00" + instance + "\x00" + volume + "\x00" + by
}

func (d *distrusted) add(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = map[string]bool{}
	}
	d.by[key] = true
}

func (d *distrusted) has(key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.by[key]
}
