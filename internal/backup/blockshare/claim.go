package blockshare

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"

	"holdfast/internal/image"
	"holdfast/internal/vault"
)

// Run describes one backup to the table.
type Run struct {
	Vault *vault.Vault
	// Precopy says that the Run is a round of pre-copy, which may rest while others wait for it.
	Precopy bool
	Without map[vault.PackID]bool        // packs that the Run does not use
	Sends   func(pack vault.PackID) bool // whether the Run itself sends the pack
	*Arrivals
}

// Section is the part of an image that one worker reads, in chunks that the caller numbers from 0.
type Section interface {
	// Content returns the content of a chunk that was read, and where the chunk lies in the image,
	// bytes. complete is false where a part of the chunk could not be read.
	Content(i int) (content []byte, off int64, complete bool)
	// Stored returns the place in the vault of a chunk that was read; its Len is 0 for zeros.
	Stored(i int) vault.Loc
	// Take uses a chunk that the vault has, instead of reading it. The Len of loc is 0 for zeros.
	Take(i int, loc vault.Loc)
}

// Image is an image while one Run reads it. Its methods may be called from any
// goroutine. A nil Image shares nothing. Close is due when the reading has ended.
type Image struct {
	table  *Table
	run    Run
	layout *layout
	name   string // of the view
	view   *view
	blocks *vaultBlocks // nil: the image shares nothing
	path   string
}

// Open prepares for the reading of an image, the file path in the view of that name, which is cut
// at the multiples of grid, bytes. Open returns nil for an image in no view, and for a device.
func (t *Table) Open(r Run, img *image.Image, name, path string, grid int64) *Image {
	if name == "" || img.Device() {
		return nil
	}
	b := &Image{table: t, run: r, name: name, path: path, view: t.begin(name)}
	t.mu.Lock()
	use := !t.off && b.view.bit != 0 && (b.view.vault == nil || b.view.vault == r.Vault)
	if use {
		b.view.vault = r.Vault
		if b.blocks = t.vaults[r.Vault]; b.blocks == nil {
			b.blocks = &vaultBlocks{known: map[blockKey]entry{}, reading: map[blockKey]*Claim{}}
			t.vaults[r.Vault] = b.blocks
		}
		if !slices.Contains(b.view.images, b.path) {
			b.view.images = append(b.view.images, b.path)
		}
	}
	t.mu.Unlock()
	if !use {
		b.layout = &layout{grid: grid}
		return b
	}
	t.recheck(r.Vault, b.view, grid)
	b.layout = layoutOf(img, grid)
	return b
}

// Close ends the use of the view.
func (b *Image) Close() {
	if b != nil {
		b.table.EndView(b.name)
	}
}

// Claim lists the shared blocks that one section reads, and the blocks that it takes from others.
// It is for one goroutine. Release is due when the claimed chunks were read, or never will be.
type Claim struct {
	b      *Image
	n      int
	keys   map[int]blockKey // of the chunks whose addresses determine their content
	held   []int            // that others wait for
	done   chan struct{}
	hits   map[int]entry
	checks []int          // hits that are read all the same
	others map[int]*Claim // that other workers read
}

// Claim finds out which of n chunks from the byte at on are known, being read, or to be read here.
func (b *Image) Claim(at int64, n int) *Claim {
	c := &Claim{b: b, n: n, keys: map[int]blockKey{}, done: make(chan struct{}), hits: map[int]entry{}, others: map[int]*Claim{}}
	if b == nil || b.blocks == nil {
		return c
	}
	for i := range n {
		if k, ok := b.layout.key(at + int64(i)*b.layout.grid); ok {
			c.keys[i] = k
		}
	}
	b.table.mu.Lock()
	defer b.table.mu.Unlock()
	for i := range n {
		k, ok := c.keys[i]
		if !ok || b.table.off || c.hit(i, k) {
			continue
		}
		if busy := b.blocks.reading[k]; busy == c {
			continue // the same blocks twice in one section
		} else if busy != nil && (b.run.Precopy || !busy.b.run.Precopy) {
			c.others[i] = busy
			continue
		}
		// perhaps in the place of a round of pre-copy, which may rest:
		// a held instance reads the blocks itself
		b.blocks.reading[k] = c
		c.held = append(c.held, i)
	}
	return c
}

