package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// TestPowerCutAfterRestore: the catalogue that a restore leaves is
// believed only while the file system stays mounted.
func TestPowerCutAfterRestore(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		// a backup comes between the restore and the cut
		for _, again := range []bool{false, true} {
			t.Run(kind+" "+strconv.FormatBool(again), func(t *testing.T) {
				provoke(t, true, func() bool { return powerCutAfterRestore(t, kind, again) })
			})
		}
	}
}

func powerCutAfterRestore(t *testing.T, kind string, again bool) (unseen bool) {
	t.Helper()
	d := testbed.NewPowerDisk(t, kind, 512<<20)
	source := filepath.Join(d.Point, "source")
	fillForCut(t, d, source, false)
	v := newVault(t, obs.NewMemory())
	cache := t.TempDir()
	back := func(root string) *backup.Result {
		t.Helper()
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: root}}, CatalogueDir: cache,
		})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := back(source)
	dir := filepath.Join(d.Point, "volume")
	ref := vault.BackupRef{Instance: "i", ID: first.BackupID}
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dir, CatalogueDir: cache}); err != nil {
		t.Fatal(err)
	}
	if again {
		if res := back(dir); res.Unchanged != res.Files || res.BytesRead != 0 {
			t.Fatalf("%d of %d files are known after the restore", res.Unchanged, res.Files)
		}
	}
	d.Sync()
	unseen = changeAndCut(t, d, dir, writers["fdatasync"])
	res := back(dir)
	holdsTree(t, v, res.BackupID, dir)
	if res.Unchanged != 0 {
		t.Errorf("%d files were taken as unchanged", res.Unchanged)
	}
	return unseen
}

// TestPowerCutLeavesBasesGood: a base snapshot stays evidence over a power cut. Later
// writes to the volume go to other blocks, at the first write also for files that
// btrfs otherwise overwrites in place, and the file system's own trees name these
// blocks. So the trees show all writes that the cut has kept, and little is read.
func TestPowerCutLeavesBasesGood(t *testing.T) {
	for _, noCow := range []bool{false, true} {
		for how, write := range writers {
			t.Run("nodatacow "+strconv.FormatBool(noCow)+" "+how, func(t *testing.T) {
				t.Parallel()
				d := testbed.NewPowerDisk(t, "btrfs", 512<<20)
				dir := filepath.Join(d.Point, "volume")
				fillForCut(t, d, dir, noCow)
				v := newVault(t, obs.NewMemory())
				b := &cutBase{t: t, v: v, volume: dir, provider: snapshot.NameBtrfs, cache: t.TempDir()}
				b.back()
				// Twice, so that the second time is in place.
				for name, size := range cutFiles {
					f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
					if err != nil {
						t.Fatal(err)
					}
					write(t, f, bytes.Repeat([]byte("new "), size/4))
					f.Close()
				}
				changeAndCut(t, d, dir, write)
				for range 2 {
					res := b.back()
					holdsTree(t, v, res.BackupID, b.base.Root)
					if res.Unchanged < 20 {
						t.Errorf("%d of %d files unchanged: the base was not used", res.Unchanged, res.Files)
					}
				}
			})
		}
	}
}

// TestPowerCutLeavesBasesOfImagesGood is the same for an image that is cloned.
func TestPowerCutLeavesBasesOfImagesGood(t *testing.T) {
	for how, write := range writers {
		t.Run(how, func(t *testing.T) {
			d := testbed.NewPowerDisk(t, "xfs", 512<<20)
			const size = 8 << 20
			image := filepath.Join(d.Point, "image")
			if err := os.WriteFile(image, bytes.Repeat([]byte("old "), size/4), 0o600); err != nil {
				t.Fatal(err)
			}
			v := newVault(t, obs.NewMemory())
			b := &cutBase{t: t, v: v, volume: image, provider: snapshot.NameReflink, cache: t.TempDir()}
			b.back()
			for _, what := range []string{"new ", "PAID"} {
				f, err := os.OpenFile(image, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				write(t, f, bytes.Repeat([]byte(what), 1<<20/4))
				f.Close()
			}
			d.PowerCut()
			want, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				res := b.back()
				if !bytes.Equal(imageContent(t, v, res.BackupID, size), want) {
					t.Error("the backup is not what the image is")
				}
				if res.BytesRead > size/2 {
					t.Errorf("%d bytes were read: the base was not used", res.BytesRead)
				}
			}
		})
	}
}

// cutBase backs up a volume again and again, each time from a
// snapshot that is then the base of the next.
type cutBase struct {
	t        *testing.T
	v        *vault.Vault
	volume   string
	provider string
	cache    string
	n        int
	base     *snapshot.Snapshot
	cat      string
}

func (b *cutBase) back() *backup.Result {
	b.t.Helper()
	p, err := snapshot.ByName(b.provider)
	if err != nil {
		b.t.Fatal(err)
	}
	b.n++
	taken := time.Now()
	view, err := p.Create(b.t.Context(), snapshot.Request{Volume: b.volume, Host: "h", Job: strconv.Itoa(b.n), Name: "v"})
	if err != nil {
		b.t.Fatal(err)
	}
	source := backup.Source{Volume: "data", Root: view.Root + view.Image, Taken: taken, View: view.Ref.Path}
	if b.base != nil {
		c, err := p.Changed(b.t.Context(), b.base.Base(), view)
		if err != nil {
			b.t.Fatal(err)
		}
		defer c.Close()
		source.Base = &known.Base{Catalogue: b.cat, Changes: c}
	}
	res, err := backup.Run(b.t.Context(), backup.Options{Vault: b.v, Instance: "i", Sources: []backup.Source{source}, CatalogueDir: b.cache})
	if err != nil {
		b.t.Fatal(err)
	}
	b.base, b.cat = view, res.Catalogues["data"]
	return res
}
