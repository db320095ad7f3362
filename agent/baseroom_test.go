package agent_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// TestIdleBaseLeavesRoom: an instance that overwrites its own image,
// on a disk of which a third is free, never finds it full: the base
// snapshot that shares its blocks goes in time, and the log says so.
func TestIdleBaseLeavesRoom(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			h, mount := newHost(t), testbed.Filesystem(t, kind, 1<<30)
			content := make([]byte, 500<<20)
			random := rand.NewChaCha8([32]byte{1})
			_, _ = random.Read(content)
			image := filepath.Join(mount, "disk.img")
			if err := os.WriteFile(image, content, 0o600); err != nil {
				t.Fatal(err)
			}
			h.volumeAt(image, "live")
			h.start()
			h.backup("acme", "backup-1", "phone-1")
			h.ended("holdfast.backup.completed")
			if bases := h.bases(mount); len(bases) != 1 {
				t.Fatalf("bases: %v", bases)
			}
			f, err := os.OpenFile(image, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			const piece = 4 << 20
			for offset := int64(0); offset < int64(len(content)); offset += piece {
				_, _ = random.Read(content[:piece])
				if _, err := f.WriteAt(content[:piece], offset); err != nil {
					t.Fatalf("after %d MiB: %v", offset>>20, err)
				}
				if err := f.Sync(); err != nil {
					t.Fatalf("after %d MiB: %v", offset>>20, err)
				}
				time.Sleep(50 * time.Millisecond)
			}
			h.eventually("the base is gone", func() bool { return len(h.bases(mount)) == 0 })
			if !strings.Contains(h.logs.String(), "keep the base snapshot") {
				t.Error("the log does not tell")
			}
		})
	}
}
