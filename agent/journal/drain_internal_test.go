package journal

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// BenchmarkDrain settles 2,000 events of 100 instances, one after the
// other, as a deliverer does whose control plane is back after an outage.
func BenchmarkDrain(b *testing.B) {
	const events, instances = 2000, 2000
	data := []byte(`{"receipt":"` + string(make([]byte, 0)) + fmt.Sprintf("%03000d", 1) + `"}`)
	for b.Loop() {
		jr, err := Open(filepath.Join(b.TempDir(), "journal"))
		if err != nil {
			b.Fatal(err)
		}
		err = jr.db.Update(func(tx *bbolt.Tx) error {
			for i := range events {
				j := &model.Job{ID: "j", Instance: fmt.Sprint("phone-", i%instances)}
				if err := emit(tx, j, time.Now(), func(*model.Job) (model.Event, error) { return model.Event{Type: model.EventStarted, Data: data}, nil }); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for {
			heads, err := jr.Heads(8, nil)
			if err != nil {
				b.Fatal(err)
			}
			if len(heads) == 0 {
				break
			}
			if _, err := jr.Settle([]uint64{heads[0].Seq}, "", time.Now()); err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != events {
			b.Fatal(n)
		}
		if err := jr.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
