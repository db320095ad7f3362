package engine

import (
	"testing"

	"holdfast/internal/vault"
)

// TestVaultIsOpenedAgainAfterPanic: the next job does not use locks that a panic may have left.
func TestVaultIsOpenedAgainAfterPanic(t *testing.T) {
	v := &Vaults{open: map[string]*openVault{}}
	used, other := &vault.Vault{}, &vault.Vault{}
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	o := &openVault{turn: turn, vault: used}
	v.open["acme"] = o
	v.drop("acme", other)
	if o.vault != used {
		t.Error("another vault was dropped")
	}
	v.drop("nobody", used)
	v.drop("acme", used)
	if o.vault != nil || len(turn) != 1 {
		t.Errorf("the vault is still used, or its turn is lost (%d)", len(turn))
	}
}
