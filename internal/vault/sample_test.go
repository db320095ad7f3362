package vault_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// packsOf stores packs of that many chunks each.
func packsOf(t *testing.T, v *vault.Vault, chunks ...int) (all []vault.PackRef) {
	t.Helper()
	for p, n := range chunks {
		w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
		must(t, err)
		for i := range n {
			b := fmt.Appendf(nil, "chunk %d of pack %d", i, p)
			_, err := addTo(w, v.Namer().Name(b), seal.Raw, b, len(b))
			must(t, err)
		}
		added, err := w.Finish(t.Context())
		must(t, err)
		all = append(all, added...)
	}
	return all
}

// TestSample: a sample reads the asked number of chunks with few requests,
// since the requests of many small backups are the store's work.
func TestSample(t *testing.T) {
	for _, c := range []struct {
		chunks            []int
		want, read, calls int
	}{
		{[]int{100}, 16, 16, 3},
		{[]int{100}, 17, 17, 4},
		{[]int{16}, 16, 16, 3},
		{[]int{5}, 16, 5, 2},
		{[]int{100, 100, 100, 100}, 16, 16, 8},
		{[]int{100, 1, 9}, 16, 11, 6},
		{[]int{3, 3, 3}, 2, 2, 4},
	} {
		v, st := countingVault(t)
		packs := packsOf(t, v, c.chunks...)
		st.ops = nil
		n, err := v.Sample(t.Context(), packs, c.want)
		must(t, err)
		st.ops = slices.DeleteFunc(st.ops, func(op string) bool { return op != "read" && op != "stat" })
		if n.Chunks != c.read || len(n.Lost) > 0 || len(st.ops) != c.calls {
			t.Errorf("%d of packs of %v: %+v chunks with %q, want %d with %d requests", c.want, c.chunks, n, st.ops, c.read, c.calls)
		}
	}
}

// TestSampleFindsDamage: the sample reports each kind of damage to a whole pack.
func TestSampleFindsDamage(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"gone":       func([]byte) []byte { return nil },
		"empty":      func([]byte) []byte { return []byte{} },
		"cut off":    func(b []byte) []byte { return b[:len(b)-1] },
		"grown":      func(b []byte) []byte { return append(b, 0) },
		"other end":  func(b []byte) []byte { return append(b[:len(b)-1], 9) },
		"no content": func(b []byte) []byte { return append(make([]byte, len(b)-5000), b[len(b)-5000:]...) },
	} {
		v, st := newVault(t)
		packs := packsOf(t, v, 100)
		for _, k := range keys(t, st) {
			if !strings.Contains(k, "/packs/") {
				continue
			}
			b := change(read(t, st, k))
			must(t, st.Delete(t.Context(), k))
			if b != nil {
				must(t, st.Put(t.Context(), k, b))
			}
		}
		if n, err := v.Sample(t.Context(), packs, 16); err != nil || len(n.Lost) != 1 || n.Lost[0].ID != packs[0].ID {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
}

// TestManifestThatReadsBackOtherwise: a backup whose manifest the
// store gives back with other bytes, more or fewer, is none.
func TestManifestThatReadsBackOtherwise(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"gone":     func([]byte) []byte { return nil },
		"cut off":  func(b []byte) []byte { return b[:len(b)-1] },
		"grown":    func(b []byte) []byte { return append(b, 0) },
		"other":    func(b []byte) []byte { b[9]++; return b },
		"as it is": func(b []byte) []byte { return b },
	} {
		v, st := countingVault(t)
		st.fail = func(op, key string) error {
			if op != "read" {
				return nil
			}
			b := change(read(t, st.Store, key))
			must(t, st.Store.Delete(t.Context(), key))
			if b != nil {
				must(t, st.Store.Put(t.Context(), key, b))
			}
			return nil
		}
		err := v.WriteManifest(t.Context(), manifest())
		if name == "as it is" {
			must(t, err)
		} else if !errors.Is(err, vault.ErrCorrupt) || errors.Is(err, obs.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
