package backup_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/obs"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// badDisk is a file system on a disk that has bad blocks when a test wants them.
type badDisk struct {
	fuse *testbed.FUSE
	dir  string
}

func newBadDisk(t testing.TB, kind string) *badDisk {
	t.Helper()
	testbed.Need(t, kind, "root")
	d := &badDisk{fuse: testbed.StartFUSE(t), dir: t.TempDir()}
	disk := filepath.Join(d.fuse.Folder, "disk")
	must(t, os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 512<<20))
	force := "-f"
	if kind == "ext4" {
		force = "-F"
	}
	for _, args := range [][]string{{"mkfs." + kind, "-q", force, disk}, {"mount", "-o", "loop", "-t", kind, filepath.Join(d.fuse.Point, "disk"), d.dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		d.fuse.Set()
		must(t, exec.Command("umount", d.dir).Run())
	})
	return d
}

// damage lets reads of the block fail, or give other bytes, that the file at
// path has at a multiple of 4096. It returns how many such reads there were.
func (d *badDisk) damage(t testing.TB, path string, at int64, change func(data []byte) ([]byte, syscall.Errno)) *atomic.Int64 {
	t.Helper()
	must(t, exec.Command("sync", "-f", d.dir).Run())
	content, err := os.ReadFile(path)
	must(t, err)
	disk, err := os.Open(filepath.Join(d.fuse.Folder, "disk"))
	must(t, err)
	defer disk.Close()
	bad := int64(-1) // where the block is on the disk
	for r := range tree.DataRanges(disk, 512<<20) {
		b := make([]byte, r.Len)
		_, err := disk.ReadAt(b, r.Off)
		must(t, err)
		if i := bytes.Index(b, content[at:at+4096]); i >= 0 {
			bad = r.Off + int64(i)
		}
	}
	if bad < 0 {
		t.Fatal("the block is not on the disk")
	}
	uncache(t, path)
	hits := new(atomic.Int64)
	d.fuse.Set(testbed.Oddity{Read: func(_ string, off int64, data []byte) ([]byte, syscall.Errno) {
		if off < bad+4096 && off+int64(len(data)) > bad {
			hits.Add(1)
			return change(data)
		}
		return data, 0
	}})
	return hits
}

func ioError([]byte) ([]byte, syscall.Errno) { return nil, unix.EIO }

// TestBadBlocks: files on bad blocks are left out, small and large ones, first and later
// names; the next backup looks at them again, and finds them when they can be read.
func TestBadBlocks(t *testing.T) {
	for kind, change := range map[string]func([]byte) ([]byte, syscall.Errno){
		"ext4": ioError, "xfs": ioError,
		"btrfs": func(data []byte) ([]byte, syscall.Errno) {
			return bytes.Repeat([]byte("rot"), len(data)/3+1)[:len(data)], 0
		},
	} {
		t.Run(kind, func(t *testing.T) {
			d := newBadDisk(t, kind)
			for name, size := range map[string]int{"small": 40 << 10, "large": 4 << 20} {
				t.Run(name, func(t *testing.T) {
					dir := filepath.Join(d.dir, name)
					must(t, os.Mkdir(dir, 0o755))
					want := filesIn(t, dir, map[string]int{"bad": size, "good": size + 1})
					hits := d.damage(t, filepath.Join(dir, "bad"), int64(size)/2, change)
					v := newVault(t, obs.NewMemory())
					o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(), Now: inAnHour}
					for range 2 {
						res, err := backup.Run(t.Context(), o)
						must(t, err)
						compare(t, contentsRestored(t, v, res), map[string][]byte{"good": want["good"]})
						if lost := lossesOf(res); len(lost) != 1 || lost["bad"] == "" {
							t.Errorf("lost %q", lost)
						}
					}
					if hits.Load() == 0 {
						t.Error("no bad block was read")
					}
					d.fuse.Set()
					uncache(t, filepath.Join(dir, "bad"))
					res, err := backup.Run(t.Context(), o)
					must(t, err)
					compare(t, contentsRestored(t, v, res), want)
					if res.Lost > 0 || res.Unchanged != 1 {
						t.Errorf("%d unchanged, lost %q", res.Unchanged, lossesOf(res))
					}
				})
			}
		})
	}
}

