package vault_test

import (
	"context"
	"fmt"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// A vault is made in a store, and opened again by its key.
func ExampleOpen() {
	ctx := context.Background()
	store := obs.NewMemory()
	key, err := vault.GenerateIdentity()
	if err != nil {
		panic(err)
	}
	made, err := vault.Create(ctx, store, "tenant-1", nil, nil, key)
	if err != nil {
		panic(err)
	}
	made.Close()

	v, err := vault.Open(ctx, store, "tenant-1", nil, key)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	report, err := v.Verify(ctx, vault.VerifyOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Println(v.Info().Name, "has", report.Backups, "backups and", report.Findings(), "findings")

	stranger, err := vault.GenerateIdentity()
	if err != nil {
		panic(err)
	}
	_, err = vault.Open(ctx, store, "tenant-1", nil, stranger)
	fmt.Println(err != nil)
	// Output:
	// tenant-1 has 0 backups and 0 findings
	// true
}

// The names of a vault's objects tell nothing about its tenant without the fleet's name key.
func ExampleID() {
	fmt.Println(vault.ID("tenant-1", []byte("the name key of the fleet, 32 B.")) == vault.ID("tenant-1", []byte("the name key of another, 32 byte")))
	// Output: false
}
