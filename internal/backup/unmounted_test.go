package backup_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// unmounted is what Run says of a source, and that Look says the same. Nil when there is a backup.
func unmounted(t *testing.T, o backup.Options) *known.UnmountedError {
	t.Helper()
	_, err := backup.Run(t.Context(), o)
	lerr := backup.Look(t.Context(), o)
	if err == nil {
		if lerr != nil {
			t.Errorf("Look fails and Run does not: %v", lerr)
		}
		return nil
	}
	e, ok := errors.AsType[*known.UnmountedError](err)
	if !ok {
		t.Fatal(err)
	}
	if !strings.Contains(err.Error(), lerr.Error()) {
		t.Errorf("Run says: %v\nLook says: %v", err, lerr)
	}
	return e
}

// backups counts the backups of instance i.
func backups(t *testing.T, v *vault.Vault) int {
	t.Helper()
	refs, err := v.Backups(t.Context(), "i")
	if err != nil {
		t.Fatal(err)
	}
	return len(refs)
}

// TestUnmountedSourceIsNoBackup: the empty folder of a volume that is not
// mounted, or the files below its mount point, do not become the newest backup,
// with the catalogue of this host, without it, and in a round of pre-copy.
func TestUnmountedSourceIsNoBackup(t *testing.T) {
	for below, write := range map[string]func(dir string) error{
		"nothing":        func(string) error { return nil },
		"folders":        func(dir string) error { return os.MkdirAll(filepath.Join(dir, "a/b"), 0o755) },
		"lost and found": func(dir string) error { return makeFile(filepath.Join(dir, "lost+found/#123")) },
		"a note":         func(dir string) error { return makeFile(filepath.Join(dir, "NOT-MOUNTED")) },
	} {
		for _, keeps := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, catalogue %v", below, keeps), func(t *testing.T) {
				d := testbed.NewPowerDisk(t, "ext4", 256<<20)
				makeTree(t, d.Point, 31, 200, 0)
				v := newVault(t, obs.NewMemory())
				o := backup.Options{Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: d.Point}}}
				if keeps {
					o.CatalogueDir = t.TempDir()
				}
				if e := unmounted(t, o); e != nil {
					t.Fatal(e)
				}
				d.Unmount()
				if err := write(d.Point); err != nil {
					t.Fatal(err)
				}
				for _, o.Precopy = range []bool{true, false} {
					e := unmounted(t, o)
					if e == nil || e.Volume != "data" || e.Files < 200 || e.Path != d.Point || !strings.HasPrefix(e.Was, "ext4 ") || e.Is == e.Was {
						t.Fatalf("%+v", e)
					}
					if e.Empty != (below != "a note") {
						t.Errorf("empty is %v", e.Empty)
					}
					for _, word := range []string{`"data"`, "files", e.Was, e.Is, "mount the volume", "--allow-empty", "allow_empty: true"} {
						if !strings.Contains(e.Error(), word) {
							t.Errorf("%q is not in: %v", word, e)
						}
					}
				}
				if n := backups(t, v); n != 1 {
					t.Fatalf("%d backups", n)
				}
				// An operator who means it is believed, once.
				o.Sources[0].AllowEmpty = true
				if _, err := backup.Run(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				o.Sources[0].AllowEmpty = false
				if e := unmounted(t, o); e != nil {
					t.Errorf("after a backup that was allowed: %v", e)
				}
			})
		}
	}
}

func makeFile(path string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o600))
}

// TestRestoredVolumeIsNoUnmountedSource: a restore onto another
// disk, or on another host, and a power cut are none of it.
func TestRestoredVolumeIsNoUnmountedSource(t *testing.T) {
	d, other := testbed.NewPowerDisk(t, "ext4", 256<<20), testbed.NewPowerDisk(t, "xfs", 512<<20)
	dir, there := filepath.Join(d.Point, "volume"), filepath.Join(other.Point, "volume")
	makeTree(t, dir, 32, 50, 0)
	v := newVault(t, obs.NewMemory())
	cache := t.TempDir()
	o := backup.Options{Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: cache}
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	d.Mount()
	if e := unmounted(t, o); e != nil {
		t.Errorf("after a remount: %v", e)
	}
	put := func(dest, cache string) {
		t.Helper()
		ref := vault.BackupRef{Instance: "i", ID: res.BackupID}
		if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest, CatalogueDir: cache}); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(other.Point, "for a look"), cache)
	if e := unmounted(t, o); e != nil {
		t.Errorf("after a restore to somewhere else: %v", e)
	}
	put(there, cache)
	o.Sources[0].Root = there
	if e := unmounted(t, o); e != nil {
		t.Errorf("after a restore onto another disk: %v", e)
	}
	o.Host, o.CatalogueDir, o.Sources[0].Root = "another", t.TempDir(), dir
	if e := unmounted(t, o); e != nil {
		t.Errorf("on another host: %v", e)
	}
	o.Host = "h"
	if e := unmounted(t, o); e != nil {
		t.Errorf("back on the first one: %v", e)
	}
}

