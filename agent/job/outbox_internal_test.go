package job

import (
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// A control plane that commands and takes no reports does not fill the disk.
func TestFullOutboxRefusesCommands(t *testing.T) {
	jr, err := OpenJournal(filepath.Join(t.TempDir(), "journal"))
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
				if err := enqueue(tx, Event{Seq: seq}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	fill(maxOutbox - 1)
	if _, _, err := jr.accept(Task{ID: "1", RequestID: "1"}, nil); err != nil {
		t.Errorf("one place is free: %v", err)
	}
	fill(1)
	if _, _, err := jr.accept(Task{ID: "2", RequestID: "2"}, nil); !errors.Is(err, ErrQueueFull) {
		t.Errorf("full: %v", err)
	}
	if again, _, err := jr.accept(Task{ID: "4", RequestID: "1"}, nil); err != nil || again.ID != "1" {
		t.Errorf("a command that was accepted: %v, %v", again, err)
	}
	// Many were delivered and one old is left: the range of the keys is wide, the outbox nearly empty.
	err = jr.db.Update(func(tx *bbolt.Tx) error {
		for seq := uint64(2); seq <= maxOutbox; seq++ {
			if err := dequeue(tx, Event{Seq: seq}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, made, err := jr.accept(Task{ID: "3", RequestID: "3"}, nil); err != nil || !made {
		t.Errorf("one waits: %v", err)
	}
}
