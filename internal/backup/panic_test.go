package backup_test

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// exploding is a store of which one call panics: on the goroutine of the caller, whichever that is.
type exploding struct {
	obs.Store
	left atomic.Int64 // calls until that one; negative: never
}

func (e *exploding) count() {
	if e.left.Add(-1) == 0 {
		panic("in the store")
	}
}

func (e *exploding) Put(ctx context.Context, key string, body []byte) error {
	e.count()
	return e.Store.Put(ctx, key, body)
}

func (e *exploding) PutNew(ctx context.Context, key string, body []byte) error {
	e.count()
	return e.Store.PutNew(ctx, key, body)
}

func (e *exploding) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	e.count()
	return e.Store.ReadAt(ctx, key, p, off)
}

func (e *exploding) Stat(ctx context.Context, key string) (obs.Info, error) {
	e.count()
	return e.Store.Stat(ctx, key)
}

func (e *exploding) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	e.count()
	return e.Store.List(ctx, prefix)
}

func (e *exploding) Delete(ctx context.Context, keys ...string) error {
	e.count()
	return e.Store.Delete(ctx, keys...)
}

// TestPanicOfStore lets each call to the store of one backup panic, on whatever
// goroutine it comes. That backup fails, and backups after it on the same host
// find all that the host shares (memory for packs, workers, turns) as it was.
func TestPanicOfStore(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, 21, 40, 3)
	host := backup.NewPool(backup.PoolOptions{Budget: 64 << 20, Runs: 2})
	run := func(o backup.Options) error {
		ended := make(chan error, 1)
		go func() {
			ended <- contain.Call(func() error { _, err := backup.Run(t.Context(), o); return err })
		}()
		select {
		case err := <-ended:
			return err
		case <-time.After(2 * time.Minute):
			panic("a backup hangs: what it needs was not given back") // with all stacks
		}
	}
	for at := int64(1); ; at++ {
		st := obs.NewMemory()
		bad := &exploding{Store: st}
		bad.left.Store(-1)
		calm, shaken := twoViews(t, st, bad)
		o := backup.Options{
			Instance: "cp-1", Host: "h", Pool: host, Sources: []backup.Source{{Volume: "data", Root: dir}},
			CatalogueDir: t.TempDir(), IndexDir: t.TempDir(), Vault: shaken,
		}
		bad.left.Store(at)
		err := run(o)
		exploded := bad.left.Load() <= 0
		bad.left.Store(-1)
		if exploded && contain.Of(err) == nil {
			t.Errorf("call %d panicked, and the backup ended with %v", at, err)
		}
		if !exploded && err != nil {
			t.Fatalf("without a panic: %v", err)
		}
		o.Vault = calm // as the agent opens the vault again
		if err := run(o); err != nil {
			t.Errorf("after a panic of call %d: %v", at, err)
		}
		shaken.Close()
		calm.Close()
		if !exploded {
			if at < 6 {
				t.Errorf("a backup made only %d calls", at-1)
			}
			return
		}
		if t.Failed() {
			return
		}
	}
}
