package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"

	"holdfast/internal/image"
	"holdfast/internal/snapshot"
	"holdfast/internal/vault"
)

// Images that were cloned from one image lie on the same blocks until somebody
// writes to them. Content that a backup has read of one image, the backups of
// the others need not read: the addresses of all its blocks name a chunk.
//
// An address tells the content only as long as something keeps the blocks from being
// written to or freed. A View, which is a snapshot, does that, and an entry lives no
// longer than the views that are known to hold its blocks. So an image that is read
// in place shares nothing. Tools that move blocks of unchanged files (btrfs balance,
// xfs_fsr) are noticed too: before an image is read, the addresses in the other views
// are looked up again, and entries that no view confirms are forgotten. Other faults
// of the file system remain possible, so one hit in crossCheck is read all the same.
//
// Entries belong to a vault: an entry for another tenant's vault is
// of no use, and nothing tells one tenant about the bytes of another.

const (
	// crossCheck is of how many chunks that need not be read one is read.
	crossCheck = 256
	// maxShared bounds the entries of a host: 32 GiB of chunks that are shared, in some 50 MiB.
	maxShared = 1 << 19
	// maxExtents bounds the known extents of an image; content behind the last of them is read.
	maxExtents = 1 << 18
)

// errShared says that blocks which should have been the same were not.
var errShared = errors.New("blocks that images share are not the same in both")

// blockKey is made of the addresses of all blocks of a chunk: half
// a SHA-256, so that no two are ever the same by chance.
type blockKey [16]byte

// shares holds the facts that a Host knows about blocks in several views.
type shares struct {
	seed maphash.Seed

	mu    sync.Mutex
	off   bool // something was not as it should be: until the process ends
	views map[string]*view
	// of the views, a bit each: with 64 of them at a time, later ones share nothing
	slots uint64
	// not by id, which is the same for two of one name in two stores
	vaults map[*vault.Vault]*vaultShares
	n      int // entries of all
}

type vaultShares struct {
	known map[blockKey]entry
	being map[blockKey]*claim // read by somebody
}

// view is a snapshot that stands.
type view struct {
	bit    uint64 // 0: it came when there were too many
	users  int
	vault  *vault.Vault // the vault of the entries; nil when there are none
	images []string     // paths, of those with entries
}

// entry says where the vault has a chunk.
type entry struct {
	loc  vault.Loc // Len 0 for zeros
	sum  uint64    // of the content, by the host's seed
	held uint64    // bits of the views that hold the blocks
	by   *sending  // whose pack it is, which may not have arrived; nil when it is an old one
}

func newShares() *shares {
	return &shares{seed: maphash.MakeSeed(), views: map[string]*view{}, vaults: map[*vault.Vault]*vaultShares{}}
}

// BeginView says that a snapshot of that name (Source.View) stands and stays after the Runs
// that read it, until as many calls of EndView. Without it, a view is known while Runs read it.
func (h *Host) BeginView(name string) { h.shares.begin(name) }

// EndView must be called before the view is removed, or written to.
// For a name that is not known it does nothing.
func (h *Host) EndView(name string) { h.shares.end(name) }

func (s *shares) begin(name string) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[name]
	if v == nil {
		v = &view{bit: ^s.slots & -^s.slots} // the lowest that is free
		s.slots |= v.bit
		s.views[name] = v
	}
	v.users++
	return v
}

func (s *shares) end(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[name]
	if v == nil {
		return
	}
	if v.users--; v.users > 0 {
		return
	}
	delete(s.views, name)
	s.slots &^= v.bit
	s.drop(v, func(blockKey) bool { return true })
}

// drop takes the view from the entries that gone says.
func (s *shares) drop(v *view, gone func(blockKey) bool) {
	of := s.vaults[v.vault]
	if of == nil || v.bit == 0 {
		return
	}
	for k, e := range of.known {
		if e.held&v.bit == 0 || !gone(k) {
			continue
		}
		if e.held &^= v.bit; e.held == 0 {
			delete(of.known, k)
			s.n--
		} else {
			of.known[k] = e
		}
	}
}

// recheck looks where the images of all other views lie now.
func (s *shares) recheck(in *vault.Vault, own *view, grid int64) {
	s.mu.Lock()
	var others []*view
	for _, v := range s.views {
		if v != own && v.vault == in && v.bit != 0 {
			others = append(others, v)
		}
	}
	s.mu.Unlock()
	for _, v := range others {
		s.mu.Lock()
		paths := slices.Clone(v.images)
		s.mu.Unlock()
		there := map[blockKey]bool{}
		for _, path := range paths {
			if img, err := image.Open(path); err == nil {
				l := layoutOf(img, grid)
				for at := int64(0); at < img.Size(); at += grid {
					if k, ok := l.key(at); ok {
						there[k] = true
					}
				}
				_ = img.Close() // only read
			}
		}
		s.mu.Lock()
		if len(v.images) == len(paths) { // else it is being read, and was looked at just now
			s.drop(v, func(k blockKey) bool { return !there[k] })
		}
		s.mu.Unlock()
	}
}

