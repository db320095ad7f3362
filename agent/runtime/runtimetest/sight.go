package runtimetest

import (
	"errors"
	"testing"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/runtime"
)

// proves freezes the instance and tells whether its driver can prove anything of it.
func (s Subject) proves(t *testing.T) bool {
	t.Helper()
	if !s.Holds() || s.Blind {
		return false
	}
	s.Writes(t)
	do(t, "freeze", s.Freeze)
	return sight(t, s).Proof
}

// again is another driver of the same instance; its own one where there is no other.
func (s Subject) again() runtime.Instance {
	if s.Again == nil {
		return s.Instance
	}
	return s.Again()
}

func frozenSight(t *testing.T, s Subject) {
	if !s.proves(t) {
		return
	}
	first := sight(t, s)
	if first.State != model.IsFrozen || first.Run == "" && first.Work == "" {
		t.Fatalf("it looks like %+v", first)
	}
	other := s.again()
	for range 10 {
		for _, i := range []runtime.Instance{s, other, s.Of(first.ID)} {
			if now := sight(t, i); !now.Same(first) {
				t.Fatalf("nothing has happened to it, and it looks like %+v and not %+v", now, first)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	for range 10 {
		do(t, "thaw by somebody else", other.Thaw)
		do(t, "freeze by somebody else", other.Freeze)
		now := sight(t, s)
		if now.Same(first) {
			t.Fatalf("it ran, and looks the same: %+v", now)
		}
		if now.ID != first.ID {
			t.Errorf("its identity became %q; it was %q", now.ID, first.ID)
		}
		first = now
	}
}

func stoppedSight(t *testing.T, s Subject) {
	if !s.proves(t) {
		return
	}
	frozen := sight(t, s)
	do(t, "power down", s.down)
	first := sight(t, s)
	if first.State != model.IsStopped || first.ID != frozen.ID || first.Run != "" && first.Run != frozen.Run {
		t.Errorf("it looked like %+v before the power-down, and like %+v after it", frozen, first)
	}
	if !first.Proof {
		return
	}
	do(t, "keep down", s.KeepDown)
	if now := sight(t, s.again()); !now.Same(first) {
		t.Errorf("nothing has happened to it, and it looks like %+v and not %+v", now, first)
	}
	do(t, "start by somebody else", s.again().Start)
	do(t, "power down", s.down)
	if now := sight(t, s); now.Same(first) || now.State != model.IsStopped || now.ID != first.ID {
		t.Errorf("it was started and stopped, and looks like %+v; before it did like %+v", now, first)
	}
}

func ran(t *testing.T, s Subject) {
	if !s.proves(t) {
		return
	}
	held := sight(t, s)
	do(t, "thaw by somebody else", s.again().Thaw)
	refused := func(what string, want model.RuntimeState) {
		t.Helper()
		if err := s.PowerDown(t.Context(), &held); !errors.Is(err, runtime.ErrChanged) || errors.Is(err, model.ErrBegun) {
			t.Errorf("power-down of one that %s: %v", what, err)
		}
		s.Expect(t, want)
	}
	refused("runs", model.IsRunning)
	s.Writes(t)
	do(t, "freeze by somebody else", s.again().Freeze)
	refused("was let run", model.IsFrozen)
	do(t, "thaw", s.Thaw)
	s.Writes(t) // nothing of it was ended
	do(t, "power down", s.down)
	refused("was let run until it ended", model.IsStopped)
	do(t, "start", s.Start)
	do(t, "freeze", s.Freeze)
	refused("was started again", model.IsFrozen)
	held = sight(t, s)
	if err := s.PowerDown(t.Context(), &held); err != nil {
		t.Error(err)
	}
	s.Expect(t, model.IsStopped)
}

func recreated(t *testing.T, s Subject) {
	if s.Recreate == nil || !s.proves(t) {
		return
	}
	held := sight(t, s)
	old := s.Of(held.ID)
	s.Recreate()
	if now := sight(t, s); now.ID == held.ID || now.State != model.IsRunning {
		t.Errorf("the new one looks like %+v, the old one like %+v", now, held)
	}
	if now := sight(t, old); now.State != model.IsMissing {
		t.Errorf("the old one looks like %+v", now)
	}
	allMissing(t, old)
	do(t, "freeze of the new one", s.Freeze)
	if err := old.PowerDown(t.Context(), &held); !errors.Is(err, runtime.ErrMissing) {
		t.Errorf("power-down of the old one: %v", err)
	}
	if err := s.PowerDown(t.Context(), &held); !errors.Is(err, runtime.ErrChanged) {
		t.Errorf("power-down by the name: %v", err)
	}
	s.Expect(t, model.IsFrozen)
	do(t, "thaw of the new one", s.Thaw)
	s.Writes(t)
}

func renamed(t *testing.T, s Subject) {
	if s.Rename == nil || !s.proves(t) {
		return
	}
	held := sight(t, s)
	s.Rename()
	s.Expect(t, model.IsMissing)
	of := s.Of(held.ID)
	if now := sight(t, of); !now.Same(held) {
		t.Errorf("it looks like %+v, and did like %+v", now, held)
	}
	do(t, "thaw", of.Thaw)
	s.Writes(t)
	do(t, "freeze", of.Freeze)
	held = sight(t, of)
	if err := of.PowerDown(t.Context(), &held); err != nil {
		t.Error(err)
	}
	do(t, "keep down", of.KeepDown)
	if now := sight(t, of); now.State != model.IsStopped || now.ID != held.ID {
		t.Errorf("it looks like %+v after the power-down", now)
	}
	do(t, "start", of.Start)
	s.Writes(t)
}

func restarted(t *testing.T, s Subject) {
	if s.RestartEngine == nil || !s.proves(t) {
		return
	}
	held, size := sight(t, s), s.Size(t)
	s.RestartEngine()
	now := sight(t, s.Of(held.ID))
	wrote := s.Size(t) - size
	t.Logf("frozen before, %s now, wrote %d bytes meanwhile", now.State, wrote)
	if now.Same(held) && wrote != 0 {
		t.Errorf("it looks the same, %+v, and wrote %d bytes meanwhile", now, wrote)
	}
	if !now.Same(held) {
		return
	}
	do(t, "thaw", s.Thaw)
	s.Writes(t)
	do(t, "freeze", s.Freeze)
	held, size = sight(t, s), s.Size(t)
	if err := s.PowerDown(t.Context(), &held); err != nil || s.Size(t) != size {
		t.Errorf("power down: %v, it wrote %d bytes", err, s.Size(t)-size)
	}
}

func keptDown(t *testing.T, s Subject) {
	if s.RestartEngine == nil || !s.proves(t) {
		return
	}
	do(t, "power down", s.down)
	do(t, "keep down", s.KeepDown)
	held, size := sight(t, s), s.Size(t)
	s.RestartEngine()
	s.Still(t)
	if now := sight(t, s); !now.Same(held) || s.Size(t) != size {
		t.Errorf("it looked like %+v, and looks like %+v after the restart; it wrote %d bytes", held, now, s.Size(t)-size)
	}
}

func rebooted(t *testing.T, s Subject) {
	if s.Reboot == nil || !s.proves(t) {
		return
	}
	held := sight(t, s)
	s.Reboot()
	now := sight(t, s.Of(held.ID))
	t.Logf("frozen before, %s now", now.State)
	if now.Same(held) {
		t.Errorf("it looks as before the restart of the host: %+v", now)
	}
	if err := s.Of(held.ID).PowerDown(t.Context(), &held); now.State != model.IsStopped && !errors.Is(err, runtime.ErrChanged) {
		t.Errorf("power down: %v", err)
	}
}