// TestVolumeThatWasAlwaysEmpty: an instance whose volume never had
// content is backed up, and so is an instance whose volume fills.
func TestVolumeThatWasAlwaysEmpty(t *testing.T) {
	dir := t.TempDir()
	o := backup.Options{
		Vault: newVault(t, obs.NewMemory()), Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(),
	}
	for range 2 {
		if e := unmounted(t, o); e != nil {
			t.Fatal(e)
		}
	}
	// It is mounted now for the first time.
	d := testbed.NewPowerDisk(t, "ext4", 256<<20)
	makeTree(t, d.Point, 33, 5, 0)
	o.Sources[0].Root = d.Point
	for range 2 {
		if e := unmounted(t, o); e != nil {
			t.Fatal(e)
		}
	}
}

// TestEmptyImageIsNoBackup: an image that lost its content does not become the newest backup.
func TestEmptyImageIsNoBackup(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	v := newVault(t, obs.NewMemory())
	o := backup.Options{Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: image}}, CatalogueDir: t.TempDir()}
	write := func(b []byte, size int64) {
		t.Helper()
		if err := errors.Join(os.WriteFile(image, b, 0o600), os.Truncate(image, size)); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("a disk"), 1<<20)
	if e := unmounted(t, o); e != nil {
		t.Fatal(e)
	}
	write(nil, 0)
	if e := unmounted(t, o); e == nil || !e.Empty {
		t.Errorf("no length: %+v", e)
	}
	write(nil, 1<<20)
	if e := unmounted(t, o); e == nil || !e.Empty {
		t.Errorf("a hole: %+v", e)
	}
	write(make([]byte, 1<<20), 1<<20)
	if _, err := backup.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("zeros: %v", err)
	}
	if n := backups(t, v); n != 1 {
		t.Errorf("%d backups", n)
	}
	o.Sources[0].AllowEmpty = true
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Error(err)
	}
	o.Sources[0].AllowEmpty = false
	if e := unmounted(t, o); e != nil {
		t.Error(e)
	}
}

// TestDamagedManifestHidesNoUnmountedSource: where the newest manifest
// does not open, the manifest before it tells the entries of the volume.
// Where none opens, nothing is known, and an empty volume needs leave.
func TestDamagedManifestHidesNoUnmountedSource(t *testing.T) {
	dir := t.TempDir()
	if err := makeFile(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	st := obs.NewMemory()
	v := newVault(t, st)
	o := backup.Options{Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}}
	for range 2 {
		if e := unmounted(t, o); e != nil {
			t.Fatal(e)
		}
	}
	if err := os.Remove(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	refs, err := v.Backups(t.Context(), "i")
	if err != nil {
		t.Fatal(err)
	}
	for i := len(refs) - 1; i >= 0; i-- {
		key := v.Info().ID + "/backups/i/" + refs[i].ID
		if err := errors.Join(st.Delete(t.Context(), key), st.Put(t.Context(), key, []byte("rot"))); err != nil {
			t.Fatal(err)
		}
		e := unmounted(t, o)
		if e == nil || !e.Empty {
			t.Fatalf("%d manifests open: %+v", i, e)
		}
		if i > 0 && (e.Files != 1 || e.Unread != nil) || i == 0 && !errors.Is(e.Unread, vault.ErrCorrupt) {
			t.Errorf("%d manifests open: %+v", i, e)
		}
	}
	o.Sources[0].AllowEmpty = true
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Error(err)
	}
	o.Sources[0].AllowEmpty = false
	if e := unmounted(t, o); e != nil {
		t.Errorf("after one that was allowed: %v", e)
	}
}

// TestRestoredImageOnAnotherDisk: an image that was restored onto
// another disk is no unmounted source.
func TestRestoredImageOnAnotherDisk(t *testing.T) {
	d, other := testbed.NewPowerDisk(t, "ext4", 256<<20), testbed.NewPowerDisk(t, "xfs", 512<<20)
	v := newVault(t, obs.NewMemory())
	image, there := filepath.Join(d.Point, "image"), filepath.Join(other.Point, "image")
	if err := os.WriteFile(image, []byte("a disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := backup.Options{Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: image}}, CatalogueDir: t.TempDir()}
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(there, []byte("a disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Sources[0].Root = there
	if e := unmounted(t, o); e == nil || e.Empty {
		t.Errorf("another image: %+v", e)
	}
	if err := os.Remove(there); err != nil {
		t.Fatal(err)
	}
	ref := vault.BackupRef{Instance: "i", ID: res.BackupID}
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: there, CatalogueDir: o.CatalogueDir}); err != nil {
		t.Fatal(err)
	}
	if e := unmounted(t, o); e != nil {
		t.Error(e)
	}
}
