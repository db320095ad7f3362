package service

import (
	"strings"
	"testing"

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
