package agent

import (
	"log/slog"
	"strings"
	"testing"

	"holdfast/agent/model"
)

// The message about a finished job says how the instance ended.
func TestMessage(t *testing.T) {
	for _, tt := range []struct {
		job  model.Job
		want string
	}{
		{model.Job{State: model.Done, Mode: model.ModePrecopy}, "is powered down"},
		{model.Job{State: model.Done, Mode: model.ModeLive}, "ran all the time"},
		{model.Job{State: model.Done, ResumeAsked: true}, "runs again"},
		{model.Job{State: model.Done, Kind: model.KindRestore, Restore: &model.Restore{Ready: true, Warning: "the vault has a newer backup"}}, "was ready already; the vault has a newer backup"},
		{model.Job{State: model.Failed, Cause: "snapshot overflowed"}, "failed: snapshot overflowed"},
	} {
		s := &service{a: &Agent{watcher: newWatcher(slog.New(slog.DiscardHandler), nil)}}
		if got := s.message(model.Caller{Role: model.RoleOperator}, &tt.job); !strings.Contains(got, tt.want) {
			t.Errorf("%s, %s: %q", tt.job.State, tt.job.Mode, got)
		}
	}
}
