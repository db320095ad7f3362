package journal

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// A control plane that commands and takes no reports does not fill the disk.
func TestFullOutboxRefusesCommands(t *testing.T) {
	jr, err := Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer jr.Close()
	fill := func(n int) {
		t.Helper()
		err := jr.db.Update(func(tx *bbolt.Tx) error {
			for range n {
				seq, err := tx.Bucket(bucketOutbox).NextSequence()
				if err != nil {
					return err
				}
				if err := enqueue(tx, model.Event{Seq: seq}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	fill(MaxOutbox - 1)
	if _, _, err := jr.Accept(model.Task{ID: "1", RequestID: "1"}, nil); err != nil {
		t.Errorf("one place is free: %v", err)
	}
	fill(1)
	if _, _, err := jr.Accept(model.Task{ID: "2", RequestID: "2"}, nil); !errors.Is(err, model.ErrQueueFull) {
		t.Errorf("full: %v", err)
	}
	if again, _, err := jr.Accept(model.Task{ID: "4", RequestID: "1"}, nil); err != nil || again.ID != "1" {
		t.Errorf("a command that was accepted: %v, %v", again, err)
	}
	// Many were delivered and one old is left: the range of the keys
	// is wide, the outbox nearly empty.
	err = jr.db.Update(func(tx *bbolt.Tx) error {
		for seq := uint64(2); seq <= MaxOutbox; seq++ {
			if err := dequeue(tx, model.Event{Seq: seq}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, made, err := jr.Accept(model.Task{ID: "3", RequestID: "3"}, nil); err != nil || !made {
		t.Errorf("one waits: %v", err)
	}
}

// The start makes the index of the outbox anew: no damage
// of the index keeps an event from being delivered.
func TestIndexOfOutboxIsMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	jr, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	err = jr.db.Update(func(tx *bbolt.Tx) error {
		for seq := uint64(1); seq <= 6; seq++ {
			if err := enqueue(tx, model.Event{Seq: seq, Instance: string(rune('a' + seq%2))}); err != nil {
				return err
			}
		}
		if err := errors.Join(tx.DeleteBucket(bucketLines), tx.DeleteBucket(bucketHeads)); err != nil {
			return err
		}
		heads, err := tx.CreateBucket(bucketHeads)
		if err != nil {
			return err
		}
		return heads.Put(outboxKey(99), []byte("nobody"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := jr.Close(); err != nil {
		t.Fatal(err)
	}
	if jr, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer jr.Close()
	var order []uint64
	for {
		heads, err := jr.Heads(1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(heads) == 0 {
			break
		}
		order = append(order, heads[0].Seq)
		if _, err := jr.Settle([]uint64{heads[0].Seq}, "", time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(order, []uint64{1, 2, 3, 4, 5, 6}) {
		t.Errorf("delivered %v", order)
	}
}