// layout is where an image lies.
type layout struct {
	space   string
	size    int64
	grid    int64
	extents []snapshot.Extent
	end     int64 // up to where they are known
}

// layoutOf is empty for devices, and where the file system does not tell.
func layoutOf(img *image.Image, grid int64) *layout {
	l := &layout{size: img.Size(), grid: grid}
	space, err := snapshot.AddressSpace(img.File())
	if err != nil || img.Device() {
		return l
	}
	l.space = space
	for e, err := range snapshot.Extents(img.File()) {
		if err != nil || len(l.extents) == maxExtents {
			return l
		}
		l.extents = append(l.extents, e)
		l.end = e.End()
	}
	l.end = l.size
	return l
}

// key returns the key of the chunk at that multiple of the grid;
// false when the addresses do not determine the chunk's content.
func (l *layout) key(at int64) (blockKey, bool) {
	end := min(at+l.grid, l.size)
	if end > l.end {
		return blockKey{}, false
	}
	b := binary.AppendUvarint([]byte(l.space+"\x00"), uint64(end-at))
	i := sort.Search(len(l.extents), func(i int) bool { return l.extents[i].End() > at })
	var last snapshot.Extent // the run so far
	flush := func() {
		if last.Length > 0 {
			for _, n := range []uint64{uint64(last.Logical - at), uint64(last.Length), last.Physical, last.Inside} {
				b = binary.AppendUvarint(b, n)
			}
		}
	}
	for ; i < len(l.extents) && l.extents[i].Logical < end; i++ {
		e := l.extents[i]
		from, to := max(e.Logical, at), min(e.End(), end)
		switch {
		case e.Vague:
			return blockKey{}, false
		case e.Zero:
			continue
		case e.Encoded:
			e.Inside += uint64(from-e.Logical) + 1 // so that it is not 0, as for blocks without encoding
		default:
			e.Physical += uint64(from - e.Logical)
		}
		e.Logical, e.Length = from, to-from
		joins := last.End() == e.Logical && !e.Encoded && !last.Encoded && last.Physical+uint64(last.Length) == e.Physical ||
			last.End() == e.Logical && e.Encoded && last.Encoded && last.Physical == e.Physical && last.Inside+uint64(last.Length) == e.Inside
		if joins && last.Length > 0 {
			last.Length += e.Length
			continue
		}
		flush()
		last = e
	}
	if last.Length == 0 {
		return blockKey{}, false // a hole; nothing to save
	}
	flush()
	sum := sha256.Sum256(b)
	return blockKey(sum[:16]), true
}

// sharedBlocks uses the shares of the host in one Run
// for one image. A nil sharedBlocks shares nothing.
type sharedBlocks struct {
	*shares
	run  *run
	at   *layout
	name string
	view *view
	of   *vaultShares
	path string
}

// shareBlocks prepares for an image that is read; nil when it shares nothing.
func (r *run) shareBlocks(img *image.Image, src Source, grid int64) *sharedBlocks {
	s := r.o.On.shares
	if src.View == "" || img.Device() {
		return nil
	}
	b := &sharedBlocks{shares: s, run: r, name: src.View, path: src.Root, view: s.begin(src.View)}
	s.mu.Lock()
	use := !s.off && b.view.bit != 0 && (b.view.vault == nil || b.view.vault == r.o.Vault)
	if use {
		b.view.vault = r.o.Vault
		if b.of = s.vaults[r.o.Vault]; b.of == nil {
			b.of = &vaultShares{known: map[blockKey]entry{}, being: map[blockKey]*claim{}}
			s.vaults[r.o.Vault] = b.of
		}
		if !slices.Contains(b.view.images, b.path) {
			b.view.images = append(b.view.images, b.path)
		}
	}
	s.mu.Unlock()
	if !use {
		b.at = &layout{grid: grid}
		return b
	}
	s.recheck(r.o.Vault, b.view, grid)
	b.at = layoutOf(img, grid)
	return b
}

func (b *sharedBlocks) close() {
	if b != nil {
		b.end(b.name)
	}
}

// claim lists the shared blocks that one section reads, and the blocks that it takes from others.
type claim struct {
	b      *sharedBlocks
	n      int
	keys   map[int]blockKey // of the chunks whose addresses determine their content
	held   []int            // that others wait for
	done   chan struct{}
	hits   map[int]entry
	checks []int          // hits that are read all the same
	others map[int]*claim // that somebody else reads
}

