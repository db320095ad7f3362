package vault_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// store adds chunks of the numbers from first to before end with a
// Writer of its own, and returns how many were new.
func store(t testing.TB, v *vault.Vault, dir string, first, end int) (fresh int, packs []vault.PackRef) {
	t.Helper()
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{IndexDir: dir})
	must(t, err)
	namer := v.Namer()
	for i := first; i < end; i++ {
		b := fmt.Appendf(nil, "the content of chunk %d", i)
		s, err := addTo(w, namer.Name(b), seal.Raw, b, len(b))
		must(t, err)
		if s.New {
			fresh++
		}
	}
	packs, err = w.Finish(t.Context())
	must(t, err)
	must(t, w.Tidy(t.Context()))
	return fresh, packs
}

func segments(t testing.TB, st obs.Store) (found []string) {
	t.Helper()
	for _, k := range keys(t, st) {
		if strings.Contains(k, "/index/") {
			found = append(found, k)
		}
	}
	return found
}

// TestManyWritersAtOnce: writers of several hosts, which know nothing of each
// other, lose nothing, and the next writer finds everything that they stored.
func TestManyWritersAtOnce(t *testing.T) {
	v, st := newVault(t)
	const hosts, rounds, each = 6, 8, 50
	var wg sync.WaitGroup
	for h := range hosts {
		dir := t.TempDir()
		wg.Go(func() {
			for r := range rounds {
				first := (h/2*rounds + r) * each // two hosts store the same
				store(t, v, dir, first, first+each)
			}
		})
	}
	wg.Wait()
	if fresh, _ := store(t, v, "", 0, hosts/2*rounds*each); fresh != 0 {
		t.Errorf("%d chunks are not found afterwards", fresh)
	}
	if n := len(segments(t, st)); n > 20 {
		t.Errorf("%d segments are left of %d", n, hosts*rounds)
	}
	report, err := v.Verify(t.Context(), vault.VerifyOptions{})
	if err != nil || len(report.Damaged) != 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// TestDamagedSegments: they stop no writer, verify names each, and
// RebuildIndex makes them anew from the packs.
func TestDamagedSegments(t *testing.T) {
	v, st := newVault(t)
	store(t, v, "", 0, 100)
	store(t, v, "", 100, 200)
	store(t, v, "", 200, 300)
	all := segments(t, st)
	for i, harm := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)/2] },
		func(b []byte) []byte { b[len(b)-40] ^= 1; return b }, // its head
	} {
		replace(t, st, all[i], harm(read(t, st, all[i])))
	}
	b := read(t, st, all[2])
	b[1100] ^= 1 // a block
	replace(t, st, all[2], b)

	report, err := v.Verify(t.Context(), vault.VerifyOptions{})
	must(t, err)
	var named []string
	for _, d := range report.Damaged {
		named = append(named, d.Object)
	}
	if !slices.Equal(named, all) {
		t.Errorf("verify names %v, damaged are %v", named, all)
	}
	var mu sync.Mutex
	var told []error
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{Warn: func(err error) { mu.Lock(); told = append(told, err); mu.Unlock() }})
	must(t, err)
	must(t, w.Abort(errors.New("only looked")))
	if len(told) != 2 { // the block is not looked at yet
		t.Errorf("the writer was told %v", told)
	}

	rebuilt, err := v.RebuildIndex(t.Context(), vault.SessionOptions{Host: "h"})
	must(t, err)
	if rebuilt.Packs != 3 || rebuilt.Read != 3 || rebuilt.Chunks != 300 || rebuilt.Replaced != 3 || len(rebuilt.Damaged) != 0 {
		t.Errorf("rebuilt: %+v", rebuilt)
	}
	if fresh, _ := store(t, v, "", 0, 300); fresh != 0 {
		t.Errorf("%d chunks are not found afterwards", fresh)
	}
	if report, err := v.Verify(t.Context(), vault.VerifyOptions{}); err != nil || len(report.Damaged) != 0 {
		t.Errorf("verify: %+v, %v", report.Damaged, err)
	}
	again, err := v.RebuildIndex(t.Context(), vault.SessionOptions{Host: "h"})
	if err != nil || again.Read != 0 || again.Replaced != 0 {
		t.Errorf("rebuilt again: %+v, %v", again, err)
	}
}

// TestIndexOfMissingPacks: index rows for packs that are gone are not used
// once the writer knows about the packs, and RebuildIndex forgets these rows.
func TestIndexOfMissingPacks(t *testing.T) {
	v, st := newVault(t)
	_, lost := store(t, v, "", 0, 100)
	store(t, v, "", 100, 200)
	for _, k := range keys(t, st) {
		if strings.HasSuffix(k, lost[0].ID.String()) {
			must(t, st.Delete(t.Context(), k))
		}
	}
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{Without: []vault.PackID{lost[0].ID}})
	must(t, err)
	known := 0
	for i := range 200 {
		if loc, ok := w.Known(v.Namer().Name(fmt.Appendf(nil, "the content of chunk %d", i))); ok {
			known++
			if loc.Pack == lost[0].ID {
				t.Fatal("a pack that is not to be used is")
			}
		}
	}
	must(t, w.Abort(errors.New("only looked")))
	if known != 100 {
		t.Errorf("%d chunks are known", known)
	}
	report, err := v.RebuildIndex(t.Context(), vault.SessionOptions{Host: "h"})
	if err != nil || report.Gone != 1 || report.Replaced != 1 || report.Read != 0 {
		t.Errorf("rebuilt: %+v, %v", report, err)
	}
	if fresh, _ := store(t, v, "", 0, 200); fresh != 100 {
		t.Errorf("%d chunks were stored anew", fresh)
	}
}

// TestRebuildFindsUnfinishedWork: packs of a writer that never came to its index are used.
func TestRebuildFindsUnfinishedWork(t *testing.T) {
	v, st := newVault(t)
	store(t, v, "", 0, 100)
	for _, k := range segments(t, st) {
		must(t, st.Delete(t.Context(), k))
	}
	must(t, st.Put(t.Context(), v.Info().ID+"/packs/00/00000000000000000000000000000000", []byte("no pack")))
	report, err := v.RebuildIndex(t.Context(), vault.SessionOptions{Host: "h"})
	if err != nil || report.Packs != 2 || report.Read != 1 || report.Chunks != 100 || len(report.Damaged) != 1 {
		t.Errorf("rebuilt: %+v, %v", report, err)
	}
	if fresh, _ := store(t, v, "", 0, 100); fresh != 0 {
		t.Errorf("%d chunks are not found", fresh)
	}
}

// TestStoreThatFailsUnderTheIndex: a fault that is no
// damage stops the writer, and leaves nothing behind.
func TestStoreThatFailsUnderTheIndex(t *testing.T) {
	v, st := newVault(t)
	store(t, v, "", 0, 10)
	down := &downStore{Store: st}
	id := identity(t)
	v2, err := vault.Create(t.Context(), down, "other", nil, nil, id)
	must(t, err)
	store(t, v2, "", 0, 10)
	down.down = true
	if _, err := v2.NewWriter(t.Context(), vault.WriterOptions{}); !errors.Is(err, obs.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
	if _, err := v2.RebuildIndex(t.Context(), vault.SessionOptions{Host: "h"}); !errors.Is(err, obs.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
}

// downStore fails reads while it is down.
type downStore struct {
	obs.Store
	down bool
}

func (d *downStore) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if d.down {
		return 0, obs.ErrUnavailable
	}
	return d.Store.ReadAt(ctx, key, p, off)
}
