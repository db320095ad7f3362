package backup_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// TestLargeFilesAreCutAsInOnePass: however many workers share a file, every run of data in it has
// the chunks that cutting it from its beginning to its end gives, and the recipe has them in order.
func TestLargeFilesAreCutAsInOnePass(t *testing.T) {
	dir := t.TempDir()
	src := rand.NewChaCha8([32]byte{5})
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = src.Read(b)
		return b
	}
	page := random(4096)
	repeated := make([]byte, 5<<20)
	for i := range repeated {
		repeated[i] = page[i%len(page)]
	}
	type piece struct {
		at   int64
		data []byte
	}
	for name, pieces := range map[string][]piece{
		"random":          {{0, random(7<<20 + 123)}},
		"zeros":           {{0, make([]byte, 6<<20)}},
		"zeros, shifted":  {{0, append(random(777), make([]byte, 6<<20)...)}},
		"repeated":        {{0, append(random(99), repeated...)}},
		"holes":           {{1 << 20, random(3 << 20)}, {9<<20 + 4096, random(5000)}, {64 << 20, random(2<<20 + 1)}},
		"one section":     {{0, random(1 << 20)}},
		"less than one":   {{0, random(600 << 10)}},
		"a byte too much": {{0, random(1<<20 + 1)}},
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			if _, err := f.WriteAt(p.data, p.at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	v := newVault(t, obs.NewMemory())
	res, err := backup.Run(t.Context(), backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Workers: 5,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.Manifest(t.Context(), vault.BackupRef{Instance: "i", ID: res.BackupID})
	if err != nil {
		t.Fatal(err)
	}
	var bytes uint64
	err = v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			if it.Kind != tree.File {
				continue
			}
			f, err := os.Open(filepath.Join(dir, it.Path))
			if err != nil {
				return err
			}
			var want, got []tree.Range
			for r := range tree.DataRanges(f, it.Size) {
				p := make([]byte, r.Len)
				if _, err := f.ReadAt(p, r.Off); err != nil {
					return err
				}
				bytes += uint64(r.Len)
				for at := r.Off; len(p) > 0; {
					n := v.Cutter().Cut(p)
					want = append(want, tree.Range{Off: at, Len: int64(n)})
					at, p = at+int64(n), p[n:]
				}
			}
			for _, x := range it.Extents {
				got = append(got, tree.Range{Off: x.Off, Len: int64(x.Len)})
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: chunks %v, one pass makes %v", it.Path, got, want)
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.BytesRead != bytes {
		t.Errorf("read %d bytes of %d", res.BytesRead, bytes)
	}
}
