package agent_test

import (
	"testing"

	"holdfast/agent/api"
	"holdfast/internal/vault"
)

// TestReasonBounds: the control plane's bound of a reason is the bound of the claim that keeps it.
func TestReasonBounds(t *testing.T) {
	if api.MaxReason != vault.MaxReason {
		t.Errorf("the API takes reasons of %d bytes, and a claim keeps %d", api.MaxReason, vault.MaxReason)
	}
}
