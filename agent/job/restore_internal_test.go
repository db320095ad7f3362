package job

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/journal"
	"holdfast/agent/model"
)

type restingRuntime struct {
	countingRuntime
	state model.RuntimeState
}

func (r *restingRuntime) State(context.Context) (model.Sight, error) {
	return model.Sight{State: r.state}, nil
}
func (r *restingRuntime) Of(string) Runtime { return r }

// TestMayMove: volumes are exchanged only while neither the instance with which the
// restore began runs, nor the instance that the configuration has under that id now.
func TestMayMove(t *testing.T) {
	jr, err := journal.Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = jr.Close() })
	for _, c := range []struct {
		before, now model.RuntimeState // "": it left the configuration
		may         bool
	}{
		{model.IsStopped, model.IsStopped, true},
		{model.IsStopped, "", true},
		{model.IsMissing, model.IsStopped, true},
		{model.IsMissing, model.IsRunning, false},
		{model.IsStopped, model.IsFrozen, false},
		{model.IsRunning, model.IsStopped, false},
		{model.IsRunning, "", false},
	} {
		made := func(state model.RuntimeState, keep string) Instance {
			return Instance{ID: "phone", Holds: true, Runtime: &restingRuntime{state: state}, Keep: json.RawMessage(keep)}
		}
		m := New(jr, Parts{
			Instance: func(string) (Instance, error) {
				if c.now == "" {
					return Instance{}, model.ErrNotFound
				}
				return made(c.now, `"now"`), nil
			},
			Recall: func(string, json.RawMessage) (Instance, error) { return made(c.before, `"before"`), nil },
		}, Options{})
		err := (&worker{m: m}).mayMove(t.Context(), &model.Job{ID: "j", Instance: "phone", Kind: model.KindRestore, Kept: json.RawMessage(`"before"`)})
		if (err == nil) != c.may || err != nil && (errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), "stop it")) {
			t.Errorf("%q before, %q by the configuration: %v", c.before, c.now, err)
		}
	}
}
