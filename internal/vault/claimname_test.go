package vault_test

import (
	"testing"
	"time"

	"holdfast/internal/vault"
)

// TestClaimNamesTheHostOfNow: a sign of life gives the claim the present name of its host. Another
// host may have the former name by now, whose operator would take the claim for a claim of that
// host's own.
func TestClaimNamesTheHostOfNow(t *testing.T) {
	v, _ := newVault(t)
	if _, err := v.Claim(t.Context(), vault.ClaimOptions{Instance: "phone", Host: "former", Identity: "a", Job: "j"}); err != nil {
		t.Fatal(err)
	}
	o := vault.KeepOptions{Host: "present", Identity: "a", Every: time.Minute, Keeps: func(vault.Claim) bool { return true }}
	if kept, lost, err := v.KeepClaims(t.Context(), o); err != nil || len(kept) != 1 || len(lost) != 0 {
		t.Fatalf("kept %+v, lost %+v, %v", kept, lost, err)
	}
	all, err := v.Claims(t.Context(), "phone")
	if err != nil || len(all) != 1 || all[0].Host != "present" || all[0].Job != "j" {
		t.Errorf("%+v, %v", all, err)
	}
}
