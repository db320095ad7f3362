package vault_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// childEnv makes this test binary a process that begins a session
// in the store of that URL, with the key in the file, and waits.
const childEnv = "HOLDFAST_TEST_SESSION"

func init() {
	arg := os.Getenv(childEnv)
	if arg == "" {
		return
	}
	url, key, _ := strings.Cut(arg, " ")
	id, err := vault.LoadIdentity(key)
	if err == nil {
		var st obs.Store
		if st, err = obs.Open(context.Background(), url, obs.Options{Getenv: os.Getenv}); err == nil {
			var v *vault.Vault
			if v, err = vault.Open(context.Background(), st, "tenant", nil, id); err == nil {
				_, err = v.BeginSession(context.Background(), vault.SessionOptions{Host: "host-1", Instance: "child"})
			}
		}
	}
	fmt.Println("begun", err)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until killed, or the test ends
	os.Exit(0)
}

// child starts a process with a session and returns when that is stored.
func child(t *testing.T, url, key string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+url+" "+key)
	_, err := cmd.StdinPipe() // open as long as this process lives
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // its error is that it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	if line != "begun <nil>\n" {
		t.Fatalf("child says %q", line)
	}
	return cmd
}

func pids(t *testing.T, v *vault.Vault) (out []int) {
	t.Helper()
	all, err := v.Sessions(t.Context())
	must(t, err)
	for _, s := range all {
		out = append(out, s.PID)
	}
	slices.Sort(out)
	return out
}

// TestSessionsOfKilledProcesses: the next backup on the host removes
// the session of a process that was killed, and only that, as soon
// as the process is dead and whether or not somebody waited for it.
func TestSessionsOfKilledProcesses(t *testing.T) {
	url := "file://" + t.TempDir()
	st, err := obs.Open(t.Context(), url, obs.Options{Create: true, Getenv: os.Getenv})
	must(t, err)
	t.Cleanup(func() { _ = st.Close() })
	id := identity(t)
	v, err := vault.Create(t.Context(), st, "tenant", nil, nil, id)
	must(t, err)
	text, err := id.MarshalText()
	must(t, err)
	key := t.TempDir() + "/key"
	must(t, os.WriteFile(key, text, 0o600))

	alive, dead, zombie := child(t, url, key), child(t, url, key), child(t, url, key)
	begin := func() {
		t.Helper()
		s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "host-1", Instance: "i", Warn: func(err error) { t.Error(err) }})
		must(t, err)
		must(t, s.End(t.Context()))
	}
	begin()
	if got := pids(t, v); len(got) != 3 {
		t.Fatalf("sessions of living processes are gone: %v", got)
	}
	must(t, errors.Join(dead.Process.Kill(), zombie.Process.Kill()))
	_ = dead.Wait() // its error is that it was killed
	waitForZombie(t, zombie.Process.Pid)
	begin()
	if got := pids(t, v); !slices.Equal(got, []int{alive.Process.Pid}) {
		t.Errorf("sessions of processes %v are left, want %d", got, alive.Process.Pid)
	}
	if n, err := v.ForgetHost(t.Context(), "host-1"); err != nil || n != 0 {
		t.Errorf("forgot %d living processes of this host, %v", n, err)
	}
}

func waitForZombie(t *testing.T, pid int) {
	t.Helper()
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(t, err)
		if strings.Contains(string(b), ") Z ") {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the process did not die")
		case <-time.After(time.Millisecond):
		}
	}
}

// counting counts the requests that change or read something.
type counting struct {
	obs.Store
	mu  sync.Mutex
	ops []string
	// fail is asked before each; an error is the request's, which then did not happen.
	fail func(op, key string) error
}

func (c *counting) note(op, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ops = append(c.ops, op)
	if c.fail != nil {
		return c.fail(op, key)
	}
	return nil
}

func (c *counting) Put(ctx context.Context, key string, body []byte) error {
	if err := c.note("put", key); err != nil {
		return err
	}
	return c.Store.Put(ctx, key, body)
}

func (c *counting) Stat(ctx context.Context, key string) (obs.Info, error) {
	if err := c.note("stat", key); err != nil {
		return obs.Info{}, err
	}
	return c.Store.Stat(ctx, key)
}

func (c *counting) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := c.note("read", key); err != nil {
		return 0, err
	}
	return c.Store.ReadAt(ctx, key, p, off)
}

func (c *counting) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	if err := c.note("list", prefix); err != nil {
		return func(yield func(obs.Info, error) bool) { yield(obs.Info{}, err) }
	}
	return c.Store.List(ctx, prefix)
}

