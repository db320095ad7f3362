package restore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

const mib = 1 << 20

// free returns the free space of a file system.
func free(t *testing.T, dir string) (bytes, inodes uint64) {
	t.Helper()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	return fs.Bavail * uint64(fs.Frsize), fs.Ffree
}

// TestCheckRoom: volumes on one file system add up, volumes on others do
// not, the reserve counts, and volumes that are removed first do not.
func TestCheckRoom(t *testing.T) {
	testbed.Need(t, "root", "ext4", "btrfs")
	one, other := testbed.Filesystem(t, "ext4", 64*mib), testbed.Filesystem(t, "btrfs", 256*mib)
	for _, dir := range []string{one, other} {
		must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	}
	if out, err := exec.Command("btrfs", "subvolume", "create", filepath.Join(other, "volume")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	has, inodes := free(t, one)
	hasOther, _ := free(t, other)
	half := has/2 + mib
	for name, c := range map[string]struct {
		needs   []restore.Need
		reserve restore.Reserve
		short   string // volumes; "": it fits
	}{
		"fits":                {[]restore.Need{{Volume: "a", Folder: one, Bytes: half}}, restore.Reserve{}, ""},
		"too large":           {[]restore.Need{{Volume: "a", Folder: one, Bytes: has + 1}}, restore.Reserve{}, `volume "a"`},
		"two on one":          {[]restore.Need{{Volume: "a", Folder: one, Bytes: half}, {Volume: "b", Folder: one + "/sub", Bytes: half}}, restore.Reserve{}, `volumes "a", "b"`},
		"two on two":          {[]restore.Need{{Volume: "a", Folder: one, Bytes: half}, {Volume: "b", Folder: other, Bytes: half}}, restore.Reserve{}, ""},
		"two subvolumes":      {[]restore.Need{{Volume: "a", Folder: other, Bytes: hasOther/2 + mib}, {Volume: "b", Folder: other + "/volume", Bytes: hasOther/2 + mib}}, restore.Reserve{}, `volumes "a", "b"`},
		"reserve":             {[]restore.Need{{Volume: "a", Folder: one, Bytes: half}}, restore.Reserve{Bytes: has / 2}, `volume "a"`},
		"percent":             {[]restore.Need{{Volume: "a", Folder: one, Bytes: half}}, restore.Reserve{Percent: 60}, `volume "a"`},
		"percent, bounded":    {[]restore.Need{{Volume: "a", Folder: one, Bytes: half}}, restore.Reserve{Percent: 60, Most: mib}, ""},
		"less than reserve":   {[]restore.Need{{Volume: "a", Folder: one}}, restore.Reserve{Bytes: has * 2}, `volume "a"`},
		"inodes":              {[]restore.Need{{Volume: "a", Folder: one, Entries: inodes + 1}}, restore.Reserve{}, `volume "a"`},
		"inodes in reserve":   {[]restore.Need{{Volume: "a", Folder: one, Entries: inodes / 2}}, restore.Reserve{InodePercent: 60}, `volume "a"`},
		"no inodes on btrfs":  {[]restore.Need{{Volume: "a", Folder: other, Entries: 1 << 40}}, restore.Reserve{InodePercent: 60}, ""},
		"freed before":        {[]restore.Need{{Volume: "a", Folder: one, Bytes: has + mib, Freed: 2 * mib}}, restore.Reserve{}, ""},
		"small files' blocks": {[]restore.Need{{Volume: "a", Folder: one, Bytes: has - inodes/4*512, Entries: inodes / 2}}, restore.Reserve{}, `volume "a"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := restore.CheckRoom(c.needs, c.reserve)
			if c.short == "" && err != nil || c.short != "" && (!errors.Is(err, restore.ErrRoom) || !strings.Contains(err.Error(), c.short)) {
				t.Errorf("%v", err)
			}
		})
	}
	if err := restore.CheckRoom([]restore.Need{{Volume: "a", Folder: filepath.Join(one, "nothing")}}, restore.Reserve{}); err == nil || errors.Is(err, restore.ErrRoom) {
		t.Errorf("of a folder that is not there: %v", err)
	}
	if err := restore.Short(one, restore.Reserve{Bytes: has * 2}); !errors.Is(err, restore.ErrRoom) {
		t.Errorf("short: %v", err)
	}
	must(t, restore.Short(one, restore.Reserve{}))
}

// neighbour rewrites a file of its own again and again, until stop is closed.
func neighbour(dir string, n int, stop <-chan struct{}) error {
	content := bytes.Repeat([]byte{byte(n)}, 256<<10)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("neighbour-%d-%d", n, i%4)))
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
	}
}

// TestRestoreLeavesRoomToItsNeighbours: a restore that is larger than the disk stops with an error,
// while ten others write to that disk, and none of these ever meets a full disk.
func TestRestoreLeavesRoomToItsNeighbours(t *testing.T) {
	testbed.Need(t, "root", "ext4", "xfs", "btrfs")
	src := t.TempDir()
	piece := make([]byte, 4*mib)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(piece)
	for i := range 4 { // the vault has the piece once
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprint("file-", i)), bytes.Repeat(piece, 40), 0o600))
	}
	v := newVault(t, obs.NewMemory())
	res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: src}}})
	must(t, err)
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testbed.Filesystem(t, kind, 480*mib)
			stop := make(chan struct{})
			var failed atomic.Int64
			var all sync.WaitGroup
			for n := range 10 {
				all.Go(func() {
					if err := neighbour(dir, n, stop); err != nil {
						failed.Add(1)
						t.Errorf("neighbour %d: %v", n, err)
					}
				})
			}
			_, err := restore.Run(t.Context(), restore.Options{
				Vault: v, Ref: vault.BackupRef{Instance: "i", ID: res.BackupID}, Dest: filepath.Join(dir, "restored"), Volume: "data", Reserve: &restore.Reserve{Bytes: 96 * mib},
			})
			close(stop)
			all.Wait()
			var short *restore.RoomError
			if !errors.As(err, &short) || !short.Writing || short.Cause != nil || short.KeepBytes != 96*mib || !strings.Contains(err.Error(), `volume "data"`) {
				t.Errorf("the restore: %v", err)
			}
			if failed.Load() > 0 {
				t.Errorf("%d neighbours met a full disk", failed.Load())
			}
			for _, left := range strings.Fields(listing(t, dir)) {
				if strings.Contains(left, "restore") {
					t.Errorf("left: %s", left)
				}
			}
		})
	}
}

// TestRestoreLeavesInodes: a restore of more files than there are inodes stops before the last one.
func TestRestoreLeavesInodes(t *testing.T) {
	testbed.Need(t, "root", "ext4")
	dir := testbed.Filesystem(t, "ext4", 16*mib)
	_, inodes := free(t, dir)
	src := t.TempDir()
	for i := range inodes + 100 {
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprint(i)), nil, 0o600))
	}
	v := newVault(t, obs.NewMemory())
	res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: src}}})
	must(t, err)
	run := func(r restore.Reserve) error {
		_, err := restore.Run(t.Context(), restore.Options{
			Vault: v, Ref: vault.BackupRef{Instance: "i", ID: res.BackupID}, Dest: filepath.Join(dir, "restored"), Volume: "data", Reserve: &r,
		})
		return err
	}
	var short *restore.RoomError
	if err := run(restore.Reserve{InodePercent: 20}); !errors.As(err, &short) || short.Cause != nil || short.FreeInodes < inodes/10 || !strings.Contains(err.Error(), "inodes are to stay free") {
		t.Errorf("with a reserve: %v", err)
	}
	if err := run(restore.Reserve{}); !errors.As(err, &short) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("without a reserve: %v", err)
	}
	if _, now := free(t, dir); now < inodes || listing(t, dir) != "lost+found" {
		t.Errorf("%d inodes are free of %d; there is %s", now, inodes, listing(t, dir))
	}
}

// TestQuotaIsFull: the kernel's error for a quota is reported as a quota.
func TestQuotaIsFull(t *testing.T) {
	err := restore.Full(&os.PathError{Op: "write", Path: "x", Err: unix.EDQUOT}, "data", t.TempDir(), restore.Reserve{})
	if !errors.Is(err, restore.ErrRoom) || !errors.Is(err, unix.EDQUOT) || !strings.Contains(err.Error(), "quota") {
		t.Errorf("%v", err)
	}
	if err := restore.Full(unix.EIO, "data", t.TempDir(), restore.Reserve{}); !errors.Is(err, unix.EIO) || errors.Is(err, restore.ErrRoom) {
		t.Errorf("%v", err)
	}
}

// TestQuotaOfASubvolume: statfs does not show the limit of a subvolume, so a restore meets it while
// it writes. The error names the quota, the old content beside stays, nothing of the new one is
// left, and with a higher limit the restore succeeds.
func TestQuotaOfASubvolume(t *testing.T) {
	testbed.Need(t, "root", "btrfs")
	src := t.TempDir()
	content := make([]byte, 12*mib)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(content)
	image := filepath.Join(src, "disk.img")
	must(t, os.WriteFile(image, content, 0o600))
	v := newVault(t, obs.NewMemory())
	for kind, root := range map[string]string{"folder": src, "image": image} {
		t.Run(kind, func(t *testing.T) {
			res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: kind, Sources: []backup.Source{{Volume: "data", Root: root}}})
			must(t, err)
			top := testbed.Btrfs(t)
			limited := filepath.Join(top, "limited")
			do := func(args ...string) {
				t.Helper()
				if out, err := exec.Command("btrfs", args...).CombinedOutput(); err != nil {
					t.Fatalf("%q: %v: %s", args, err, out)
				}
			}
			do("quota", "enable", top)
			do("subvolume", "create", limited)
			do("qgroup", "limit", "8M", limited)
			old := filepath.Join(limited, "volume")
			must(t, os.WriteFile(old, []byte("the old content"), 0o600))
			run := func() error {
				_, err := restore.Run(t.Context(), restore.Options{
					Vault: v, Ref: vault.BackupRef{Instance: kind, ID: res.BackupID}, Dest: filepath.Join(limited, "restored"), Volume: "data", Reserve: &restore.Reserve{Bytes: mib},
				})
				return err
			}
			var short *restore.RoomError
			if err := run(); !errors.As(err, &short) || !errors.Is(err, unix.EDQUOT) || !strings.Contains(err.Error(), "btrfs qgroup show -re "+limited) {
				t.Errorf("beyond the quota: %v", err)
			}
			if b, err := os.ReadFile(old); err != nil || string(b) != "the old content" || listing(t, limited) != "volume" {
				t.Errorf("the old content is %q, %v; there is %s", b, err, listing(t, limited))
			}
			do("qgroup", "limit", "64M", limited)
			must(t, run())
		})
	}
}
