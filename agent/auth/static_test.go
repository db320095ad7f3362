package auth_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// clock is a time that the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// write replaces the file by renaming, as careful tools do.
func write(t *testing.T, path, text string, perm os.FileMode) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, perm); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func TestStatic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, "# comment\n\n"+
		auth.HashToken("t-alice")+" tenant=t1 user=alice role=tenant\n"+
		"  "+auth.HashToken("t-plane")+"\trole=control-plane\r\n"+
		auth.HashToken("t-ops")+" role=operator user=ops\n"+
		auth.HashToken("t-read")+" role=read-only tenant=t2", 0o640)
	s, err := auth.NewStatic(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var _ auth.Authenticator = s
	for _, tt := range []struct {
		token string
		want  model.Caller
		err   error
	}{
		{"t-alice", model.Caller{Tenant: "t1", User: "alice", Role: model.RoleTenant}, nil},
		{"t-plane", model.Caller{Role: model.RoleControlPlane}, nil},
		{"t-ops", model.Caller{User: "ops", Role: model.RoleOperator}, nil},
		{"t-read", model.Caller{Tenant: "t2", Role: model.RoleReadOnly}, nil},
		{"t-nobody", model.Caller{}, model.ErrUnknownToken},
		{"", model.Caller{}, model.ErrUnknownToken},
		{"T-ALICE", model.Caller{}, model.ErrUnknownToken},
		// a stolen file is no token
		{auth.HashToken("t-alice"), model.Caller{}, model.ErrUnknownToken},
	} {
		got, err := s.Authenticate(t.Context(), tt.token)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%q: %+v, %v", tt.token, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Authenticate(ctx, "t-alice"); !errors.Is(err, model.ErrAuthUnavailable) {
		t.Errorf("ended context: %v", err)
	}
}

func TestFaultsOfTheFile(t *testing.T) {
	h := auth.HashToken("x")
	for _, tt := range []struct{ name, text, want string }{
		{"token as it is", "secret-token role=operator", ":1: must begin with sha256: and 64 hex digits"},
		{"short hash", "sha256:abcd role=operator", ":1: must begin with sha256:"},
		{"no role", "#\n" + h + " tenant=t", ":2: role= is missing"},
		{"unknown role", h + " role=root", ":1: role= must be one of"},
		{"tenant without tenant", h + " role=tenant", ":1: role=tenant needs tenant="},
		{"operator with tenant", h + " role=operator tenant=t", ":1: role=operator sees every tenant"},
		{"unknown key", h + " role=operator secret=s3cret-token", ":1: after the hash only"},
		{"no value", h + " role=", ":1: after the hash only"},
		{"twice in a line", h + " role=operator role=tenant", ":1: role= is given twice"},
		{"token twice", h + " role=operator\n" + h + " role=read-only", ":2: the token of line 1 again"},
		{"every fault", "a\n" + h + "\n", ":2: role= is missing"},
		{"too large", strings.Repeat("#\n", 1<<20), "larger than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tokens")
			write(t, path, tt.text, 0o600)
			_, err := auth.NewStatic(path, time.Now)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "secret-token") || strings.Contains(err.Error(), "s3cret")) {
				t.Errorf("a secret is in the error: %v", err)
			}
		})
	}
}

func TestPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	line := auth.HashToken("x") + " role=operator\n"
	for perm, ok := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o400: true, 0o644: false, 0o660: false, 0o602: false} {
		write(t, path, line, perm)
		if _, err := auth.NewStatic(path, time.Now); (err == nil) != ok {
			t.Errorf("mode %04o: %v", perm, err)
		}
	}
	if _, err := auth.NewStatic(filepath.Dir(path), time.Now); err == nil {
		t.Error("a folder was taken")
	}
	if _, err := auth.NewStatic(path+".absent", time.Now); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

// A change is seen within a second; a file that is broken or gone lets nobody in; and
// once it is right again it lets in every holder that it names.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	c := &clock{t: time.Unix(1000, 0)}
	write(t, path, auth.HashToken("old")+" role=operator\n", 0o600)
	s, err := auth.NewStatic(path, c.now)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(token string, want error) {
		t.Helper()
		if _, err := s.Authenticate(t.Context(), token); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", token, err, want)
		}
	}
	expect("old", nil)

	write(t, path, auth.HashToken("new")+" role=operator\n", 0o600)
	expect("old", nil) // not looked at again yet
	c.advance(time.Second)
	expect("old", model.ErrUnknownToken)
	expect("new", nil)

	write(t, path, "broken\n", 0o600)
	if err := s.Reload(); err == nil {
		t.Error("a broken file was taken")
	}
	expect("new", model.ErrAuthUnavailable)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Second)
	expect("new", model.ErrAuthUnavailable)

	write(t, path, auth.HashToken("new")+" role=operator\n", 0o600)
	expect("new", model.ErrAuthUnavailable)
	c.advance(time.Second)
	expect("new", nil)

	// The same size and modification time, written in place: the change time tells.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// the kernel's time of files moves in steps of a few milliseconds
	time.Sleep(20 * time.Millisecond)
	if err := os.WriteFile(path, []byte(auth.HashToken("abc")+" role=operator\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Second)
	expect("new", model.ErrUnknownToken)
	expect("abc", nil)
}

func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	c := &clock{t: time.Unix(1000, 0)}
	write(t, path, auth.HashToken("a")+" role=operator\n", 0o600)
	s, err := auth.NewStatic(path, c.now)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				c.advance(time.Second)
				if _, err := s.Authenticate(t.Context(), "a"); err != nil {
					t.Error(err)
				}
				if err := s.Reload(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestTokens(t *testing.T) {
	if got, want := auth.HashToken("test"), "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"; got != want {
		t.Errorf("%s", got)
	}
	a, b := auth.NewToken(), auth.NewToken()
	if a == b || len(a) != 43 {
		t.Errorf("%q %q", a, b)
	}
}

// Any file gives tokens or faults, never a panic, and never lets the empty token in.
func FuzzFile(f *testing.F) {
	f.Add(auth.HashToken("x") + " role=tenant tenant=t user=u\n# c\n")
	f.Add("sha256: role==\n\r\x00=\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "tokens")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := auth.NewStatic(path, time.Now)
		if err != nil {
			return
		}
		if _, err := s.Authenticate(t.Context(), ""); !errors.Is(err, model.ErrUnknownToken) {
			t.Errorf("empty token: %v", err)
		}
	})
}

// TestByteOrderMark: a file that an editor has put a mark into says so.
func TestByteOrderMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte("\xef\xbb\xbfsha256:00 role=operator\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.NewStatic(path, time.Now); err == nil || !strings.Contains(err.Error(), "byte order mark") {
		t.Errorf("%v", err)
	}
}
