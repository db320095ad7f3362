package vault_test

import (
	"context"
	"errors"
	"fmt"
	"time"

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

// Two hosts continue an instance from one backup. The names of the backups tell that neither has
// the content of the other, so no backup is the newest.
func ExampleLineageOf() {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	var refs []vault.BackupRef
	add := func(id string) string {
		ref, ok := vault.RefOf("phone-1", id)
		if !ok {
			panic(id)
		}
		refs = append(refs, ref)
		return id
	}
	first := add(vault.NewBackupID(1, now, false))
	onA := add(vault.LineageOf(refs).NewID(2, now, first, false))
	newest, err := vault.LineageOf(refs).Newest()
	fmt.Println(newest.ID == onA, err)

	add(vault.LineageOf(refs).NewID(3, now, first, false)) // host B restored the first one
	_, err = vault.LineageOf(refs).Newest()
	var fork *vault.ForkError
	if errors.As(err, &fork) {
		fmt.Println("a fork of", len(fork.Refs), "backups of", fork.Instance)
	}
	// Output:
	// true <nil>
	// a fork of 2 backups of phone-1
}
