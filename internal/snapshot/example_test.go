package snapshot_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/internal/snapshot"
)

// Where a storage makes no snapshots, the view is the volume itself, and its instance stays held
// until the last byte is read.
func ExampleProvider() {
	ctx := context.Background()
	volume, err := os.MkdirTemp("", "volume")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(volume)
	if volume, err = filepath.EvalSymlinks(volume); err != nil {
		panic(err)
	}
	req := snapshot.Request{Volume: volume, Host: "host-1", Job: "job-1", Name: "data"}
	provider, err := snapshot.ByName("freeze")
	if err != nil {
		panic(err)
	}
	view, err := provider.Create(ctx, req)
	if err != nil {
		panic(err)
	}
	fmt.Println(view.Root == volume, view.NeedsHold)
	fmt.Println(provider.Remove(ctx, view.Ref))
	// Output:
	// true true
	// <nil>
}
