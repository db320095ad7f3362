package engine

import (
	"fmt"
	"testing"
	"time"
)

// TestClaimPause: other hosts take claims over after a silence of their own configuration, so a
// host gives signs of life as often as a host with the default, also with a longer silence or none.
func TestClaimPause(t *testing.T) {
	for silence, want := range map[time.Duration]time.Duration{
		0: 15 * time.Minute, 24 * time.Hour: 15 * time.Minute, time.Hour: 15 * time.Minute, 20 * time.Minute: 5 * time.Minute, time.Minute: 15 * time.Second,
	} {
		if got := claimPause(silence); got != want {
			t.Errorf("claim_silence %s: a sign of life each %s, want %s", silence, got, want)
		}
	}
}

// TestClaimPasses: a vault that does not answer is tried again soon, alone, and last; the claims in
// the other vaults get their next signs of life when these are due, or after a release.
func TestClaimPasses(t *testing.T) {
	now := time.Now()
	all := map[string]bool{"a": true, "b": true, "c": true}
	p := claimPasses{every: 15 * time.Minute}
	pass := func(after time.Duration, signalled bool, failed ...string) string {
		now = now.Add(after)
		tenants := p.due(now, signalled, all)
		return fmt.Sprintf("%v%s", tenants, p.done(now, failed))
	}
	for i, step := range []struct {
		after     time.Duration
		signalled bool
		failed    []string
		want      string
	}{
		{0, false, nil, "[a b c]15m0s"},
		{15 * time.Minute, false, []string{"a"}, "[a b c]10s"},
		{10 * time.Second, false, []string{"a"}, "[a]10s"},
		{10 * time.Second, false, nil, "[a]14m40s"},
		{time.Minute, true, []string{"b", "c"}, "[b c a]10s"},
		{10 * time.Second, true, []string{"b"}, "[b c a]10s"},
		{15 * time.Minute, false, nil, "[b c a]15m0s"},
	} {
		if got := pass(step.after, step.signalled, step.failed...); got != step.want {
			t.Errorf("pass %d: %s, want %s", i, got, step.want)
		}
	}
}
