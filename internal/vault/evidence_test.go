package vault_test

import (
	"testing"
	"time"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// TestEvidenceHoldsForItsMountAlone: rows without a mount are never evidence,
// and a clock that was set back moves the time from which on they are none.
func TestEvidenceHoldsForItsMountAlone(t *testing.T) {
	e := vault.Evidence{FileSystem: "ext4 1", Mounted: "a", Clock: time.Hour, Young: time.Unix(1000, 5)}
	if !e.Holds("a") || e.Holds("b") || e.Holds("") || (vault.Evidence{}).Holds("") {
		t.Error("mounts are mixed up")
	}
	for clock, want := range map[time.Duration]tree.Time{
		time.Hour: {Sec: 1000, Nsec: 5}, 2 * time.Hour: {Sec: 1000, Nsec: 5}, time.Hour - 10*time.Second: {Sec: 990, Nsec: 5},
		time.Hour - 6: {Sec: 999, Nsec: 999_999_999},
	} {
		if got := e.Until(clock); got != want {
			t.Errorf("clock %s: until %v, want %v", clock, got, want)
		}
	}
	var vol vault.Volume
	vol.SetEvidence(e)
	if vol.Evidence() != e {
		t.Errorf("a manifest gives back %+v", vol.Evidence())
	}
}
