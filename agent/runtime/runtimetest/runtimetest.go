// Package runtimetest is the conformance suite of runtime.Instance: the laws on which the
// agent rests when it decides that an instance is powered down. Each driver passes it.
//
// Only tests import it. It starts no goroutine.
package runtimetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/runtime"
)

// Hurry is the name of the file in a volume that makes the programs append as fast as they can.
// A law that looks for a write in a short time needs that; other laws leave the processors free.
const Hurry = "hurry"

// Patience bounds each wait for something that happens sooner or later.
const Patience = time.Minute

// Subject is a running instance, with hooks for the events that can happen to it
// besides its driver's acts. Where a hook is nil, the laws that need it are left out.
type Subject struct {
	runtime.Instance
	// Volume is the folder to which the instance's programs append while it runs: every few
	// hundredths of a second, and as fast as they can while a file named Hurry is in the
	// folder. Empty: the driver holds nothing, so there is no program.
	Volume string
	// Blind says that the driver can't tell the state.
	Blind bool
	// Again makes another driver of the same instance, as a later
	// life of the agent does, or another user of the engine.
	Again func() runtime.Instance
	// Remove makes the instance missing.
	Remove func()
	// Recreate removes the instance and makes another under its name,
	// which runs on the same volume.
	Recreate func()
	// Rename gives the instance another name than in its configuration.
	Rename func()
	// RestartEngine ends the engine and starts it again.
	RestartEngine func()
	// Reboot ends the host and starts it again, or does the nearest to that.
	Reboot func()
}

// Names of laws that a driver may have a reason to try once more by themselves.
const (
	LawRestart  = "a frozen instance that wrote over a restart of the engine looks different"
	LawKeptDown = "an instance that is kept down stays down over a restart of the engine"
)

// Run tries all laws, or only the named ones. Each call of fresh
// gives an instance that belongs to one law.
func Run(t *testing.T, fresh func(t *testing.T) Subject, only ...string) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"each verb reaches its state, twice", verbs},
		{"a frozen instance goes on after a thaw", goesOn},
		{"a frozen instance goes down without another write", downFrozen},
		{"a running instance goes down and starts again", downRunning},
		{"a missing instance is told", missing},
		{"an ended context does nothing", ended},
		{"a frozen instance looks the same until it runs", frozenSight},
		{"a stopped instance looks the same until it runs", stoppedSight},
		{"an instance that ran is not powered down", ran},
		{"an instance that was made anew is another", recreated},
		{"a renamed instance is found by its identity", renamed},
		{LawRestart, restarted},
		{LawKeptDown, keptDown},
		{"no hold outlives a restart of the host", rebooted},
	} {
		if len(only) == 0 || slices.Contains(only, c.name) {
			t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
		}
	}
}

