package restore_test

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

// Only a part of a backup is restored.
func ExampleRun() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	phone := filepath.Join(dir, "phone")
	for _, name := range []string{"media/photo.jpg", "logs/system.log"} {
		if err := os.MkdirAll(filepath.Join(phone, filepath.Dir(name)), 0o755); err != nil {
			panic(err)
		}
		if err := os.WriteFile(filepath.Join(phone, name), []byte(name), 0o600); err != nil {
			panic(err)
		}
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
	if _, err = backup.Run(ctx, backup.Options{
		Vault: v, Instance: "phone-1", Sources: []backup.Source{{Volume: "data", Root: phone}},
	}); err != nil {
		panic(err)
	}

	newest, err := v.Newest(ctx, "phone-1")
	if err != nil {
		panic(err)
	}
	_, err = restore.Run(ctx, restore.Options{
		Vault: v, Ref: newest, Volume: "data", Dest: filepath.Join(dir, "part"), Include: []string{"media/*.jpg"},
	})
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"media/photo.jpg", "logs"} {
		_, err := os.Lstat(filepath.Join(dir, "part", name))
		fmt.Println(name, err == nil)
	}
	// Output:
	// media/photo.jpg true
	// logs false
}
