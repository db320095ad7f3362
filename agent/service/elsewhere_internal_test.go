package service

import (
	"strings"
	"testing"

	"holdfast/agent/model"
	"holdfast/agent/runtime"
	"holdfast/internal/vault"
)

// TestElsewhereIsThisHost: a host that lost its state folder is not told to release an instance on
// itself.
func TestElsewhereIsThisHost(t *testing.T) {
	found := vault.Elsewhere{
		Writes: map[string]string{"i": "host-1", "j": "host-2"},
		Claims: map[string]vault.Claim{"k": {Host: "host-1"}, "l": {Host: "host-2"}},
	}
	for id, want := range map[string]string{
		"i": `instance "i": an earlier state folder of this host, or a second host with the name "host-1", is backing it up`,
		"j": `instance "j": host "host-2" is backing it up`,
		"k": `"host-1", has claimed it; if no second host has that name, take the claim over (holdfast claim take-over --force)`,
		"l": `instance "l": host "host-2" has claimed it, and gives signs of life; release it there first`,
	} {
		if err := refuseElsewhere(found, []string{id}, "host-1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestOnlyKnownStatesStandStill: prepare is refused for the sake of another host only where
// the instance certainly does not run here. A driver that can't tell answers without an error.
func TestOnlyKnownStatesStandStill(t *testing.T) {
	for _, c := range []struct {
		state model.RuntimeState
		err   error
		want  bool
	}{
		{model.IsRunning, nil, false},
		{model.IsFrozen, nil, true},
		{model.IsStopped, nil, true},
		{model.IsMissing, nil, true},
		{model.IsUnknown, nil, false},
		{model.IsStopped, runtime.ErrUnavailable, false},
	} {
		if got := certainlyStill(model.Sight{State: c.state}, c.err); got != c.want {
			t.Errorf("%s, %v: %v, want %v", c.state, c.err, got, c.want)
		}
	}
}
