package backup_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// TestVolumeOfAnAttacker backs up a volume in which a file grows for as long as
// it is read, a fifo has no writer, device nodes would give the host's memory
// and zeros without end, and a name would write to a terminal: the backup ends,
// says that the file changed, and records the other entries by their true kinds.
func TestVolumeOfAnAttacker(t *testing.T) {
	testbed.Need(t, "root") // for device nodes
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	const escape = "\x1b]0;owned\x07\nsecond line"
	for _, err := range []error{
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		unix.Mknod(filepath.Join(dir, "memory"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))),
		unix.Mknod(filepath.Join(dir, "zeros"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))),
		os.WriteFile(filepath.Join(dir, escape), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(dir, "honest"), []byte("honest"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	growing, err := os.Create(filepath.Join(dir, "grows"))
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	begun := make(chan struct{})
	wg.Go(func() {
		defer growing.Close()
		part := bytes.Repeat([]byte("more and more "), 4<<10)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if i > 1<<10 { // not to fill the disk
				_ = growing.Truncate(int64(1<<10+i%256) << 16)
				continue
			}
			if _, err := growing.Write(part); err != nil {
				t.Error(err)
				return
			}
			if i == 100 {
				close(begun)
			}
		}
	})
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var warned []string
	var mu sync.Mutex
	res, err := backup.Run(ctx, backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}},
		Warn: func(w tree.Warning) {
			mu.Lock()
			defer mu.Unlock()
			warned = append(warned, w.Path)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.Lost == 0 || !strings.Contains(strings.Join(warned, "|"), "grows") {
		t.Errorf("%d lost, warned of %q: the file that grew is not among them", res.Lost, warned)
	}
	ref := vault.BackupRef{Instance: "i", ID: res.BackupID}
	got := contents(t, v, ref)
	if string(got["honest"]) != "honest" || string(got[escape]) != "x" {
		t.Errorf("honest %q, the name with escapes %q", got["honest"], got[escape])
	}
	for _, name := range []string{"fifo", "memory", "zeros"} {
		if b, ok := got[name]; ok && len(b) > 0 {
			t.Errorf("%s has %d bytes of content", name, len(b))
		}
	}
}
