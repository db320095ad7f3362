package known

import (
	"errors"
	"io"
	"slices"
	"time"

	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// SmallFile is the size, bytes, up to which a file that changed is read in whole.
const SmallFile = 512 << 10

// File holds the facts of an earlier backup about a file.
type File struct {
	Stretch      // where its content was; the extents are never nil
	Same    bool // and is: the file need not be read
	// Compare says that Ranges does not tell the changes: the
	// file has to be read, and its pieces compared.
	Compare bool
	Ranges  []snapshot.Range // that may differ, ascending
}

// patchExtents bounds the extents in memory of a large file that changed in
// part (16 GiB of average chunks, 12 MiB); a larger file is read in whole.
const patchExtents = 256 << 10

// knownSums bounds the sums in memory of a database (16 GiB
// of content, 32 MiB); a larger database is read in whole.
const knownSums = 2 << 20

// Previous finds the entries of an earlier backup in the order of
// a walk. It is for the goroutine of the walk.
type Previous struct {
	next  func() ([]vault.Item, error)
	rests vault.Evidence
	clock func() time.Duration // Facts.Clock
	holds bool                 // the mount stands that the items tell of
	// from this time of change on the items of the page at hand tell nothing
	until   tree.Time
	warn    func(error)
	without map[vault.PackID]bool // what these hold is not known any more
	// the differences from the view of the catalogue that may be; nil: the times alone tell
	base  Changes
	items []vault.Item
	ended bool
}

// dated tells whether the time of change of an item is evidence.
func (p *Previous) dated(it *vault.Item) bool {
	return p.holds && it.Ctime != tree.Time{} && earlier(it.Ctime, p.until)
}

// Find returns the known facts about e, when e is the file that the last backup stored: either
// e did not change since (the same inode, size, time of change of content and of metadata, or
// a base proves it), or e changed in part. For an unchanged file it puts flags and project id,
// which the walk did not read, into e. Calls must come in the order of the walk.
func (p *Previous) Find(e *tree.Entry) (File, bool) {
	for {
		it := p.peek()
		if it == nil {
			return File{}, false
		}
		if c := tree.ComparePaths(it.Path, e.Path); c < 0 || it.Continued {
			p.items = p.items[1:]
			continue
		} else if c > 0 {
			return File{}, false
		}
		break
	}
	it, most := p.items[0], WholeExtents
	if p.base != nil {
		most = patchExtents
	}
	p.items = p.items[1:]
	content := Stretch{Extents: it.Extents, Sums: it.Sums}
	for {
		more := p.peek()
		if more == nil || !more.Continued || more.Path != e.Path {
			break
		}
		if len(content.Extents)+len(more.Extents) > most || len(content.Sums)+len(more.Sums) > knownSums {
			// a file of many GiB is rather read than held in memory as extents and sums
			return File{}, false
		}
		content.Extents, content.Sums = append(content.Extents, more.Extents...), append(content.Sums, more.Sums...)
		p.items = p.items[1:]
	}
	if len(content.Sums) != vault.Pieces(content.Extents) {
		content.Sums = nil
	}
	k, ok := p.judge(&it, e, content)
	if ok && k.Same {
		// a change of those shows in the time of change too
		e.Flags, e.Project = it.Flags, it.Project
	}
	return k, ok
}

// peek returns the next item, or nil at the end or after a fault.
func (p *Previous) peek() *vault.Item {
	for len(p.items) == 0 && !p.ended {
		items, err := p.next()
		p.until = p.rests.Until(p.clock())
		if err != nil {
			p.ended = true
			if !errors.Is(err, io.EOF) {
				p.warn(err)
			}
		}
		p.items = items
	}
	if len(p.items) == 0 {
		return nil
	}
	return &p.items[0]
}

// judge compares the entry of the walk with the catalogue's item of the same path. It
// reports whether the old extents can be reused; if not, the caller reads the whole file.
func (p *Previous) judge(it *vault.Item, e *tree.Entry, content Stretch) (File, bool) {
	if it.Kind != tree.File || it.HasLinkTo {
		return File{}, false
	}
	// The pieces of a database are compared, whichever file they are of.
	pieces := File{Stretch: content, Compare: true}
	compared := e.Size > SmallFile && framed(content.Extents)
	if it.Ino != e.Ino {
		return pieces, compared
	}
	extents := content.Extents
	if extents == nil {
		extents = []vault.Extent{} // a file of holes only is known too
	}
	k := File{Stretch: Stretch{Extents: extents, Sums: content.Sums}}
	// Where the time of change can't be relied upon, only a base can
	// tell: it was too young, or the file system was mounted anew.
	dated := p.dated(it)
	like := it.Size == e.Size && it.Mtime == e.Mtime && (it.Ctime == e.Ctime || !dated)
	gone := func(x vault.Extent) bool { return p.without[x.Chunk.Pack] }
	if p.base == nil {
		k.Same = like && dated && len(extents) <= WholeExtents && !slices.ContainsFunc(extents, gone)
		if !k.Same {
			return pieces, compared
		}
		return k, true
	}
	if like && !p.base.Inode(e.Ino) {
		k.Same = !slices.ContainsFunc(extents, gone)
	}
	if k.Same {
		return k, true
	}
	// A file that was only read has another time of access, and nothing else.
	if !(like && dated) && e.Size <= SmallFile {
		return File{}, false
	}
	ranges, _, err := p.base.File(e.Ino, e.Size)
	if err != nil {
		return pieces, compared
	}
	k.Ranges = ranges
	k.Same = like && dated && len(ranges) == 0 && !slices.ContainsFunc(extents, gone)
	return k, k.Same || e.Size > SmallFile
}

func earlier(a, b tree.Time) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }
