package service

import (
	"log/slog"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/observe"
)

// The message about a finished job says how the instance ended.
func TestMessage(t *testing.T) {
	for _, tt := range []struct {
		job  job.Job
		want string
	}{
		{job.Job{State: job.Done, Mode: job.ModePrecopy}, "is powered down"},
		{job.Job{State: job.Done, Mode: job.ModeLive}, "ran all the time"},
		{job.Job{State: job.Done, ResumeAsked: true}, "runs again"},
		{job.Job{State: job.Done, Kind: job.KindRestore, Restore: &job.Restore{Ready: true, Warning: "the vault has a newer backup"}}, "was ready already; the vault has a newer backup"},
		{job.Job{State: job.Failed, Cause: "snapshot overflowed"}, "failed: snapshot overflowed"},
	} {
		s := &service{words: newTenantWords(&config.Config{}), lookout: observe.NewLookout(observe.Sources{Watcher: observe.NewWatcher(slog.New(slog.DiscardHandler), nil, nil)})}
		if got := s.message(api.Caller{Role: api.RoleOperator}, &tt.job); !strings.Contains(got, tt.want) {
			t.Errorf("%s, %s: %q", tt.job.State, tt.job.Mode, got)
		}
	}
}
