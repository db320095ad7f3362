package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
)

// asked counts the requests of a store.
type asked struct {
	obs.Store
	stats, lists, reads atomic.Int64
}

func (a *asked) Stat(ctx context.Context, key string) (obs.Info, error) {
	a.stats.Add(1)
	return a.Store.Stat(ctx, key)
}

func (a *asked) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	a.reads.Add(1)
	return a.Store.ReadAt(ctx, key, p, off)
}

func (a *asked) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	a.lists.Add(1)
	return a.Store.List(ctx, prefix)
}

// withBackup makes a vault with one backup that names so many packs.
func withBackup(t *testing.T, st obs.Store, packs int) (*Vault, BackupRef, *Manifest, *Identity) {
	t.Helper()
	id, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Create(t.Context(), st, "tenant", nil, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{Instance: "i", Seq: 1, ID: NewBackupID(1, time.Now(), false)}
	for range packs {
		p := PackRef{Size: 200}
		_, _ = rand.Read(p.ID[:]) // never fails
		if err := st.Put(t.Context(), v.packKey(p.ID), make([]byte, p.Size)); err != nil {
			t.Fatal(err)
		}
		m.Packs = append(m.Packs, p)
	}
	if err := v.WriteManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return v, BackupRef{Instance: "i", ID: m.ID}, m, id
}

// TestPresent finds each missing object on which a backup
// rests; a store that does not answer is no finding.
func TestPresent(t *testing.T) {
	for _, packs := range []int{3, fewPacks + 90} {
		for name, c := range map[string]struct {
			harm func(t *testing.T, st obs.Store, v *Vault, m *Manifest) error
			want string
		}{
			"nothing": {func(*testing.T, obs.Store, *Vault, *Manifest) error { return nil }, ""},
			"the header": {func(t *testing.T, st obs.Store, v *Vault, _ *Manifest) error {
				return st.Delete(t.Context(), firstHeaderKey(v.info.ID))
			}, "the header of the vault is missing"},
			"another header": {func(t *testing.T, st obs.Store, v *Vault, _ *Manifest) error {
				other, err := GenerateIdentity()
				if err != nil {
					return err
				}
				aside := obs.NewMemory()
				if _, err = Create(t.Context(), aside, "tenant", nil, nil, other); err != nil {
					return err
				}
				doc, err := readAll(t.Context(), aside, firstHeaderKey(v.info.ID), maxHeader)
				return errors.Join(err, st.Delete(t.Context(), firstHeaderKey(v.info.ID)), st.Put(t.Context(), firstHeaderKey(v.info.ID), doc))
			}, "is not the header of the vault that was opened"},
			"the manifest": {func(t *testing.T, st obs.Store, _ *Vault, m *Manifest) error {
				return st.Delete(t.Context(), m.Object)
			}, "the manifest of the backup is missing"},
			"one pack": {func(t *testing.T, st obs.Store, v *Vault, m *Manifest) error {
				return st.Delete(t.Context(), v.packKey(m.Packs[1].ID))
			}, "a pack can't be used"},
			"a pack that was cut": {func(t *testing.T, st obs.Store, v *Vault, m *Manifest) error {
				key := v.packKey(m.Packs[1].ID)
				return errors.Join(st.Delete(t.Context(), key), st.Put(t.Context(), key, make([]byte, 150)))
			}, "has 150 bytes, the manifest says 200"},
			"everything": {func(t *testing.T, st obs.Store, _ *Vault, _ *Manifest) error {
				var keys []string
				for info, err := range st.List(t.Context(), "") {
					if err != nil {
						return err
					}
					keys = append(keys, info.Key)
				}
				return st.Delete(t.Context(), keys...)
			}, "is missing from the store"},
		} {
			st := &asked{Store: obs.NewMemory()}
			v, ref, m, _ := withBackup(t, st, packs)
			if err := c.harm(t, st, v, m); err != nil {
				t.Fatal(err)
			}
			err := v.Present(t.Context(), ref, m.Digest, nil)
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s of %d packs: %v, want %q", name, packs, err, c.want)
			}
		}
	}
	st := obstest.NewFaulty(obs.NewMemory())
	v, ref, m, _ := withBackup(t, st, 3)
	if err := v.Present(t.Context(), ref, strings.Repeat("0", 64), nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another manifest: %v, want ErrCorrupt", err)
	}
	for _, op := range []obstest.Op{obstest.Stat, obstest.Read} {
		st.Inject(obstest.Fault{Op: op, Err: obs.ErrUnavailable})
		if err := v.Present(t.Context(), ref, m.Digest, nil); err == nil || errors.Is(err, ErrCorrupt) {
			t.Errorf("a store that does not answer: %v, want an error that is not ErrCorrupt", err)
		}
		st.Heal()
	}
}

// TestPresentIsCheap: few packs cost a request each, many a request for each folder of packs.
func TestPresentIsCheap(t *testing.T) {
	for packs, most := range map[int]int64{3: 10, 10_000: 300} {
		st := &asked{Store: obs.NewMemory()}
		v, ref, m, _ := withBackup(t, st, packs)
		st.stats.Store(0)
		st.lists.Store(0)
		st.reads.Store(0)
		if err := v.Present(t.Context(), ref, m.Digest, nil); err != nil {
			t.Fatal(err)
		}
		if n := st.stats.Load() + st.lists.Load() + st.reads.Load(); n > most {
			t.Errorf("%d packs take %d requests, at most %d are wanted", packs, n, most)
		}
	}
}

// TestConfirm: a signpost that is missing comes back, the header of
// a rekey is found, and no manifest is written without a header.
func TestConfirm(t *testing.T) {
	st := obs.NewMemory()
	v, _, _, id := withBackup(t, st, 1)
	if err := st.Delete(t.Context(), signpostKey(v.info.ID)); err != nil {
		t.Fatal(err)
	}
	var mended []error
	for range 2 {
		if err := v.Confirm(t.Context(), func(err error) { mended = append(mended, err) }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.Stat(t.Context(), signpostKey(v.info.ID)); err != nil || len(mended) != 1 {
		t.Errorf("the signpost: %v; told of %v", err, mended)
	}
	again, err := Open(t.Context(), st, "tenant", nil, id)
	if err != nil {
		t.Fatal(err)
	}
	other, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Rekey(t.Context(), id, Change{Add: []string{other.Recipient()}}); err != nil {
		t.Fatal(err)
	}
	if err := v.Confirm(t.Context(), nil); err != nil {
		t.Errorf("after a rekey by another process: %v", err)
	}
	s, err := v.BeginSession(t.Context(), SessionOptions{Host: "h"})
	if err != nil {
		t.Fatal(err)
	}
	refs, err := headersOf(t.Context(), st, v.info.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refs {
		if err := st.Delete(t.Context(), r.key); err != nil {
			t.Fatal(err)
		}
	}
	m := &Manifest{Instance: "i", Seq: 2, ID: NewBackupID(2, time.Now(), false)}
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a manifest in a vault without a header: %v, want ErrCorrupt", err)
	}
	all, err := v.Backups(t.Context(), "i")
	if err != nil || slices.ContainsFunc(all, func(r BackupRef) bool { return r.ID == m.ID }) {
		t.Errorf("the backups are %v, %v", all, err)
	}
}