// begin finds out which of n chunks from at on are known, being read, or to be read here.
func (b *sharedBlocks) begin(at int64, n int) *claim {
	c := &claim{b: b, n: n, keys: map[int]blockKey{}, done: make(chan struct{}), hits: map[int]entry{}, others: map[int]*claim{}}
	if b == nil || b.of == nil {
		return c
	}
	for i := range n {
		if k, ok := b.at.key(at + int64(i)*b.at.grid); ok {
			c.keys[i] = k
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range n {
		k, ok := c.keys[i]
		if !ok || b.off || c.hit(i, k) {
			continue
		}
		if busy := b.of.being[k]; busy == c {
			continue // the same blocks twice in one section
		} else if busy != nil && (b.run.o.Precopy || !busy.b.run.o.Precopy) {
			c.others[i] = busy
			continue
		}
		// perhaps in the place of a round of pre-copy, which may rest:
		// a held instance reads the blocks itself
		b.of.being[k] = c
		c.held = append(c.held, i)
	}
	return c
}

// hit notes a chunk that is already known. The lock is held.
func (c *claim) hit(i int, k blockKey) bool {
	e, ok := c.b.of.known[k]
	if !ok || c.b.run.gone[e.loc.Pack] || e.by != nil && (e.by.failed(e.loc.Pack) || !c.b.run.o.Precopy && e.by.rests(e.loc.Pack)) {
		return false
	}
	e.held |= c.b.view.bit
	c.b.of.known[k] = e
	c.hits[i] = e
	return true
}

// claimed returns the chunks that have to be read here: all that nobody else has or reads.
func (c *claim) claimed() []int {
	var list []int
	for i := range c.n {
		if _, hit := c.hits[i]; !hit && c.others[i] == nil {
			list = append(list, i)
		}
	}
	return list
}

// publish tells others of the chunks that were claimed and read.
func (c *claim) publish(s *imageSection) {
	if c.b == nil || c.b.of == nil {
		return
	}
	b := c.b
	for _, i := range c.held {
		if s.faulty[i] {
			continue // each other worker that wants it tries for itself
		}
		from, to := s.chunk(i)
		e := entry{loc: s.extents[i].Chunk, sum: maphash.Bytes(b.seed, s.buf[from:to]), held: b.view.bit}
		if b.run.w.Began(e.loc.Pack) {
			e.by = b.run.sending
		}
		b.mu.Lock()
		if _, old := b.of.known[c.keys[i]]; old || b.n < maxShared {
			if !old {
				b.n++
			}
			b.of.known[c.keys[i]] = e
		}
		b.mu.Unlock()
	}
}

// release wakes the workers that wait for the claimed chunks. It may be called twice.
func (c *claim) release() {
	if len(c.held) == 0 {
		return
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for _, i := range c.held {
		if c.b.of.being[c.keys[i]] == c {
			delete(c.b.of.being, c.keys[i])
		}
	}
	c.held = nil
	close(c.done)
}

// fromOthers waits for chunks that other workers read, and returns the chunks that this worker
// must read all the same: a hit in crossCheck, and chunks that the others could not read.
func (c *claim) fromOthers(ctx context.Context, s *imageSection) ([]int, error) {
	var read []int
	for i, busy := range c.others {
		select {
		case <-busy.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		c.b.mu.Lock()
		if !c.hit(i, c.keys[i]) {
			read = append(read, i)
		}
		c.b.mu.Unlock()
	}
	for i, e := range c.hits {
		if rand.N(crossCheck) == 0 {
			c.checks = append(c.checks, i)
			read = append(read, i)
			continue
		}
		c.b.take(s, i, e)
	}
	slices.Sort(read)
	return read, nil
}

// take uses a chunk that the vault already has.
func (b *sharedBlocks) take(s *imageSection, i int, e entry) {
	from, to := s.chunk(i)
	b.run.counts.known.Add(uint64(to - from))
	s.r.faults.read(to - from)
	if e.loc.Len == 0 {
		return // zeros
	}
	s.extents[i] = vault.Extent{Off: s.at + int64(from), Chunk: e.loc, Len: uint32(to - from)}
	b.run.sending.uses(e)
}

// check compares the hits that were read with their expected content.
func (c *claim) check(s *imageSection) error {
	for _, i := range c.checks {
		from, to := s.chunk(i)
		if s.faulty[i] {
			continue // nothing is known of it then
		}
		if maphash.Bytes(c.b.seed, s.buf[from:to]) == c.hits[i].sum {
			continue
		}
		c.b.mu.Lock()
		c.b.off = true
		c.b.mu.Unlock()
		return fmt.Errorf("%w: image %s at byte %d", errShared, c.b.path, s.at+int64(from))
	}
	return nil
}