func (c *counting) Delete(ctx context.Context, keys ...string) error {
	if err := c.note("delete", keys[0]); err != nil {
		return err
	}
	return c.Store.Delete(ctx, keys...)
}

func countingVault(t *testing.T) (*vault.Vault, *counting) {
	t.Helper()
	st := &counting{Store: obs.NewMemory()}
	v, err := vault.Create(t.Context(), st, "tenant", nil, nil, identity(t))
	must(t, err)
	st.ops = nil
	return v, st
}

func manifest() *vault.Manifest {
	return &vault.Manifest{Instance: "i", Seq: 1, ID: vault.NewBackupID(1, time.Unix(1700000000, 0), false)}
}

// TestInvariantSessionFirst: the session is stored before anything
// is read, and other sessions cost nothing, however many there are.
func TestInvariantSessionFirst(t *testing.T) {
	v, st := countingVault(t)
	s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
	must(t, err)
	// of the same process
	other, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
	must(t, err)
	if want := []string{"put", "list", "list", "put", "list", "list"}; !slices.Equal(st.ops, want) {
		t.Errorf("two begins take %q, want %q", st.ops, want)
	}
	st.ops = nil
	must(t, s.WriteManifest(t.Context(), manifest()))
	must(t, s.End(t.Context()))
	slices.Sort(st.ops[:4]) // mark and session, signpost and header, at once
	if want := []string{"read", "stat", "stat", "stat", "put", "read", "stat", "stat", "delete"}; !slices.Equal(st.ops, want) {
		t.Errorf("manifest and end take %q, want %q", st.ops, want)
	}
	must(t, other.End(t.Context()))
	if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

// TestSessionThatCouldNotBeRemoved: it goes with the next one of
// the same process, which still runs.
func TestSessionThatCouldNotBeRemoved(t *testing.T) {
	v, st := countingVault(t)
	s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
	must(t, err)
	st.fail = func(op, _ string) error {
		if op == "delete" {
			return obs.ErrUnavailable
		}
		return nil
	}
	if err := s.End(t.Context()); !errors.Is(err, obs.ErrUnavailable) {
		t.Errorf("end: %v", err)
	}
	st.fail = nil
	next, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
	must(t, err)
	must(t, next.End(t.Context()))
	if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

// TestSessionThatIsGone: no manifest is written under a session that somebody removed.
func TestSessionThatIsGone(t *testing.T) {
	v, st := countingVault(t)
	s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
	must(t, err)
	for _, k := range keys(t, st) {
		if strings.Contains(k, "/sessions/") {
			must(t, st.Delete(t.Context(), k))
		}
	}
	if err := s.WriteManifest(t.Context(), manifest()); !errors.Is(err, vault.ErrSessionGone) {
		t.Errorf("manifest: %v", err)
	}
	must(t, s.End(t.Context()))
}

// TestDamagedSessionsAndCondemnations: a session that does not open is told and left; an
// unreadable condemnation stops a writer, since it would rest on packs that are about to go.
func TestDamagedSessionsAndCondemnations(t *testing.T) {
	v, st := countingVault(t)
	s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
	must(t, err)
	var key string
	for _, k := range keys(t, st) {
		if strings.Contains(k, "/sessions/") {
			key = k
		}
	}
	name := key[:len(key)-32] + strings.Repeat("0", 32)
	must(t, st.Put(t.Context(), name, read(t, st, key))) // another's under a new name
	must(t, s.End(t.Context()))
	var warned error
	s, err = v.BeginSession(t.Context(), vault.SessionOptions{Host: "h", Warn: func(err error) { warned = err }})
	must(t, err)
	must(t, s.End(t.Context()))
	if !errors.Is(warned, vault.ErrCorrupt) {
		t.Errorf("warned of %v", warned)
	}
	if _, err := st.Stat(t.Context(), name); err != nil {
		t.Errorf("what does not open was removed: %v", err)
	}
	must(t, st.Delete(t.Context(), name))
	for body, want := range map[string]error{"HFCOND\x00\x02": vault.ErrNewer, "HFCOND\x00\x01": vault.ErrCorrupt, "": vault.ErrCorrupt} {
		name := v.Info().ID + "/condemned/" + strings.Repeat("1", 32)
		must(t, st.Put(t.Context(), name, []byte(body)))
		if _, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"}); !errors.Is(err, want) {
			t.Errorf("condemnation %q: %v, want %v", body, err, want)
		}
		must(t, st.Delete(t.Context(), name))
	}
	if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}
