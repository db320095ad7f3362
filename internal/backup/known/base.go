package known

import (
	"sync"

	"holdfast/internal/snapshot"
	"holdfast/internal/vault"
)

// Base is an earlier view of a volume that still stands, by which a
// backup knows the changes without reading them.
type Base struct {
	// Catalogue is the id of the catalogue that was made of that view, from
	// backup.Result.Catalogues. While the volume's catalogue on this host is another
	// one, the base is not looked at, since nothing tells its content.
	Catalogue string
	Changes   Changes
}

// Changes are the differences that may be between a base and the view that is backed up: a
// superset. *snapshot.Changes is one. It is used by one goroutine at a time.
type Changes interface {
	// Inode tells whether anything of the file with that number may differ.
	Inode(ino uint64) bool
	// File lists in order the ranges of the file, which now has that
	// size, that may differ. After an error the file is read in whole.
	File(ino uint64, size int64) (ranges []snapshot.Range, exact bool, err error)
}

var _ Changes = (*snapshot.Changes)(nil)

// Ways by which content is known not to have changed.
const (
	ByBase  = "base snapshot"
	ByTimes = "times of change"
)

// Distrusted holds the means that turned out not to be reliable, by volume. Any
// number of goroutines may use it at once. The zero value is ready.
type Distrusted struct {
	mu sync.Mutex
	by map[string]bool
}

func distrustKey(v *vault.Vault, instance, volume, by string) string {
	return v.Info().ID + "\x00" + instance + "\x00" + volume + "\x00" + by
}

// Add notes that by, which is ByBase or ByTimes, did not tell of a change of the volume.
func (d *Distrusted) Add(v *vault.Vault, instance, volume, by string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = map[string]bool{}
	}
	d.by[distrustKey(v, instance, volume, by)] = true
}

// Has tells whether Add was called so.
func (d *Distrusted) Has(v *vault.Vault, instance, volume, by string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.by[distrustKey(v, instance, volume, by)]
}