// hit notes a chunk that is already known. The lock is held.
func (c *Claim) hit(i int, k blockKey) bool {
	e, ok := c.b.blocks.known[k]
	if !ok || c.b.run.Without[e.loc.Pack] || e.sender != nil && (e.sender.failed(e.loc.Pack) || !c.b.run.Precopy && e.sender.rests(e.loc.Pack)) {
		return false
	}
	e.held |= c.b.view.bit
	c.b.blocks.known[k] = e
	c.hits[i] = e
	return true
}

// Unshared returns the chunks that the section has to read: all that no other worker has or reads.
func (c *Claim) Unshared() []int {
	var list []int
	for i := range c.n {
		if _, hit := c.hits[i]; !hit && c.others[i] == nil {
			list = append(list, i)
		}
	}
	return list
}

// Publish tells other workers of the chunks that were claimed and read.
func (c *Claim) Publish(s Section) {
	if c.b == nil || c.b.blocks == nil {
		return
	}
	b := c.b
	for _, i := range c.held {
		content, _, complete := s.Content(i)
		if !complete {
			continue // each other worker that wants the chunk tries for itself
		}
		e := entry{loc: s.Stored(i), sum: maphash.Bytes(b.table.seed, content), held: b.view.bit}
		if b.run.Sends(e.loc.Pack) {
			e.sender = b.run.Arrivals
		}
		b.table.mu.Lock()
		if _, old := b.blocks.known[c.keys[i]]; old || b.table.n < maxShared {
			if !old {
				b.table.n++
			}
			b.blocks.known[c.keys[i]] = e
		}
		b.table.mu.Unlock()
	}
}

// Release wakes the workers that wait for the claimed chunks. It may be called twice.
func (c *Claim) Release() {
	if len(c.held) == 0 {
		return
	}
	c.b.table.mu.Lock()
	defer c.b.table.mu.Unlock()
	for _, i := range c.held {
		if c.b.blocks.reading[c.keys[i]] == c {
			delete(c.b.blocks.reading, c.keys[i])
		}
	}
	c.held = nil
	close(c.done)
}

// FromOthers waits for chunks that other workers read, and returns the chunks that this worker
// must read all the same: a hit in crossCheck, and chunks that the others could not read.
func (c *Claim) FromOthers(ctx context.Context, s Section) ([]int, error) {
	var read []int
	for i, busy := range c.others {
		select {
		case <-busy.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		c.b.table.mu.Lock()
		if !c.hit(i, c.keys[i]) {
			read = append(read, i)
		}
		c.b.table.mu.Unlock()
	}
	for i, e := range c.hits {
		if rand.N(crossCheck) == 0 {
			c.checks = append(c.checks, i)
			read = append(read, i)
			continue
		}
		s.Take(i, e.loc)
		if e.loc.Len > 0 { // no zeros
			c.b.run.uses(e)
		}
	}
	slices.Sort(read)
	return read, nil
}

// Check compares the hits that were read with their expected content. Its error is
// ErrBlocksDiffer: then the table shares nothing until the process ends.
func (c *Claim) Check(s Section) error {
	for _, i := range c.checks {
		content, off, complete := s.Content(i)
		if !complete || maphash.Bytes(c.b.table.seed, content) == c.hits[i].sum {
			continue // of a chunk that was not read whole nothing is known
		}
		c.b.table.mu.Lock()
		c.b.table.off = true
		c.b.table.mu.Unlock()
		return fmt.Errorf("%w: image %s at byte %d", ErrBlocksDiffer, c.b.path, off)
	}
	return nil
}
