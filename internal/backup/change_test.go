package backup_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// TestEndsAnywhere cancels backups at many moments: each returns,
// leaves no goroutine and no backup.
func TestEndsAnywhere(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, 10, 200, 4)
	for i := range 25 {
		v := newVault(t, obs.NewMemory())
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*4*time.Millisecond)
		_, err := backup.Run(ctx, backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}},
			CatalogueDir: t.TempDir(), Budget: 1, Progress: func(backup.Progress) {},
		})
		cancel()
		refs, lerr := v.Backups(t.Context(), "i")
		if lerr != nil || err == nil && len(refs) != 1 {
			t.Fatalf("after %d ms: %v, backups %v, %v", i*4, err, refs, lerr)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("after %d ms: %v", i*4, err)
		}
	}
}

// TestFilesThatChangeMeanwhile: however a file changes during its
// reading, the backup can be read, and content that it lacks is reported.
func TestFilesThatChangeMeanwhile(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	makeTree(t, dir, 9, 20, 0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for name, size := range map[string]int{"shrinks": 400 << 10, "grows": 5 << 20, "large": 3 << 20} {
		path, full := filepath.Join(dir, name), bytes.Repeat([]byte{0xff}, size)
		if err := os.WriteFile(path, full, 0o600); err != nil {
			t.Fatal(err)
		}
		least := int64(100)
		if name == "large" {
			least = 1 << 20
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = os.Truncate(path, least)
				if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
					_, _ = f.WriteAt(full, 0)
					_ = f.Close()
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	for range 6 {
		res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
		if err != nil {
			t.Fatal(err)
		}
		got := contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID})
		for name, b := range got {
			if filepath.Dir(name) == "." && bytes.IndexByte(b, 0) >= 0 && res.Lost == 0 {
				t.Fatalf("%s of %d bytes has a hole that it never had, and nothing was told", name, len(b))
			}
		}
	}
}

// TestPackThatWasEmptied: an object that is there but holds nothing is as good as none.
func TestPackThatWasEmptied(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 11, 50, 1)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for i, err := range st.List(t.Context(), v.Info().ID+"/packs/") {
		if err := errors.Join(err, st.Delete(t.Context(), i.Key), st.Put(t.Context(), i.Key, nil)); err != nil {
			t.Fatal(err)
		}
		break
	}
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
}

// TestVolumeNames: a name that no restore can make a folder of, or
// two of one name, end before work begins.
func TestVolumeNames(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	for _, names := range [][]string{{""}, {"a/b"}, {".."}, {"a", "a"}} {
		o := backup.Options{Vault: v, Instance: "i"}
		for _, n := range names {
			o.Sources = append(o.Sources, backup.Source{Volume: n, Root: dir})
		}
		if _, err := backup.Run(t.Context(), o); err == nil {
			t.Errorf("volumes %q: no error", names)
		}
	}
}

// unreadable gives back other bytes of packs than it took.
type unreadable struct{ obs.Store }

func (u unreadable) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	n, err := u.Store.ReadAt(ctx, key, p, off)
	if strings.Contains(key, "/packs/") {
		clear(p)
	}
	return n, err
}

// TestNoBackupOfPacksThatDoNotOpen: the sample comes before the manifest.
func TestNoBackupOfPacksThatDoNotOpen(t *testing.T) {
	v := newVault(t, unreadable{obs.NewMemory()})
	dir := t.TempDir()
	makeTree(t, dir, 8, 10, 0)
	if _, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}}); !errors.Is(err, vault.ErrCorrupt) {
		t.Fatalf("error is %v", err)
	}
	if refs, err := v.Backups(t.Context(), "i"); err != nil || len(refs) != 0 {
		t.Errorf("backups %v, %v", refs, err)
	}
}

// TestChangeThroughAMap: a page that a program changed through a shared map
// shows no further change in the times of its file until it was written back.
func TestChangeThroughAMap(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "db"), make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "db"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(m) }()
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(),
		// as if the page was changed long ago
		Now: func() time.Time { return time.Now().Add(time.Hour) },
	}
	for i := range byte(3) {
		m[100] = i + 1
		time.Sleep(10 * time.Millisecond) // another tick than the backup's
		res, err := backup.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		got := contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID})
		if got["db"][100] != i+1 {
			t.Errorf("backup %d holds %d, want %d", i, got["db"][100], i+1)
		}
	}
}

// TestVerifyNoticesEveryByte flips bits all over every object of a vault.
func TestVerifyNoticesEveryByte(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	makeTree(t, dir, 7, 30, 1)
	if _, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}}); err != nil {
		t.Fatal(err)
	}
	var objects []obs.Info
	for info, err := range st.List(t.Context(), v.Info().ID+"/") {
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, info)
	}
	put := func(key string, b []byte) {
		if err := errors.Join(st.Delete(t.Context(), key), st.Put(t.Context(), key, b)); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range objects {
		if strings.HasSuffix(o.Key, "/vault.json") {
			continue // Open looks at it
		}
		good := make([]byte, o.Size)
		if _, err := st.ReadAt(t.Context(), o.Key, good, 0); err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < o.Size; at += max(1, o.Size/7) {
			bad := bytes.Clone(good)
			bad[at] ^= 0x40
			put(o.Key, bad)
			report, err := v.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100})
			if err == nil && (len(report.Damaged) == 0 || report.Damaged[0].Object != o.Key) {
				t.Errorf("%s, byte %d of %d: %v", o.Key, at, o.Size, report.Damaged)
			}
		}
		put(o.Key, good)
	}
	if report, err := v.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100}); err != nil || len(report.Damaged) != 0 {
		t.Errorf("in the end: %+v, %v", report, err)
	}
}