// do calls a verb that must work.
func do(t *testing.T, what string, verb func(context.Context) error) {
	t.Helper()
	if err := verb(t.Context()); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// down powers down the instance from any state.
func (s Subject) down(ctx context.Context) error { return s.PowerDown(ctx, nil) }

// sight is a look that must work.
func sight(t *testing.T, i runtime.Instance) model.Sight {
	t.Helper()
	got, err := i.State(t.Context())
	if err != nil {
		t.Fatalf("look: %v", err)
	}
	return got
}

// Expect looks at the state.
func (s Subject) Expect(t *testing.T, want model.RuntimeState) {
	t.Helper()
	if s.Blind {
		want = model.IsUnknown
	}
	if got := sight(t, s); got.State != want {
		t.Fatalf("state %s; want %s", got.State, want)
	}
}

// Size is how much the programs have written. Reading sees all that
// was written before, synced or not.
func (s Subject) Size(t *testing.T) int64 {
	t.Helper()
	if s.Volume == "" {
		return 0
	}
	entries, err := os.ReadDir(s.Volume)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, e := range entries {
		st, err := os.Stat(filepath.Join(s.Volume, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum += st.Size()
	}
	return sum
}

// Writes waits until the instance has written.
func (s Subject) Writes(t *testing.T) {
	t.Helper()
	if !s.Holds() {
		return
	}
	from := s.Size(t)
	for end := time.Now().Add(Patience); s.Size(t) == from; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the instance writes nothing")
		}
	}
}

// Hurry makes the programs of the instance append as fast as they can.
func (s Subject) Hurry(t *testing.T) {
	t.Helper()
	if s.Volume == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(s.Volume, Hurry), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Still looks that the instance does not write.
func (s Subject) Still(t *testing.T) {
	t.Helper()
	from := s.Size(t)
	time.Sleep(100 * time.Millisecond)
	if n := s.Size(t) - from; n != 0 {
		t.Fatalf("the instance wrote %d bytes while it had to be still", n)
	}
}

func verbs(t *testing.T, s Subject) {
	if s.Kind() == "" {
		t.Error("no kind")
	}
	s.Writes(t)
	for _, step := range []struct {
		name string
		verb func(context.Context) error
		want model.RuntimeState
	}{
		{"start of a running one", s.Start, model.IsRunning},
		{"thaw of a running one", s.Thaw, model.IsRunning},
		{"freeze", s.Freeze, model.IsFrozen},
		{"freeze of a frozen one", s.Freeze, model.IsFrozen},
		{"start of a frozen one", s.Start, model.IsRunning},
		{"freeze again", s.Freeze, model.IsFrozen},
		{"thaw", s.Thaw, model.IsRunning},
		{"freeze for the power-down", s.Freeze, model.IsFrozen},
		{"power down", s.down, model.IsStopped},
		{"power down of a stopped one", s.down, model.IsStopped},
		{"keep down", s.KeepDown, model.IsStopped},
		{"keep down again", s.KeepDown, model.IsStopped},
		{"thaw of a stopped one", s.Thaw, model.IsStopped},
		{"start", s.Start, model.IsRunning},
	} {
		if s.Blind && strings.Contains(step.name, "stopped") {
			continue
		}
		do(t, step.name, step.verb)
		if s.Holds() {
			s.Expect(t, step.want)
		} else {
			s.Expect(t, model.IsUnknown)
		}
	}
	do(t, "power down", s.down)
	if s.Holds() && !s.Blind {
		if err := s.Freeze(t.Context()); !errors.Is(err, runtime.ErrNotRunning) {
			t.Errorf("freeze of a stopped one: %v", err)
		}
		s.Expect(t, model.IsStopped)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func goesOn(t *testing.T, s Subject) {
	for range 5 {
		s.Writes(t)
		do(t, "freeze", s.Freeze)
		s.Still(t)
		do(t, "thaw", s.Thaw)
	}
	s.Writes(t)
}

func downFrozen(t *testing.T, s Subject) {
	s.Hurry(t)
	for range 5 {
		s.Writes(t)
		do(t, "freeze", s.Freeze)
		held, look := s.Size(t), sight(t, s)
		if err := s.PowerDown(t.Context(), &look); err != nil {
			t.Fatalf("power down: %v", err)
		}
		if n := s.Size(t) - held; n != 0 {
			t.Errorf("%d bytes were written after the freeze", n)
		}
		s.Still(t)
		do(t, "start", s.Start)
	}
}

func downRunning(t *testing.T, s Subject) {
	s.Writes(t)
	do(t, "power down", s.down)
	s.Still(t)
	do(t, "start", s.Start)
	s.Writes(t)
}

func missing(t *testing.T, s Subject) {
	if s.Remove == nil {
		return
	}
	id := sight(t, s).ID
	s.Remove()
	s.Expect(t, model.IsMissing)
	if got := sight(t, s); got.ID != "" || got.Run != "" || got.Work != "" {
		t.Errorf("one that is missing looks like %+v", got)
	}
	allMissing(t, s)
	allMissing(t, s.Of(id))
	if err := s.KeepDown(t.Context()); err != nil {
		t.Errorf("keep down: %v", err)
	}
}

func allMissing(t *testing.T, i runtime.Instance) {
	t.Helper()
	down := func(ctx context.Context) error { return i.PowerDown(ctx, nil) }
	for name, verb := range map[string]func(context.Context) error{"freeze": i.Freeze, "thaw": i.Thaw, "power down": down, "start": i.Start} {
		if err := verb(t.Context()); !errors.Is(err, runtime.ErrMissing) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ended(t *testing.T, s Subject) {
	if !s.Holds() {
		return
	}
	cause := errors.New("deadline of the job")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for name, verb := range map[string]func(context.Context) error{"freeze": s.Freeze, "power down": s.down} {
		if err := verb(ctx); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Writes(t)
}
