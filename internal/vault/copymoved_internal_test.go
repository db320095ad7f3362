package vault

import (
	"testing"

	"holdfast/internal/obs"
)

// TestCopyOfCompacted: a copy of a vault whose chunks were moved is whole, before the copy
// and while it runs, and a copy that has the old packs keeps them until its own prune.
func TestCopyOfCompacted(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		for name, when := range map[string]string{"before": "", "between": "list", "after": "end"} {
			p := newSparseScene(t, obs.NewMemory())
			p.dormant()
			if when == "" {
				p.compact()
			}
			to := obs.NewMemory()
			o := CopyOptions{ID: p.v.info.ID, Session: SessionOptions{Host: "copier"}}
			if keyed {
				o.Vault = p.v
			}
			side := &hooked{Store: to}
			if when == "list" { // the copier has listed the source
				side.once("list", "sessions", func() error { p.compact(); return nil })
			}
			for range 2 {
				r, err := Copy(t.Context(), p.v.st, side, o)
				if err != nil || !r.Whole() {
					t.Fatalf("%s: %+v, %v", name, r, err)
				}
				p.whole(p.v.in(to))
				if when == "end" {
					p.compact()
				}
			}
			p.whole(p.v)
		}
	})
}

// TestCopyOfOneCompactedInstance: the copy of one instance brings the packs into which its chunks
// were moved, and no others.
func TestCopyOfOneCompactedInstance(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	p.dormant()
	p.compact()
	p.backup("other", 200, 201, 202)
	to := obs.NewMemory()
	r, err := Copy(t.Context(), p.v.st, to, CopyOptions{ID: p.v.info.ID, Vault: p.v, Instance: "dormant"})
	if err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	delete(p.made, fullName(BackupRef{Instance: "other", ID: modelID(3)}))
	copied := p.v.in(to)
	p.whole(copied)
	if packs := keysOf(t, to, "/packs/"); len(packs) >= len(p.left("packs")) {
		t.Errorf("the copy has all packs: %q", packs)
	}
}
