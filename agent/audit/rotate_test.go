package audit_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/audit"
	"holdfast/internal/testbed"
)

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func line(call string) audit.Entry { return audit.Entry{Time: time.Now(), Call: call} }

// chained fails unless each file has lines that follow one another
// over all the files, in their order.
func chained(t *testing.T, want int, paths ...string) {
	t.Helper()
	prev, n := "", 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(string(data)) {
			n++
			if !strings.Contains(text, `"prev":"`+prev) {
				t.Errorf("%s: line %d does not follow the one before: %s", path, n, text)
			}
			prev = hash(strings.TrimSuffix(text, "\n"))
		}
	}
	if n != want {
		t.Errorf("%d lines in %v, want %d", n, paths, want)
	}
}

// TestOthersRotate: logrotate and people rename, remove and empty the file; the next
// line goes into a file at the path, and the chain goes on, also over a restart.
func TestOthersRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	open := func() *audit.Log {
		l, err := audit.Open(path, audit.Options{MaxBytes: 1 << 20, Keep: 3})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	add := func(want bool) {
		t.Helper()
		if rotated, err := l.Append(line("POST /x")); err != nil || rotated != want {
			t.Errorf("rotated %v, %v", rotated, err)
		}
	}
	add(false)
	add(false)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(true)
	add(false)
	// create 644
	if err := errors.Join(os.Rename(path, path+"-20261130"), os.WriteFile(path, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	add(true)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	chained(t, 5, path+".1", path+"-20261130", path)
	if err := errors.Join(l.Close(), os.Rename(path, path+".2")); err != nil {
		t.Fatal(err)
	}
	l = open()
	if l.Head().Seq != 5 {
		t.Errorf("after a restart the chain goes on from %s", l.Head())
	}
	add(false)
	chained(t, 6, path+".1", path+"-20261130", path+".2", path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	add(true)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	add(true)
	if l.Head().Seq != 8 {
		t.Errorf("head %s", l.Head())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLogrotate lets the real program rename the file.
func TestLogrotate(t *testing.T) {
	program, err := exec.LookPath("logrotate")
	if err != nil {
		t.Skip("no logrotate: TestOthersRotate does by hand what it does")
	}
	dir := testbed.Dir(t)
	path := filepath.Join(dir, "audit.log")
	l, err := audit.Open(path, audit.Options{MaxBytes: 1 << 20, Keep: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte(path+" {\n rotate 3\n create 0600\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := l.Append(line("POST /x")); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "--force", "--state", filepath.Join(dir, "state"), conf).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if _, err := l.Append(line("POST /x")); err != nil {
		t.Fatal(err)
	}
	chained(t, 3, path+".2", path+".1", path)
}

// TestRotationFails: a rotation that fails costs no line. The log
// goes on in the full file, says so, and rotates when it can.
func TestRotationFails(t *testing.T) {
	testbed.Need(t, "root")
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	l, err := audit.Open(path, audit.Options{MaxBytes: 600, Keep: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A rename over a folder that is not empty fails, for root too.
	var blocked []string
	for seq := 1; seq < 9; seq++ {
		name := path + "." + strings.Repeat("0", 19) + string(rune('0'+seq))
		if err := os.MkdirAll(filepath.Join(name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		blocked = append(blocked, name)
	}
	failed := 0
	for range 8 {
		_, err := l.Append(line("POST /x"))
		if errors.Is(err, audit.ErrNotRotated) {
			failed++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if failed == 0 {
		t.Error("no rotation failed")
	}
	for _, name := range blocked {
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	if rotated, err := l.Append(line("POST /x")); err != nil || !rotated {
		t.Errorf("rotated %v, %v", rotated, err)
	}
	chained(t, 9, path+"."+strings.Repeat("0", 19)+"8", path)
}
