// Package blockshare lets the backups of images that lie on the same blocks read those blocks once.
//
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
//
// The backups of one host share one Table. The package starts no goroutine, and
// keeps everything in memory: after a crash the next process knows no blocks.
package blockshare

import (
	"errors"
	"hash/maphash"
	"slices"
	"sync"

	"holdfast/internal/image"
	"holdfast/internal/vault"
)

const (
	// crossCheck: of so many chunks that need not be read one is read.
	crossCheck = 256
	// maxShared bounds the entries of a table: 32 GiB of chunks that are shared, in some 50 MiB.
	maxShared = 1 << 19
)

// ErrBlocksDiffer says that blocks which should have been the same were not.
var ErrBlocksDiffer = errors.New("blocks that images share are not the same in both")

// Table holds the facts that one process knows about blocks in several views. Any number of
// goroutines may use it at once. NewTable makes one.
type Table struct {
	seed maphash.Seed

	mu    sync.Mutex
	off   bool // something was not as it should be: until the process ends
	views map[string]*view
	// of the views, a bit each: with 64 of them at a time, later ones share nothing
	slots uint64
	// not by id, which is the same for two of one name in two stores
	vaults map[*vault.Vault]*vaultBlocks
	n      int // entries of all
}

// vaultBlocks has the blocks whose content one vault has, or is about to have.
type vaultBlocks struct {
	known   map[blockKey]entry
	reading map[blockKey]*Claim // that a worker has claimed and reads now
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
	loc    vault.Loc // Len 0 for zeros
	sum    uint64    // of the content, by the host's seed
	held   uint64    // bits of the views that hold the blocks
	sender *Arrivals // of the Run that sends the pack, which may not have arrived; nil for an old pack
}

// NewTable makes a table without entries.
func NewTable() *Table {
	return &Table{seed: maphash.MakeSeed(), views: map[string]*view{}, vaults: map[*vault.Vault]*vaultBlocks{}}
}

// BeginView says that a snapshot of that name stands and stays after the Runs that read it,
// until as many calls of EndView. Without BeginView, a view is known while Runs read it.
func (t *Table) BeginView(name string) { t.begin(name) }

// EndView must be called before the view is removed, or written to.
// For a name that is not known it does nothing.
func (t *Table) EndView(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.views[name]
	if v == nil {
		return
	}
	if v.users--; v.users > 0 {
		return
	}
	delete(t.views, name)
	t.slots &^= v.bit
	t.drop(v, func(blockKey) bool { return true })
}

func (t *Table) begin(name string) *view {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.views[name]
	if v == nil {
		v = &view{bit: ^t.slots & -^t.slots} // the lowest that is free
		t.slots |= v.bit
		t.views[name] = v
	}
	v.users++
	return v
}

// drop takes the view from the entries that gone says.
func (t *Table) drop(v *view, gone func(blockKey) bool) {
	blocks := t.vaults[v.vault]
	if blocks == nil || v.bit == 0 {
		return
	}
	for k, e := range blocks.known {
		if e.held&v.bit == 0 || !gone(k) {
			continue
		}
		if e.held &^= v.bit; e.held == 0 {
			delete(blocks.known, k)
			t.n--
		} else {
			blocks.known[k] = e
		}
	}
}

// recheck looks where the images of all other views lie now.
func (t *Table) recheck(in *vault.Vault, own *view, grid int64) {
	t.mu.Lock()
	var others []*view
	for _, v := range t.views {
		if v != own && v.vault == in && v.bit != 0 {
			others = append(others, v)
		}
	}
	t.mu.Unlock()
	for _, v := range others {
		t.mu.Lock()
		paths := slices.Clone(v.images)
		t.mu.Unlock()
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
		t.mu.Lock()
		if len(v.images) == len(paths) { // else it is being read, and was looked at just now
			t.drop(v, func(k blockKey) bool { return !there[k] })
		}
		t.mu.Unlock()
	}
}
