package obs_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"holdfast/internal/obs"
)

// An object is put, found and read. Names are written once.
func ExampleStore() {
	ctx := context.Background()
	store := obs.Retry(obs.NewMemory(), obs.DefaultRetry)
	defer store.Close()
	if err := store.Put(ctx, "packs/1", []byte("content")); err != nil {
		panic(err)
	}
	for info, err := range store.List(ctx, "packs/") {
		if err != nil {
			panic(err)
		}
		fmt.Println(info.Key, info.Size)
	}
	p := make([]byte, 4)
	if _, err := store.ReadAt(ctx, "packs/1", p, 3); err != nil {
		panic(err)
	}
	fmt.Println(string(p))
	_, err := store.Stat(ctx, "packs/2")
	fmt.Println(errors.Is(err, obs.ErrNotFound))
	// Output:
	// packs/1 7
	// tent
	// true
}

// A folder is a store only once somebody has made it one: the mount point of a disk that is not
// mounted looks like an empty folder.
func ExampleOpen() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	_, err = obs.Open(ctx, "file://"+dir, obs.Options{})
	fmt.Println("without the marker:", errors.Is(err, obs.ErrNoMarker))

	store, err := obs.Open(ctx, "file://"+dir, obs.Options{Create: true})
	if err != nil {
		panic(err)
	}
	defer store.Close()
	fmt.Println("with it:", store.Put(ctx, "packs/1", []byte("content")))
	// Output:
	// without the marker: true
	// with it: <nil>
}
