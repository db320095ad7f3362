package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent/audit"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func open(t *testing.T, path string, o audit.Options) *audit.Log {
	t.Helper()
	l, err := audit.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func entry(i int) audit.Entry {
	return audit.Entry{
		Time: time.Unix(int64(i), 0), From: "192.0.2.7:1234", Via: "token", Role: "tenant", Tenant: "t1", Call: "POST /v1/instances/backup",
		RequestID: fmt.Sprint("r", i), Instances: []string{"phone-1"}, Status: 200, Code: "0",
	}
}

// fill appends n entries.
func fill(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Append(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
}

var large = audit.Options{MaxBytes: 1 << 20, Keep: 3}

// Each way to touch a log shows, and Verify says where.
func TestTamperingShows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	fill(t, open(t, path, large), 10)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.Verify(path, audit.Head{})
	if err != nil || s.Lines != 10 || s.First != 1 || s.Files != 1 || s.Head.Seq != 10 || !s.End.Equal(time.Unix(9, 0)) {
		t.Fatalf("%+v, %v", s, err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))[:10]
	join := func(l ...[][]byte) []byte {
		var b []byte
		for _, part := range l {
			b = append(b, bytes.Join(part, nil)...)
		}
		return b
	}
	for _, tt := range []struct {
		name    string
		content []byte
		line    int
	}{
		{"changed", bytes.Replace(good, []byte(`"r4"`), []byte(`"r5"`), 1), 6},
		{"taken out", join(lines[:4], lines[5:]), 5},
		{"put in twice", join(lines[:5], lines[4:]), 6},
		{"swapped", join(lines[:3], lines[4:5], lines[3:4], lines[5:]), 4},
		{"first changed", bytes.Replace(good, []byte(`"prev":"0`), []byte(`"prev":"1`), 1), 1},
		{"field added", bytes.Replace(good, []byte(`{"seq":3`), []byte(`{"x":1,"seq":3`), 1), 3},
		{"not JSON", bytes.Replace(good, []byte(`{"seq":3`), []byte(`x`), 1), 3},
		{"a long line", join(lines[:2], [][]byte{bytes.Repeat([]byte("x"), audit.MaxLineBytes+1)}), 3},
		{"beginning cut off, numbers kept", bytes.Replace(join(lines[2:]), []byte(`"seq":3`), []byte(`"seq":1`), 1), 1},
	} {
		if err := os.WriteFile(path, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Verify(path, audit.Head{})
		var c *audit.ChainError
		if !errors.As(err, &c) || c.Line != tt.line {
			t.Errorf("%s: %v, want line %d", tt.name, err, tt.line)
		}
	}
	// The end cut off shows against a head that was noted, and so does a log written anew.
	if err := os.WriteFile(path, join(lines[:8]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(path, audit.Head{}); err != nil {
		t.Errorf("a chain that is whole: %v", err)
	}
	if _, err := audit.Verify(path, s.Head); !errors.Is(err, audit.ErrHead) {
		t.Errorf("cut off: %v", err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	noted, err := audit.ParseHead(s.Head.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(path, noted); err != nil {
		t.Errorf("the noted head: %v", err)
	}
}

// Rotation keeps the chain, also when files are deleted at its beginning.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	o := audit.Options{MaxBytes: 2000, Keep: 3}
	l := open(t, path, o)
	fill(t, l, 9)
	s, err := audit.Verify(path, audit.Head{})
	if err != nil || s.Files != 2 || s.Lines != 9 || s.First != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	fill(t, l, 40)
	s, err = audit.Verify(path, audit.Head{})
	if err != nil || s.Files != 4 || s.First == 1 || s.Head != l.Head() || s.Head.Seq != 49 {
		t.Errorf("%+v, %v", s, err)
	}
	// A crash between the renaming and the new file.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, fmt.Sprintf("%s.%020d", path, 49)); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, o)
	fill(t, l, 1)
	if s, err := audit.Verify(path, s.Head); err != nil || s.Head.Seq != 50 {
		t.Errorf("after a crash in a rotation: %+v, %v", s, err)
	}
	middle, err := filepath.Glob(path + ".*")
	if err != nil || len(middle) < 3 {
		t.Fatal(middle, err)
	}
	if err := os.Remove(middle[1]); err != nil {
		t.Fatal(err)
	}
	var c *audit.ChainError
	if _, err := audit.Verify(path, audit.Head{}); !errors.As(err, &c) {
		t.Errorf("a file in the middle is gone: %v", err)
	}
}

// A log that was torn at any byte goes on after its last whole line.
func TestTornAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	fill(t, open(t, path, large), 3)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(good) + 1 {
		if err := os.WriteFile(path, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		whole := uint64(bytes.Count(good[:n], []byte("\n")))
		if s, err := audit.Verify(path, audit.Head{}); err != nil || s.Lines != whole || s.Incomplete != (n > 0 && good[n-1] != '\n') {
			t.Fatalf("torn at %d: %+v, %v", n, s, err)
		}
		l, err := audit.Open(path, large)
		if err != nil || l.Aside() != "" {
			t.Fatalf("torn at %d: %v, %s", n, err, l.Aside())
		}
		fill(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err := audit.Verify(path, audit.Head{}); err != nil || s.Lines != whole+1 || s.Incomplete {
			t.Fatalf("torn at %d, and on: %+v, %v", n, s, err)
		}
	}
}

// A file that is no log is set aside, not overwritten.
func TestDamagedIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path, large)
	_, aside, _ := strings.Cut(l.Aside(), "set aside as ")
	if b, err := os.ReadFile(aside); err != nil || string(b) != "something else\n" {
		t.Errorf("%q: %s, %v", l.Aside(), b, err)
	}
	fill(t, l, 2)
	if s, err := audit.Verify(path, audit.Head{}); err != nil || s.Lines != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestConcurrentAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path, audit.Options{MaxBytes: 3000, Keep: 1000})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { fill(t, l, 20) })
	}
	all.Wait()
	if s, err := audit.Verify(path, l.Head()); err != nil || s.Lines != 160 || s.First != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// Text from outside stays one line, and ids of any form are told as they are.
func TestLinesStayLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path, large)
	e := entry(1)
	e.User, e.RequestID, e.Via = "a\nb\x1b[31m\x00\u2028\u009b1m\u202e", "\"}", "certificate x\r\n"
	if _, err := l.Append(e); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Count(b, []byte("\n")) != 1 || bytes.ContainsAny(b, "\r\x1b\x00\u2028\u009b\u202e") {
		t.Errorf("%q, %v", b, err)
	}
	var got audit.Entry
	if err := json.Unmarshal(b, &got); err != nil || got.User != e.User || got.RequestID != e.RequestID {
		t.Errorf("%+v, %v", got, err)
	}
	e.Instances = []string{strings.Repeat("x", audit.MaxLineBytes)}
	if _, err := l.Append(e); err == nil {
		t.Error("a line without bounds was written")
	}
	if _, err := audit.Verify(path, l.Head()); err != nil {
		t.Error(err)
	}
}

// Any file is verified or refused, never a panic, and after Open the log is a chain from there on.
func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"seq":1,"prev":"` + strings.Repeat("0", 64) + `","time":"2026-01-01T00:00:00Z","from":"a","call":"c","status":200,"code":"0"}` + "\n"))
	f.Add([]byte("\n\n{"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, verr := audit.Verify(path, audit.Head{})
		l, err := audit.Open(path, large)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := l.Append(entry(1)); err != nil {
			t.Fatal(err)
		}
		after, err := audit.Verify(path, l.Head())
		if verr == nil && (err != nil || after.Lines != s.Lines+1) {
			t.Errorf("%+v, then %+v: %v", s, after, err)
		}
	})
}
