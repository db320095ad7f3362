package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// TestViewGoesBeforeTheDiskIsFull: a view that stands while its file system
// fills up is given up; one on a file system that was full before is not.
func TestViewGoesBeforeTheDiskIsFull(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	for _, kind := range []string{"btrfs", "xfs"} {
		mount := testbed.Filesystem(t, kind, 512<<20)
		volume := filepath.Join(mount, "disk")
		if err := os.WriteFile(volume, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		provider, snap, err := snapshot.Take(t.Context(), snapshot.Request{Volume: volume, Host: "h", Job: "j", Name: "v"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		source := job.Source{Volume: "data", Root: snap.Image, Ref: model.Ref(snap.Ref)}
		early := &viewRoom{}
		if err := early.check(t.Context(), source); err != nil {
			t.Errorf("%s: much is free: %v", kind, err)
		}
		filler, err := os.Create(filepath.Join(mount, "filler"))
		if err != nil {
			t.Fatal(err)
		}
		defer filler.Close()
		for size, piece := int64(0), make([]byte, 4<<20); ; size += int64(len(piece)) {
			if _, err := filler.WriteAt(piece, size); err != nil {
				if errors.Is(err, unix.ENOSPC) {
					break
				}
				t.Fatal(err)
			}
			if err := filler.Sync(); err != nil {
				break
			}
		}
		if err := early.check(t.Context(), source); !errors.Is(err, snapshot.ErrNoRoom) {
			t.Errorf("%s: the disk is full: %v", kind, err)
		}
		late := &viewRoom{}
		for range 2 {
			if err := late.check(t.Context(), source); err != nil {
				t.Errorf("%s: the disk was full before: %v", kind, err)
			}
		}
		if err := provider.Remove(t.Context(), snap.Ref); err != nil {
			t.Error(err)
		}
	}
}
