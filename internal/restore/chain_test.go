package restore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/bench/phone"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// requests counts the reads of packs.
type requests struct {
	obs.Store
	n atomic.Int64
}

func (r *requests) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if strings.Contains(key, "/packs/") {
		r.n.Add(1)
	}
	return r.Store.ReadAt(ctx, key, p, off)
}

// BenchmarkRestoreOfChain restores the last of a chain of daily backups
// of a phone, whose content lies in the packs of all of them. It measures
// requests, and bytes that no file needs. FORMAT.md has larger figures.
func BenchmarkRestoreOfChain(b *testing.B) {
	for _, days := range []int{0, 30, 100} {
		if testing.Short() && days > 30 {
			continue
		}
		b.Run(fmt.Sprintf("days=%d", days), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "phone")
			_, err := phone.Make(dir, phone.Options{Seed: 1, Bytes: 24 << 20})
			must(b, err)
			st := &requests{Store: obs.NewMemory()}
			v := newVault(b, st)
			o := backup.Options{
				Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: b.TempDir(),
				// no time of change is too young
				Now: func() time.Time { return time.Now().Add(time.Hour) }, Sample: -1,
			}
			last, err := backup.Run(b.Context(), o)
			must(b, err)
			for day := range days {
				_, err := phone.Day(dir, uint64(day))
				must(b, err)
				// each day takes the same picture
				camera := filepath.Join(dir, "media/0/DCIM/Camera")
				must(b, os.Rename(filepath.Join(camera, "IMG_20269999_000000.jpg"), filepath.Join(camera, fmt.Sprintf("%d.jpg", day))))
				last, err = backup.Run(b.Context(), o)
				must(b, err)
			}
			ref := vault.BackupRef{Instance: "i", ID: last.BackupID}
			needed := sealedBytes(b, v, ref)
			for b.Loop() {
				dest := filepath.Join(b.TempDir(), "dest")
				st.n.Store(0)
				res, err := restore.Run(b.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
				must(b, err)
				b.SetBytes(int64(res.Bytes))
				b.ReportMetric(float64(last.Packs), "packs")
				b.ReportMetric(float64(st.n.Load()), "requests")
				b.ReportMetric(float64(res.BytesFetched)/float64(needed), "fetched/needed")
				must(b, os.RemoveAll(dest))
			}
		})
	}
}

// sealedBytes is how many bytes of packs the files of a backup need.
func sealedBytes(t testing.TB, v *vault.Vault, ref vault.BackupRef) (n int64) {
	t.Helper()
	m, err := v.Manifest(t.Context(), ref)
	must(t, err)
	seen := map[vault.Loc]bool{}
	must(t, v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for i := range items {
			for _, x := range items[i].Extents {
				if !seen[x.Chunk] {
					seen[x.Chunk] = true
					n += int64(x.Chunk.Len)
				}
			}
		}
		return nil
	}))
	return n
}
