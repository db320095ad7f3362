package backup_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
)

// tallied counts requests by kind.
type tallied struct {
	obs.Store
	mu  sync.Mutex
	ops map[string]int
}

func (s *tallied) note(op string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops[op]++
}

func (s *tallied) Put(ctx context.Context, key string, body []byte) error {
	s.note("put")
	return s.Store.Put(ctx, key, body)
}

func (s *tallied) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	s.note("read")
	return s.Store.ReadAt(ctx, key, p, off)
}

func (s *tallied) Stat(ctx context.Context, key string) (obs.Info, error) {
	s.note("stat")
	return s.Store.Stat(ctx, key)
}

func (s *tallied) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	s.note("list")
	return s.Store.List(ctx, prefix)
}

func (s *tallied) Delete(ctx context.Context, keys ...string) error {
	s.note("delete")
	return s.Store.Delete(ctx, keys...)
}

// TestRequestsOfASmallBackup: of a hundred small instances the requests
// are what takes time, so none comes in without being seen here.
func TestRequestsOfASmallBackup(t *testing.T) {
	st := &tallied{Store: obs.NewMemory(), ops: map[string]int{}}
	v := newVault(t, st)
	root, state := volumeDir(t), t.TempDir()
	r := rand.NewChaCha8([32]byte{})
	for i, want := range []map[string]int{
		// Session, naming, pack, index segment, manifest; sessions, condemned packs, index,
		// backups before, right before the manifest and after; table, two runs, header,
		// manifest; mark and session, signpost, mark and session after the manifest;
		// naming, session.
		{"put": 5, "list": 6, "read": 5, "stat": 5, "delete": 2},
		// a pack is of the backup before: a look, its table and a run
		{"put": 5, "list": 6, "read": 7, "stat": 6, "delete": 2},
	} {
		b := make([]byte, 4<<20)
		_, _ = r.Read(b) // never fails
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		st.ops = map[string]int{}
		_, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: root}},
			CatalogueDir: filepath.Join(state, "catalogues"), IndexDir: filepath.Join(state, "index"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(st.ops, want) {
			t.Errorf("backup %d takes %v, want %v", i, st.ops, want)
		}
	}
}
