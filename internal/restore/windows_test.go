package restore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// smallFiles makes files that do not compress, and backs them up into a vault in st.
func smallFiles(t testing.TB, st obs.Store, n, size int) (*vault.Vault, vault.BackupRef) {
	t.Helper()
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{1})
	content := make([]byte, size)
	for i := range n {
		_, _ = r.Read(content)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d", i)), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Create(t.Context(), st, "tenant", nil, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
	if err != nil {
		t.Fatal(err)
	}
	return v, vault.BackupRef{Instance: "i", ID: res.BackupID}
}

// gate lets large reads of packs through only after enough of them wait at the same time.
type gate struct {
	obs.Store
	mu      sync.Mutex
	need    int // 0: open
	waiting int
	open    chan struct{}
	fail    error // of large reads, if set
}

// largeRead is below half of a window's content, which may lie in two packs.
const largeRead = 256 << 10

func (g *gate) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if strings.Contains(key, "/packs/") && len(p) >= largeRead {
		g.mu.Lock()
		if g.need > 0 {
			if g.waiting++; g.waiting == g.need {
				close(g.open)
				g.need = 0
			}
		}
		open, need, fail := g.open, g.need, g.fail
		g.mu.Unlock()
		if need > 0 {
			select {
			case <-open:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		}
		if fail != nil {
			return 0, fail
		}
	}
	return g.Store.ReadAt(ctx, key, p, off)
}

// TestWindowsOverlap: the content of a window of small files takes one request, and the requests of
// several windows are on their way at the same time.
func TestWindowsOverlap(t *testing.T) {
	g := &gate{Store: obs.NewMemory(), open: make(chan struct{})}
	v, ref := smallFiles(t, g, 1200, 8<<10)
	g.mu.Lock()
	g.need = 4
	g.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the windows follow each other"))
	defer cancel()
	res, err := restore.Run(ctx, restore.Options{Vault: v, Ref: ref, Volume: "data", Dest: filepath.Join(t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	if res.Files != 1200 || res.Bytes != 1200*8<<10 {
		t.Errorf("%d files of %d bytes", res.Files, res.Bytes)
	}
}

// TestWindowsEnd: a request that fails, and a restore that is interrupted
// while all windows wait, end the restore with the reason, and leave nothing.
func TestWindowsEnd(t *testing.T) {
	why := errors.New("no such luck")
	for name, c := range map[string]struct {
		need int
		fail error
	}{
		"a request fails": {0, why},
		"interrupted":     {1000, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gate{Store: obs.NewMemory(), open: make(chan struct{})}
			v, ref := smallFiles(t, g, 1200, 8<<10)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			g.mu.Lock()
			g.need, g.fail = c.need, c.fail
			g.mu.Unlock()
			if c.need > 0 {
				go func() {
					// As many requests as there can be: all windows wait then.
					for before, same := 0, 0; before == 0 || same < 500; time.Sleep(time.Millisecond) {
						g.mu.Lock()
						waiting := g.waiting
						g.mu.Unlock()
						if same++; waiting != before {
							before, same = waiting, 0
						}
					}
					cancel(why)
				}()
			}
			dir := t.TempDir()
			if _, err := restore.Run(ctx, restore.Options{Vault: v, Ref: ref, Volume: "data", Dest: filepath.Join(dir, "out")}); !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 {
				t.Errorf("it left %v, %v", left, err)
			}
			if open := openBelow(t, dir); len(open) > 0 {
				t.Errorf("it left %d files open: %q", len(open), open[0])
			}
		})
	}
}

// openBelow lists the files below dir that this process has open.
func openBelow(t *testing.T, dir string) (open []string) {
	t.Helper()
	const list = "/proc/self/fd"
	all, err := os.ReadDir(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if path, err := os.Readlink(filepath.Join(list, fd.Name())); err == nil && strings.HasPrefix(path, dir) {
			open = append(open, path)
		}
	}
	return open
}

// far is a store behind a network with latency.
type far struct {
	obs.Store
	latency time.Duration
}

func (f far) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	time.Sleep(f.latency)
	return f.Store.ReadAt(ctx, key, p, off)
}

// BenchmarkFromAfar restores small files from a store whose answers take 20 ms.
func BenchmarkFromAfar(b *testing.B) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	st := &far{Store: obs.NewMemory()}
	v, ref := smallFiles(b, st, n, 4<<10)
	st.latency = 20 * time.Millisecond
	b.SetBytes(int64(n) * 4 << 10)
	for b.Loop() {
		if _, err := restore.Run(b.Context(), restore.Options{Vault: v, Ref: ref, Volume: "data", Dest: filepath.Join(b.TempDir(), "out")}); err != nil {
			b.Fatal(err)
		}
	}
}
