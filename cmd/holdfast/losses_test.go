package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// vaultEnv makes a key and a vault, and is the environment of commands that use them.
func vaultEnv(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	env := map[string]string{envStore: "file://" + filepath.Join(dir, "store"), envKey: filepath.Join(dir, "key"), "XDG_CACHE_HOME": filepath.Join(dir, "cache")}
	for _, args := range [][]string{{"key", "new", "--out", env[envKey]}, {"vault", "create"}} {
		if code, _, stderr := runWith(t, env, args...); code != exitDone {
			t.Fatal(stderr)
		}
	}
	return env
}

func writeFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBadEntriesThroughTheCLI: entries of all kinds that cannot be read leave a backup that
// is marked, and every command says so. With those entries excluded the backup is complete.
func TestBadEntriesThroughTheCLI(t *testing.T) {
	testbed.Need(t, "root")
	env := vaultEnv(t)
	dir := testbed.Xfs(t)
	writeFiles(t, dir, "a", "home/user/.gvfs/x", "home/dead/x", "many", "media/photo", "z")
	for i := range 400 {
		if err := unix.Setxattr(filepath.Join(dir, "many"), fmt.Sprintf("user.%s%d", strings.Repeat("n", 200), i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	// First a backup that is complete, so that there is one to prefer.
	code, first, stderr := runWith(t, env, "backup", "--instance", "i", "--exclude", "many", dir)
	if code != exitDone {
		t.Fatal(stderr)
	}
	first = strings.TrimSpace(first)
	testbed.StrangersFUSE(t, filepath.Join(dir, "home/user/.gvfs"), 65534)
	testbed.StrangersFUSE(t, filepath.Join(dir, "home/dead"), 0)()

	code, id, stderr := runWith(t, env, "backup", "--instance", "i", dir)
	id = strings.TrimSpace(id)
	if code != exitPart || !strings.HasSuffix(id, "-incomplete") || !strings.Contains(stderr, "incomplete: it lacks content at 3 places") {
		t.Fatalf("exit code %d, id %q: %s", code, id, stderr)
	}
	for _, warning := range []string{
		"warning: home/user/.gvfs: another file system is mounted here and can't be looked at (permission denied)",
		"warning: home/dead: another file system is mounted here, its content is left out",
		"warning: many: its attributes can't be read (argument list too long)",
	} {
		if !strings.Contains(stderr, warning) {
			t.Errorf("no %q in %s", warning, stderr)
		}
	}
	code, stdout, _ := runWith(t, env, "list")
	if code != exitDone || !strings.Contains(stdout, "incomplete, 3 losses") || strings.Count(stdout, " complete") != 1 {
		t.Errorf("list: exit code %d: %s", code, stdout)
	}
	code, stdout, _ = runWith(t, env, "list", "--json")
	if code != exitDone || !strings.Contains(stdout, `"lost": 3`) {
		t.Errorf("list: exit code %d: %s", code, stdout)
	}
	code, stdout, stderr = runWith(t, env, "verify", "--read-data", "100")
	if code != exitDone || !strings.Contains(stdout, "incomplete: i/"+id+": it lacks content at 3 places") {
		t.Errorf("verify: exit code %d: %s%s", code, stdout, stderr)
	}
	code, stdout, _ = runWith(t, env, "verify", "--json")
	if code != exitDone || !strings.Contains(stdout, `"incomplete":[{"backup":"i/`+id+`","lost":3}]`) {
		t.Errorf("verify: exit code %d: %s", code, stdout)
	}
	for _, args := range [][]string{{"ls", id}, {"cat", id, "z"}} {
		code, _, stderr = runWith(t, env, args...)
		if code != exitDone || strings.Count(stderr, "is incomplete: it lacks content at 3 places") != 1 {
			t.Errorf("%q: exit code %d: %s", args, code, stderr)
		}
	}
	code, stdout, _ = runWith(t, env, "ls", "--json", id)
	if code != exitDone || !strings.HasPrefix(stdout, `{"type":"backup","backup":"`+id+`","incomplete":true,"lost":3`) {
		t.Errorf("ls: exit code %d: %s", code, stdout)
	}

	// The newest that is complete is taken, and it is said that there is a newer one.
	out := t.TempDir()
	code, _, stderr = runWith(t, env, "restore", "--instance", "i", filepath.Join(out, "newest"))
	if code != exitDone || !strings.Contains(stderr, id+" is newer, but incomplete") || !strings.Contains(stderr, "restored backup "+first) {
		t.Errorf("restore: exit code %d: %s", code, stderr)
	}
	code, stdout, _ = runWith(t, env, "restore", "--json", "--instance", "i", filepath.Join(out, "json"))
	if code != exitDone || !strings.Contains(stdout, `"losses":0,"newer_incomplete":"`+id+`"`) {
		t.Errorf("restore: exit code %d: %s", code, stdout)
	}
	// A backup that is asked for by id is restored, with its losses.
	code, _, stderr = runWith(t, env, "restore", "--instance", "i", "--backup", id, filepath.Join(out, "named"))
	if code != exitPart || strings.Count(stderr, "not in the backup: data, ") != 3 || !strings.Contains(stderr, "the backup lacks content at 3 places") {
		t.Errorf("restore: exit code %d: %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(out, "named", "many")); err != nil {
		t.Errorf("a file of which attributes are lost: %v", err)
	}
	for include, lost := range map[string]int{"media": 0, "z": 0, "home": 2, "home/user/*": 1, "home/user/.gvfs": 1, "m*": 1, "*/dead/x": 1} {
		args := []string{"restore", "--json", "--instance", "i", "--backup", id, "--include", include, filepath.Join(out, "part-"+strings.ReplaceAll(include, "/", "_"))}
		code, stdout, stderr = runWith(t, env, args...)
		if strings.Contains(stderr, "nothing in the backup matches") {
			continue // what matches is lost as a whole
		}
		want := exitDone
		if lost > 0 {
			want = exitPart
		}
		if code != want || strings.Count(stdout, `{"type":"loss"`) != lost {
			t.Errorf("restore of %s: exit code %d, %s%s; want %d losses", include, code, stdout, stderr, lost)
		}
	}

	code, _, stderr = runWith(t, env, "backup", "--instance", "i", "--exclude", ".gvfs/", "--exclude", "home/dead", "--exclude", "many", dir)
	if code != exitDone || strings.Contains(stderr, "warning") {
		t.Errorf("backup without those entries: exit code %d: %s", code, stderr)
	}
	if code, stdout, _ = runWith(t, env, "restore", "--json", "--instance", "i", filepath.Join(out, "last")); code != exitDone || strings.Contains(stdout, "newer_incomplete") {
		t.Errorf("restore: exit code %d: %s", code, stdout)
	}
}

// TestLossLines: a path that is not UTF-8 comes as bytes too, and
// nothing in it reaches the terminal as it is.
func TestLossLines(t *testing.T) {
	env := vaultEnv(t)
	f := testbed.StartFUSE(t)
	bad := "b\xff\x1b[31m"
	writeFiles(t, f.Folder, "a", bad)
	f.Set(testbed.FUSERefuses(unix.EIO, testbed.FUSERead).At(bad))
	code, id, stderr := runWith(t, env, "backup", "--instance", "i", f.Point)
	if id = strings.TrimSpace(id); code != exitPart {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	code, stdout, _ := runWith(t, env, "restore", "--json", "--instance", "i", "--backup", id, filepath.Join(t.TempDir(), "out"))
	var loss lossLine
	if err := json.Unmarshal([]byte(strings.SplitN(stdout, "\n", 2)[0]), &loss); err != nil || code != exitPart || string(loss.PathBytes) != bad || loss.Volume != volumeName {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
	_, _, stderr = runWith(t, env, "restore", "--instance", "i", "--backup", id, filepath.Join(t.TempDir(), "out"))
	if strings.Contains(stderr, "\x1b[31m") || !strings.Contains(stderr, `"b\xff\x1b[31m": `) {
		t.Errorf("not safe for a terminal: %q", stderr)
	}
}

// TestManyLossesAreToldInPart: more than the manifest names are counted.
func TestManyLossesAreToldInPart(t *testing.T) {
	list := []vault.Loss{{Volume: "v", Path: []byte("a"), What: "x"}}
	var out, errs bytes.Buffer
	a := &app{world: world{stdout: &out, stderr: &errs}}
	if err := a.tellLosses(list, 5); err != nil || out.Len() != 0 || !strings.Contains(errs.String(), "not in the backup: 4 more") {
		t.Errorf("%v: %s%s", err, &out, &errs)
	}
}

// TestSilentMountThroughTheCLI: a file system that never answers holds up no
// backup, nor the estimate of its size, and is no loss where it is excluded.
func TestSilentMountThroughTheCLI(t *testing.T) {
	testbed.Need(t, "root")
	env := vaultEnv(t)
	dir := t.TempDir()
	writeFiles(t, dir, "a", "silent/x", "sub/silent/x", "z")
	var free []func()
	for _, name := range []string{"silent", "sub/silent"} {
		free = append(free, testbed.StrangersFUSE(t, filepath.Join(dir, name), 0))
	}
	rescue := time.AfterFunc(time.Minute, func() {
		t.Error("the backup waits for a file system that does not answer")
		for _, die := range free {
			die()
		}
	})
	defer rescue.Stop()
	for _, exclude := range []string{"silent", "silent/", "**/silent/"} {
		code, stdout, stderr := runWith(t, env, "backup", "--json", "--instance", "i", "--exclude", exclude, dir)
		if code != exitDone || !strings.Contains(stdout, `"warnings":0`) || !strings.Contains(stdout, `"excluded":2`) {
			t.Errorf("--exclude %s: exit code %d: %s%s", exclude, code, stdout, stderr)
		}
	}
	if code, stdout, stderr := runWith(t, env, "backup", "--json", "--instance", "i", dir); code != exitPart || !strings.Contains(stdout, `"lost":2`) {
		t.Errorf("with those mounts: exit code %d: %s%s", code, stdout, stderr)
	}
}
