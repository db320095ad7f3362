package obs_test

import (
	"context"
	"errors"
	"fmt"

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
