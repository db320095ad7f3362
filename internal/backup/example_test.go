package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// A folder is backed up into a new vault, and restored from there.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	phone := filepath.Join(dir, "phone")
	if err := os.MkdirAll(filepath.Join(phone, "media"), 0o755); err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(phone, "media", "note"), []byte("remember me"), 0o600); err != nil {
		panic(err)
	}

	key, err := vault.GenerateIdentity()
	if err != nil {
		panic(err)
	}
	v, err := vault.Create(ctx, obs.NewMemory(), "tenant-1", nil, nil, key)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	res, err := backup.Run(ctx, backup.Options{
		Vault: v, Instance: "phone-1", Sources: []backup.Source{{Volume: "data", Root: phone}},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("stored", res.Files, "file of", res.Bytes, "bytes")

	dest := filepath.Join(dir, "restored")
	_, err = restore.Run(ctx, restore.Options{
		Vault: v, Ref: vault.BackupRef{Instance: "phone-1", ID: res.BackupID}, Volume: "data", Dest: dest,
	})
	if err != nil {
		panic(err)
	}
	content, err := os.ReadFile(filepath.Join(dest, "media", "note"))
	if err != nil {
		panic(err)
	}
	fmt.Println("restored:", string(content))
	// Output:
	// stored 1 file of 11 bytes
	// restored: remember me
}

// Two instances of one tenant hold the same content. The vault stores it once.
func ExampleRun() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "note"), []byte("remember me"), 0o600); err != nil {
		panic(err)
	}
	key, err := vault.GenerateIdentity()
	if err != nil {
		panic(err)
	}
	v, err := vault.Create(ctx, obs.NewMemory(), "tenant-1", nil, nil, key)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	for _, instance := range []string{"phone-1", "phone-2"} {
		res, err := backup.Run(ctx, backup.Options{
			Vault: v, Instance: instance, Sources: []backup.Source{{Volume: "data", Root: dir}},
		})
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: %d bytes, of which the vault lacked %d\n", instance, res.Bytes, res.BytesNew)
	}
	// Output:
	// phone-1: 11 bytes, of which the vault lacked 11
	// phone-2: 11 bytes, of which the vault lacked 0
}
