package backup_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

// An address that is written to again, after the view
// that held it ended, does not count as its old content.
func TestBlocksThatAreReusedAreReadAgain(t *testing.T) {
	testbed.Need(t, "xfs")
	path := filepath.Join(testbed.Xfs(t), "disk.img")
	const size = 32 << 20
	fill(t, path, 0, size, 1)
	v, on := memory(t), backup.NewPool(backup.PoolOptions{})
	on.BeginView("first")
	backUpImage(t, v, on, "a", path, "first")
	if res := backUpImage(t, v, on, "a", path, "second"); res.BytesRead > size/4 {
		t.Fatalf("while the view stands %d bytes are read again", res.BytesRead)
	}
	on.EndView("first")
	fill(t, path, 0, size, 2) // in place: the addresses stay
	res := backUpImage(t, v, on, "b", path, "third")
	sameImage(t, v, "b", res, path)
	if res.BytesRead != size || res.WarningCount > 0 {
		t.Errorf("read %d bytes of %d, warnings %v", res.BytesRead, size, res.Warnings)
	}
}

// Blocks that changed under a view that stands, which never may be, are
// noticed: the backup begins again, and nothing is shared any more.
func TestCrossCheckOfSharedBlocks(t *testing.T) {
	testbed.Need(t, "xfs")
	path := filepath.Join(testbed.Xfs(t), "disk.img")
	const size = 160 << 20 // of 2560 hits, that none is checked comes to pass once in 22,000 runs
	fill(t, path, 0, size, 1)
	v, on := memory(t), backup.NewPool(backup.PoolOptions{})
	on.BeginView("first")
	backUpImage(t, v, on, "a", path, "first")
	fill(t, path, 0, size, 2)
	res := backUpImage(t, v, on, "b", path, "second")
	sameImage(t, v, "b", res, path)
	if res.WarningCount != 1 || !strings.Contains(res.Warnings[0].What, "blocks that images share are not the same") {
		t.Fatalf("warnings: %v", res.Warnings)
	}
	if res = backUpImage(t, v, on, "b", path, "second"); res.BytesRead != size || res.WarningCount > 0 {
		t.Errorf("after the alarm %d bytes of %d are read, warnings %v", res.BytesRead, size, res.Warnings)
	}
}

// Two vaults have nothing in common, not even two vaults of one name in two stores.
func TestVaultsShareNoBlocks(t *testing.T) {
	testbed.Need(t, "xfs")
	path := filepath.Join(testbed.Xfs(t), "disk.img")
	const size = 8 << 20
	fill(t, path, 0, size, 1)
	on := backup.NewPool(backup.PoolOptions{})
	on.BeginView("first")
	one, two := memory(t), memory(t)
	backUpImage(t, one, on, "a", path, "first")
	res := backUpImage(t, two, on, "b", path, "second")
	sameImage(t, two, "b", res, path)
	if res.BytesNew != size || res.WarningCount > 0 {
		t.Errorf("%d bytes are new to the other vault, want %d; warnings %v", res.BytesNew, size, res.Warnings)
	}
}

// TestHeldInstanceWaitsForNoRound: a round of pre-copy may be slowed down, or rest, for
// as long as it likes. While its packs do not arrive, and it is in the middle of blocks
// that another image shares, the backup of that image reads the blocks itself, and ends.
func TestHeldInstanceWaitsForNoRound(t *testing.T) {
	testbed.Need(t, "xfs")
	for name, size := range map[string]int64{"all is read, and on its way": 8 << 20, "in the middle": 160 << 20} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(testbed.Xfs(t), "disk.img")
			fill(t, path, 0, size, 1)
			mem := obs.NewMemory()
			slow := &slowRound{Store: mem, entered: make(chan struct{}), goOn: make(chan struct{})}
			v := newVault(t, slow)
			on := backup.NewPool(backup.PoolOptions{Runs: 2, Budget: 1})
			on.BeginView("one")
			defer on.EndView("one")
			o := backup.Options{
				Vault: v, Instance: "a", Host: "h", Pool: on, Precopy: true,
				Sources: []backup.Source{{Volume: "disk", Root: path, View: "one"}},
			}
			var round sync.WaitGroup
			round.Go(func() {
				if _, err := backup.Run(context.WithValue(t.Context(), ofRound{}, true), o); err != nil {
					t.Error(err)
				}
			})
			<-slow.entered
			// Meanwhile the round uses up its buffers, and waits for one with blocks in hand.
			if name == "in the middle" {
				time.Sleep(time.Second)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			held := o
			held.Instance, held.Precopy = "b", false
			held.Sources = []backup.Source{{Volume: "disk", Root: path, View: "two"}}
			res, err := backup.Run(ctx, held)
			close(slow.goOn)
			round.Wait()
			if err != nil {
				t.Fatal(err)
			}
			sameImage(t, v, "b", res, path)
			if res.BytesRead != uint64(size) {
				t.Errorf("read %d bytes of %d", res.BytesRead, size)
			}
		})
	}
}

// ofRound marks the context of a round.
type ofRound struct{}

// slowRound holds up the packs of a round.
type slowRound struct {
	obs.Store
	once          sync.Once
	entered, goOn chan struct{}
}

func (s *slowRound) Put(ctx context.Context, key string, body []byte) error {
	if ctx.Value(ofRound{}) != nil && strings.Contains(key, "/packs/") {
		s.once.Do(func() { close(s.entered) })
		<-s.goOn
	}
	return s.Store.Put(ctx, key, body)
}
