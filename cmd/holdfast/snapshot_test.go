package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// On btrfs, root backs up a snapshot. Afterwards that snapshot
// is gone, and so is a snapshot that a killed process left.
func TestBackupReadsSnapshot(t *testing.T) {
	testbed.Need(t, "root", "mkfs.btrfs")
	mount := testbed.Btrfs(t)
	volume := filepath.Join(mount, "volume")
	if out, err := exec.Command("btrfs", "subvolume", "create", volume).CombinedOutput(); err != nil {
		t.Fatalf("make subvolume: %v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(volume, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := takeAs(t, volume, "pid-"+strconv.Itoa(dead.Process.Pid))
	live := takeAs(t, volume, "pid-"+strconv.Itoa(os.Getppid()))

	dir := t.TempDir()
	env := map[string]string{envStore: "file://" + filepath.Join(dir, "store"), envKey: filepath.Join(dir, "key")}
	if code, _, stderr := runWith(t, env, "key", "new", "--out", env[envKey]); code != exitDone {
		t.Fatal(stderr)
	}
	if code, _, stderr := runWith(t, env, "vault", "create"); code != exitDone {
		t.Fatal(stderr)
	}
	code, stdout, stderr := runWith(t, env, "backup", "--json", "--instance", "a", volume)
	if code != exitDone {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var got backupJSON
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if got.Source != snapshot.NameBtrfs || got.Files != 1 {
		t.Errorf("read %s, %d files; want btrfs, 1 file", got.Source, got.Files)
	}
	if _, err := os.Stat(left.Ref.Path); !os.IsNotExist(err) {
		t.Errorf("the snapshot of a process that is gone is still there: %v", err)
	}
	if _, err := os.Stat(live.Ref.Path); err != nil {
		t.Errorf("the snapshot of a process that runs is gone: %v", err)
	}
	if names, err := os.ReadDir(filepath.Dir(live.Ref.Path)); err != nil || len(names) != 1 {
		t.Errorf("snapshots left: %v, %v; want the one of the process that runs", names, err)
	}
}

// TestSnapshotsTimeIsKnown: a file that changed seconds before the snapshot was made is not
// read again by the next backup. Without the time of the snapshot it would be, for a minute.
func TestSnapshotsTimeIsKnown(t *testing.T) {
	testbed.Need(t, "root", "mkfs.btrfs")
	volume := filepath.Join(testbed.Btrfs(t), "volume")
	if out, err := exec.Command("btrfs", "subvolume", "create", volume).CombinedOutput(); err != nil {
		t.Fatalf("make subvolume: %v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(volume, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	// longer than a clock of a file system stands still; more does no harm
	time.Sleep(3 * time.Second)
	dir := t.TempDir()
	env := map[string]string{
		envStore: "file://" + filepath.Join(dir, "store"), envKey: filepath.Join(dir, "key"), "XDG_CACHE_HOME": dir, "XDG_STATE_HOME": dir,
	}
	if code, _, stderr := runWith(t, env, "key", "new", "--out", env[envKey]); code != exitDone {
		t.Fatal(stderr)
	}
	if code, _, stderr := runWith(t, env, "vault", "create"); code != exitDone {
		t.Fatal(stderr)
	}
	for want := range uint64(2) {
		code, stdout, stderr := runWith(t, env, "backup", "--json", "--instance", "a", volume)
		if code != exitDone {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		var got backupJSON
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		if got.Source != snapshot.NameBtrfs || got.Unchanged != want {
			t.Errorf("read %s, %d files unchanged, want %d", got.Source, got.Unchanged, want)
		}
	}
}

// takeAs makes a snapshot as another process of this tool would.
func takeAs(t *testing.T, volume, job string) *snapshot.Snapshot {
	t.Helper()
	provider, _, err := snapshot.Detect(t.Context(), snapshot.Request{Volume: volume}, snapshot.NameBtrfs)
	if err != nil {
		t.Fatal(err)
	}
	s, err := provider.Create(t.Context(), snapshot.Request{Volume: volume, Host: snapshotHost(), Job: job, Name: volumeName})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provider.Remove(context.Background(), s.Ref); err != nil {
			t.Error(err)
		}
	})
	return s
}

// An interrupted backup removes its snapshot all the same.
func TestSnapshotIsRemovedAfterInterrupt(t *testing.T) {
	testbed.Need(t, "root", "mkfs.btrfs")
	volume := filepath.Join(testbed.Btrfs(t), "volume")
	if out, err := exec.Command("btrfs", "subvolume", "create", volume).CombinedOutput(); err != nil {
		t.Fatalf("make subvolume: %v: %s", err, out)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	view, remove, err := takeSnapshot(ctx, volume, func(what string) { t.Error(what) })
	if err != nil || view == nil {
		t.Fatalf("takeSnapshot = %v, %v; want a snapshot", view, err)
	}
	cancel(errInterrupted)
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(view.Ref.Path); !os.IsNotExist(err) {
		t.Errorf("the snapshot is still there: %v", err)
	}
}

// check-volume names the chosen way on each kind of storage, and with --try leaves nothing behind.
func TestCheckVolume(t *testing.T) {
	testbed.Need(t, "root", "btrfs", "xfs")
	btrfs, xfs := testbed.Btrfs(t), testbed.Xfs(t)
	tree, nested, disk := filepath.Join(btrfs, "tree"), filepath.Join(btrfs, "nested"), filepath.Join(xfs, "disk.img")
	for _, path := range []string{tree, nested, filepath.Join(nested, "inner")} {
		if out, err := exec.Command("btrfs", "subvolume", "create", path).CombinedOutput(); err != nil {
			t.Fatalf("make subvolume: %v: %s", err, out)
		}
	}
	if err := os.WriteFile(disk, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, provider, reason string
		compares               bool
	}{
		{tree, snapshot.NameBtrfs, "is a btrfs subvolume", true},
		{disk, snapshot.NameReflink, "is an image on xfs", true},
		{nested, snapshot.NameBtrfs, "is a btrfs subvolume", true},
		{xfs, snapshot.NameFreeze, "lies on xfs", false},
	} {
		code, stdout, stderr := runWith(t, nil, "check-volume", "--json", "--try", c.path)
		if code != exitDone {
			t.Fatalf("%s: exit code %d: %s", c.path, code, stderr)
		}
		var got checkVolumeJSON
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		if got.Provider != c.provider || !strings.Contains(fmt.Sprint(got.Reason, got.Others), c.reason) || (got.Changes != "") != c.compares {
			t.Errorf("%s: %+v; want %s, %q", c.path, got, c.provider, c.reason)
		}
		if got.TrySeconds == nil || *got.TrySeconds <= 0 || got.TotalBytes < 1<<30 || got.FreeBytes > got.TotalBytes {
			t.Errorf("%s: tried %v, %d of %d free", c.path, got.TrySeconds, got.FreeBytes, got.TotalBytes)
		}
		if len(got.Others) != len(snapshot.Names())-1 {
			t.Errorf("%s: others %v", c.path, got.Others)
		}
		if _, err := os.Lstat(filepath.Join(filepath.Dir(c.path), snapshot.SnapshotFolder)); !os.IsNotExist(err) {
			t.Errorf("%s: something is left: %v", c.path, err)
		}
	}
}