// TestStreamedFileOnBadBlocks: a very large file that fails when its item is in the recipe does not
// count as unchanged later, neither for this host's catalogue nor for the catalogue in the store.
func TestStreamedFileOnBadBlocks(t *testing.T) {
	d := newBadDisk(t, "ext4")
	const size = 30 << 20
	want := filesIn(t, d.dir, map[string]int{"f": size})
	v := tinyChunks(t)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: d.dir}}, CatalogueDir: t.TempDir(), Now: inAnHour}
	d.damage(t, filepath.Join(d.dir, "f"), 28<<20, ioError)
	res, err := backup.Run(t.Context(), o)
	must(t, err)
	got := contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID})["f"]
	if len(got) != size || !bytes.Equal(got[:24<<20], want["f"][:24<<20]) || res.Lost != 1 {
		t.Errorf("%d bytes, want %d, or others; lost %q", len(got), size, lossesOf(res))
	}
	if res.Catalogues["data"] != "" {
		t.Error("its catalogue was kept")
	}
	d.fuse.Set()
	uncache(t, filepath.Join(d.dir, "f"))
	for _, cache := range []string{o.CatalogueDir, t.TempDir()} {
		o.CatalogueDir = cache
		res, err := backup.Run(t.Context(), o)
		must(t, err)
		if got := contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID})["f"]; !bytes.Equal(got, want["f"]) || res.Lost > 0 {
			t.Errorf("later: %d bytes, want %d, or others; lost %q", len(got), size, lossesOf(res))
		}
	}
}

// changedRange is a base that says that every file differs in one range.
type changedRange struct{ snapshot.Range }

func (changedRange) Inode(uint64) bool { return true }
func (c changedRange) File(uint64, int64) ([]snapshot.Range, bool, error) {
	return []snapshot.Range{c.Range}, true, nil
}

// TestBadBlockInWhatChanged: a file of which only what changed is
// read is left out too when that fails.
func TestBadBlockInWhatChanged(t *testing.T) {
	d := newBadDisk(t, "ext4")
	want := filesIn(t, d.dir, map[string]int{"f": 8 << 20})["f"]
	path := filepath.Join(d.dir, "f")
	v := newVault(t, obs.NewMemory())
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: d.dir}}, CatalogueDir: t.TempDir(), Now: inAnHour}
	first, err := backup.Run(t.Context(), o)
	must(t, err)
	copy(want[5<<20:], randomBytes(9, 64<<10))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(want[5<<20:5<<20+64<<10], 5<<20)
	must(t, err, f.Close())
	o.Sources[0].Base = &known.Base{Catalogue: first.Catalogues["data"], Changes: changedRange{snapshot.Range{Offset: 5 << 20, Length: 64 << 10}}}
	d.damage(t, path, 5<<20+8192, ioError)
	bad, err := backup.Run(t.Context(), o)
	must(t, err)
	if got := contents(t, v, vault.BackupRef{Instance: "i", ID: bad.BackupID}); len(got) != 0 || bad.Lost != 1 || bad.BytesRead > 1<<20 {
		t.Errorf("%d files, read %d, lost %q", len(got), bad.BytesRead, lossesOf(bad))
	}
	d.fuse.Set()
	uncache(t, path)
	o.Sources[0].Base.Catalogue = bad.Catalogues["data"]
	res, err := backup.Run(t.Context(), o)
	must(t, err)
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), map[string][]byte{"f": want})
}

// TestCheckOfAnUnreadableFile: the vault has the content of a file
// that did not change, so that it can't be read now loses nothing.
func TestCheckOfAnUnreadableFile(t *testing.T) {
	d := newBadDisk(t, "ext4")
	want := filesIn(t, d.dir, map[string]int{"f": 4096})
	v := newVault(t, obs.NewMemory())
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: d.dir}}, CatalogueDir: t.TempDir(), Now: inAnHour}
	_, err := backup.Run(t.Context(), o)
	must(t, err)
	hits := d.damage(t, filepath.Join(d.dir, "f"), 0, ioError)
	res, err := backup.Run(t.Context(), o)
	must(t, err)
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
	if hits.Load() == 0 || res.Unchanged != 1 || res.Lost > 0 || len(res.Warnings) != 1 || res.Warnings[0].Path != "f" {
		t.Errorf("%d reads, %d unchanged, %d lost, warnings %v", hits.Load(), res.Unchanged, res.Lost, res.Warnings)
	}
}
