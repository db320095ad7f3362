package job

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

type restingRuntime struct {
	countingRuntime
	state RuntimeState
}

func (r *restingRuntime) State(context.Context) (Sight, error) { return Sight{State: r.state}, nil }
func (r *restingRuntime) Of(string) Runtime                    { return r }

// TestMayMove: volumes are exchanged only while neither the instance with which the
// restore began runs, nor the instance that the configuration has under that id now.
func TestMayMove(t *testing.T) {
	jr, err := OpenJournal(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = jr.Close() })
	for _, c := range []struct {
		before, now RuntimeState // "": it left the configuration
		may         bool
	}{
		{IsStopped, IsStopped, true},
		{IsStopped, "", true},
		{IsMissing, IsStopped, true},
		{IsMissing, IsRunning, false},
		{IsStopped, IsFrozen, false},
		{IsRunning, IsStopped, false},
		{IsRunning, "", false},
	} {
		made := func(state RuntimeState, keep string) Instance {
			return Instance{ID: "phone", Holds: true, Runtime: &restingRuntime{state: state}, Keep: json.RawMessage(keep)}
		}
		m := New(jr, Parts{
			Instance: func(string) (Instance, error) {
				if c.now == "" {
					return Instance{}, ErrNotFound
				}
				return made(c.now, `"now"`), nil
			},
			Recall: func(string, json.RawMessage) (Instance, error) { return made(c.before, `"before"`), nil },
		}, Options{})
		err := (&worker{m: m}).mayMove(t.Context(), &Job{ID: "j", Instance: "phone", Kind: KindRestore, Kept: json.RawMessage(`"before"`)})
		if (err == nil) != c.may || err != nil && (errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "stop it")) {
			t.Errorf("%q before, %q by the configuration: %v", c.before, c.now, err)
		}
	}
}
