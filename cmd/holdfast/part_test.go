package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// A backup that leaves something out is stored, lists the missing parts and ends with 3.
func TestBackupInPart(t *testing.T) {
	testbed.Need(t, "root")
	dir := t.TempDir()
	mount := filepath.Join(dir, "tree", "mounted\x1b[31m")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	env := map[string]string{envStore: "file://" + filepath.Join(dir, "store"), envKey: filepath.Join(dir, "key")}
	for _, args := range [][]string{{"key", "new", "--out", env[envKey]}, {"vault", "create"}} {
		if code, _, stderr := runWith(t, env, args...); code != exitDone {
			t.Fatal(stderr)
		}
	}
	code, id, stderr := runWith(t, env, "backup", "--instance", "a", filepath.Join(dir, "tree"))
	if code != exitPart || len(strings.TrimSpace(id)) == 0 {
		t.Errorf("exit code %d, stdout %q; want %d and an id", code, id, exitPart)
	}
	if !strings.Contains(stderr, `warning: "mounted\x1b[31m": `) || !strings.Contains(stderr, "is stored, but incomplete: it lacks content at 1 place, listed above") {
		t.Errorf("stderr does not list the mount point, or not safely: %q", stderr)
	}
	code, stdout, _ := runWith(t, env, "backup", "--json", "--instance", "a", filepath.Join(dir, "tree"))
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if code != exitPart || len(lines) != 2 {
		t.Fatalf("exit code %d, stdout %q; want %d and two lines", code, stdout, exitPart)
	}
	var warning warningLine
	var result backupJSON
	if err := json.Unmarshal([]byte(lines[0]), &warning); err != nil || warning.Path != "mounted\x1b[31m" || !warning.Lost {
		t.Errorf("warning line %s: %v", lines[0], err)
	}
	if err := json.Unmarshal([]byte(lines[1]), &result); err != nil || result.Warnings != 1 || !result.Incomplete || result.Lost != 1 {
		t.Errorf("result line %s: %v", lines[1], err)
	}
	// Nobody gets a backup that lacks content without having asked for it.
	code, _, stderr = runWith(t, env, "restore", "--instance", "a", filepath.Join(dir, "out"))
	if code != exitNone || !strings.Contains(stderr, "no such backup that is complete") || !strings.Contains(stderr, result.Backup) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, stdout, _ = runWith(t, env, "list")
	if code != exitDone || strings.Count(stdout, "incomplete, 1 loss\n") != 2 {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	code, _, stderr = runWith(t, env, "restore", "--instance", "a", "--backup", result.Backup, filepath.Join(dir, "out"))
	if code != exitPart || !strings.Contains(stderr, `not in the backup: data, "mounted\x1b[31m": another file system is mounted here`) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
