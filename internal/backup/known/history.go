// Package known finds out what need not be read for a backup: the facts that this host's
// catalogues, earlier backups in the vault, and kept snapshots tell of the volumes of an instance.
//
// A Run makes one History, and asks it for the earlier entries of each volume (Catalogue,
// Image, Round), and whether the volumes are mounted at all (Mounted, BecameZeros). A host
// compares a volume with its last backup by Compare. Where the package is in doubt, it answers
// that nothing is known, so that the content is read. The package starts no goroutine. A crash
// leaves the old catalogues, since Keep puts each new catalogue in place by a rename.
package known

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Volume is one volume of the instance, as far as its earlier backups matter.
// The fields mean the same as the fields of backup.Source with these names.
type Volume struct {
	Name       string
	Root       string
	Taken      time.Time
	Base       *Base
	AllowEmpty bool
	Mounted    string
	Quiet      bool
	ReadAll    bool // nothing that is known of the volume is believed
}

// Facts say whose earlier backups a History asks, and what its Run is.
type Facts struct {
	Vault    *vault.Vault
	Instance string
	Host     string // of the Run
	// Catalogues is the folder of the host with its catalogues; "" for none.
	Catalogues string
	Precopy    bool          // the Run is a round of pre-copy
	Created    time.Time     // when the Run began, by the wall clock
	Booted     time.Duration // how far the wall clock was ahead of the time since the boot then
	Clock      func() time.Duration
	Without    map[vault.PackID]bool // packs that the Run does not use
	Distrusted *Distrusted
	Warn       func(tree.Warning)
}

// History is all that one Run can know of the earlier backups of its instance, from the catalogues
// of this host and from the store. It asks the store when an answer is first needed, and once. Any
// goroutine may call its methods, except Catalogue, Round, Keep and Close, which are for one.
type History struct {
	Facts
	// Earlier returns the instance's backups when the Run began.
	Earlier func() ([]vault.BackupRef, error)
	// newest returns the manifest of the last of them, or vault.ErrNoBackup.
	newest func() (*vault.Manifest, error)
	// readable returns the last manifest that opens, or vault.ErrNoBackup.
	readable   func() (*vault.Manifest, error)
	catalogues []*Catalogue
}

// NewHistory makes a History whose questions to the store end with ctx. Close is due.
func NewHistory(ctx context.Context, f Facts) *History {
	h := &History{Facts: f}
	h.Earlier = sync.OnceValues(func() ([]vault.BackupRef, error) { return h.Vault.Backups(ctx, h.Instance) })
	h.newest = sync.OnceValues(func() (*vault.Manifest, error) { return h.lastBackup(ctx) })
	h.readable = sync.OnceValues(func() (*vault.Manifest, error) { return h.lastReadable(ctx) })
	return h
}

// AskAhead asks the store for the facts that a Run of these volumes will need. Where a volume has
// no catalogue on this host, it asks the newest backup: a round trip that need not wait for the
// index. A later call that needs an answer gets the same answer, or the same error.
func (h *History) AskAhead(volumes []Volume) {
	asks := slices.ContainsFunc(volumes, func(v Volume) bool {
		return !(v.ReadAll && v.AllowEmpty) && (h.Catalogues == "" || !h.Vault.HasCatalogue(h.Catalogues, h.Instance, v.Name))
	})
	if asks {
		_, _ = h.newest()
	} else if !h.Precopy {
		_, _ = h.Earlier()
	}
}

// Keep puts each new catalogue into the place of the old one, and gives its id to kept. Where that
// fails, the next backup reads more, and kept is not called for the volume.
func (h *History) Keep(kept func(volume, id string)) {
	for _, c := range h.catalogues {
		if c.new != nil && c.new.Keep() == nil {
			kept(c.volume, c.new.ID())
		}
	}
}

// Close frees the resources of all catalogues. New ones that were not kept are gone.
func (h *History) Close() {
	if h == nil {
		return
	}
	for _, c := range h.catalogues {
		c.close()
	}
}

func (h *History) distrusts(volume, by string) bool {
	return h.Distrusted.Has(h.Vault, h.Instance, volume, by)
}

// lastBackup reads the manifest of the instance's newest backup, complete or not: the
// facts about unchanged files do not depend on the content that the backup lacks.
func (h *History) lastBackup(ctx context.Context) (*vault.Manifest, error) {
	refs, err := h.Earlier()
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, vault.ErrNoBackup
	}
	return h.Vault.Manifest(ctx, refs[len(refs)-1])
}

// lastReadable is lastBackup, but where a manifest is damaged it goes back
// to the backup before. The error is the error of the newest manifest.
func (h *History) lastReadable(ctx context.Context) (*vault.Manifest, error) {
	m, first := h.newest()
	if first == nil || !unusable(first) {
		return m, first
	}
	refs, err := h.Earlier()
	if err != nil {
		return nil, err
	}
	for _, ref := range slices.Backward(refs[:len(refs)-1]) {
		m, err := h.Vault.Manifest(ctx, ref)
		if err == nil || !unusable(err) && !errors.Is(err, vault.ErrNoBackup) {
			return m, err
		}
	}
	return nil, first
}

// unusable says whether a manifest was read and is of no use, so
// that reading it once more would not help.
func unusable(err error) bool {
	return errors.Is(err, vault.ErrCorrupt) || errors.Is(err, vault.ErrWrongKey) || errors.Is(err, vault.ErrNewer)
}
