package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"
)

func openTest(t *testing.T) *Journal {
	t.Helper()
	jr, err := Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = jr.Close() })
	return jr
}

func (jr *Journal) txid(t *testing.T) (id int) {
	t.Helper()
	if err := jr.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// Those who come while somebody commits go into one transaction,
// and who fails among them fails alone.
func TestCommitsOfManyAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jr := openTest(t)
		before := jr.txid(t)
		hold, errMine := make(chan struct{}), errors.New("mine")
		write := func(key string) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put([]byte(key), []byte(key)) }
		}
		var all sync.WaitGroup
		all.Go(func() {
			if err := jr.update(func(tx *bbolt.Tx) error { <-hold; return write("first")(tx) }); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		const n = 10
		for i := range n {
			all.Go(func() {
				err := jr.update(func(tx *bbolt.Tx) error {
					if err := write(fmt.Sprint(i))(tx); err != nil || i != 5 {
						return err
					}
					return errMine
				})
				if i == 5 && !errors.Is(err, errMine) || i != 5 && err != nil {
					t.Errorf("%d: %v", i, err)
				}
			})
			synctest.Wait() // they are in a line
		}
		close(hold)
		all.Wait()
		if got := jr.txid(t) - before; got != 2 {
			t.Errorf("%d transactions, want 2", got)
		}
		err := jr.db.View(func(tx *bbolt.Tx) error {
			for i := range n {
				if there := tx.Bucket(bucketMeta).Get([]byte(fmt.Sprint(i))) != nil; there == (i == 5) {
					t.Errorf("%d: written %v", i, there)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A goroutine that ends in the middle of a commit, as in a
// test that plays a crash, does not keep the others waiting.
func TestCommitterThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jr := openTest(t)
		hold := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			_ = jr.update(func(*bbolt.Tx) error { <-hold; runtime.Goexit(); return nil })
		})
		synctest.Wait()
		for range 3 {
			all.Go(func() {
				if err := jr.update(func(*bbolt.Tx) error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(hold)
		all.Wait()
		if err := jr.update(func(*bbolt.Tx) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

// A write after a failure of the file fails for all
// callers in the transaction, and for nobody later.
func TestCommitThatFails(t *testing.T) {
	jr := openTest(t)
	if err := jr.Close(); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if err := jr.update(func(*bbolt.Tx) error { return nil }); err == nil {
				t.Error("written to a journal that is closed")
			}
		})
	}
	all.Wait()
}
