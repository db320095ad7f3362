package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/runtime"
)

// subject is an instance whose program appends to a file as fast as it can while it runs.
type subject struct {
	runtime.Instance
	volume string // empty: the driver holds nothing, so there is no program
	remove func() // makes the instance missing; nil where the driver can't tell
	blind  bool   // the driver can't tell the state
}

// conform is the contract of Instance as tests; every driver passes it.
func conform(t *testing.T, fresh func(t *testing.T) subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, subject)
	}{
		{"each verb reaches its state, twice", verbs},
		{"a frozen instance goes on after a thaw", goesOn},
		{"a frozen instance goes down without another write", downFrozen},
		{"a running instance goes down and starts again", downRunning},
		{"a missing instance is told", missing},
		{"an ended context does nothing", ended},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

func do(t *testing.T, what string, verb func(context.Context) error) {
	t.Helper()
	if err := verb(t.Context()); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (s subject) expect(t *testing.T, want runtime.State) {
	t.Helper()
	if s.blind {
		want = runtime.Unknown
	}
	if got, err := s.State(t.Context()); err != nil || got != want {
		t.Fatalf("state %s, %v; want %s", got, err, want)
	}
}

// size is how much the programs have written. Reading sees all that was written before, synced or not.
func (s subject) size(t *testing.T) int64 {
	t.Helper()
	if s.volume == "" {
		return 0
	}
	entries, err := os.ReadDir(s.volume)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, e := range entries {
		st, err := os.Stat(filepath.Join(s.volume, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum += st.Size()
	}
	return sum
}

func (s subject) writes(t *testing.T) {
	t.Helper()
	if !s.Holds() {
		return
	}
	from := s.size(t)
	for end := time.Now().Add(time.Minute); s.size(t) == from; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the instance writes nothing")
		}
	}
}

func (s subject) still(t *testing.T) {
	t.Helper()
	from := s.size(t)
	time.Sleep(100 * time.Millisecond)
	if n := s.size(t) - from; n != 0 {
		t.Fatalf("the instance wrote %d bytes while it had to be still", n)
	}
}

func verbs(t *testing.T, s subject) {
	if s.Kind() == "" {
		t.Error("no kind")
	}
	s.writes(t)
	for _, step := range []struct {
		name string
		verb func(context.Context) error
		want runtime.State
	}{
		{"start of a running one", s.Start, runtime.Running},
		{"thaw of a running one", s.Thaw, runtime.Running},
		{"freeze", s.Freeze, runtime.Frozen},
		{"freeze of a frozen one", s.Freeze, runtime.Frozen},
		{"start of a frozen one", s.Start, runtime.Running},
		{"freeze again", s.Freeze, runtime.Frozen},
		{"thaw", s.Thaw, runtime.Running},
		{"freeze for the power-down", s.Freeze, runtime.Frozen},
		{"power down", s.PowerDown, runtime.Stopped},
		{"power down of a stopped one", s.PowerDown, runtime.Stopped},
		{"thaw of a stopped one", s.Thaw, runtime.Stopped},
		{"start", s.Start, runtime.Running},
	} {
		if s.blind && strings.Contains(step.name, "stopped") {
			continue
		}
		do(t, step.name, step.verb)
		if s.Holds() {
			s.expect(t, step.want)
		} else {
			s.expect(t, runtime.Unknown)
		}
	}
	do(t, "power down", s.PowerDown)
	if s.Holds() && !s.blind {
		if err := s.Freeze(t.Context()); !errors.Is(err, runtime.ErrNotRunning) {
			t.Errorf("freeze of a stopped one: %v", err)
		}
		s.expect(t, runtime.Stopped)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func goesOn(t *testing.T, s subject) {
	for range 5 {
		s.writes(t)
		do(t, "freeze", s.Freeze)
		s.still(t)
		do(t, "thaw", s.Thaw)
	}
	s.writes(t)
}

func downFrozen(t *testing.T, s subject) {
	for range 10 {
		s.writes(t)
		do(t, "freeze", s.Freeze)
		held := s.size(t)
		do(t, "power down", s.PowerDown)
		if n := s.size(t) - held; n != 0 {
			t.Errorf("%d bytes were written after the freeze", n)
		}
		s.still(t)
		do(t, "start", s.Start)
	}
}

func downRunning(t *testing.T, s subject) {
	s.writes(t)
	do(t, "power down", s.PowerDown)
	s.still(t)
	do(t, "start", s.Start)
	s.writes(t)
}

func missing(t *testing.T, s subject) {
	if s.remove == nil {
		return
	}
	s.remove()
	s.expect(t, runtime.Missing)
	for name, verb := range map[string]func(context.Context) error{"freeze": s.Freeze, "thaw": s.Thaw, "power down": s.PowerDown, "start": s.Start} {
		if err := verb(t.Context()); !errors.Is(err, runtime.ErrMissing) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ended(t *testing.T, s subject) {
	if !s.Holds() {
		return
	}
	cause := errors.New("deadline of the job")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for name, verb := range map[string]func(context.Context) error{"freeze": s.Freeze, "power down": s.PowerDown} {
		if err := verb(ctx); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.writes(t)
}

func TestNoneConforms(t *testing.T) {
	conform(t, func(t *testing.T) subject {
		n, err := runtime.New(runtime.Config{Kind: runtime.KindNone})
		if err != nil {
			t.Fatal(err)
		}
		if n.Holds() {
			t.Error("none claims to hold")
		}
		return subject{Instance: n}
	})
}

func TestNewRefuses(t *testing.T) {
	for what, cfg := range map[string]runtime.Config{
		`"vm"`:         {Kind: "vm"},
		`"a/../b"`:     {Kind: "docker", Docker: runtime.DockerConfig{Container: "a/../b"}},
		`ftp://x`:      {Kind: "docker", Docker: runtime.DockerConfig{Container: "a", Host: "ftp://x"}},
		`power down`:   {Kind: "exec", Exec: runtime.ExecConfig{Instance: "i", Freeze: []string{"a"}, Thaw: []string{"b"}}},
		`start`:        {Kind: "exec", Exec: runtime.ExecConfig{Instance: "i", Freeze: []string{"a"}, Thaw: []string{"b"}, PowerDown: []string{"c"}, Start: []string{""}}},
		"instance's i": {Kind: "exec"},
	} {
		if _, err := runtime.New(cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
