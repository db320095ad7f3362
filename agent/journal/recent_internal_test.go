package journal

import (
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// The last events stay, delivered or not; older events go, and the list says where it begins.
func TestRecentEventsAreBounded(t *testing.T) {
	jr, err := Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer jr.Close()
	if events, oldest, newest, err := jr.Recent(0, 10); err != nil || len(events)+int(oldest)+int(newest) != 0 {
		t.Errorf("an empty journal: %d, %d to %d, %v", len(events), oldest, newest, err)
	}
	const extra = 10
	err = jr.db.Update(func(tx *bbolt.Tx) error {
		if err := put(tx, bucketJobs, []byte("j"), &model.Job{ID: "j", Tenant: "t"}); err != nil {
			return err
		}
		for i := range keepRecent + extra {
			id := "j"
			if i%2 == 1 {
				id = "forgotten"
			}
			if err := emit(tx, &model.Job{ID: id, Instance: "i"}, time.Unix(1, 0), func(*model.Job) (model.Event, error) { return model.Event{Type: model.EventStarted}, nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq < 100; seq++ {
		if _, err := jr.Settle([]uint64{seq}, "", time.Unix(2, 0)); err != nil {
			t.Fatal(err)
		}
	}
	events, oldest, newest, err := jr.Recent(0, 3)
	if err != nil || oldest != extra+1 || newest != keepRecent+extra || len(events) != 3 || events[0].Seq != extra+1 || events[0].Tenant != "t" || events[1].Tenant != "" {
		t.Errorf("%+v, %d to %d, %v", events, oldest, newest, err)
	}
	if events, _, _, err := jr.Recent(newest-1, 3); err != nil || len(events) != 1 || events[0].Seq != newest {
		t.Errorf("%+v, %v", events, err)
	}
	if events, _, _, err := jr.Recent(newest+5, 3); err != nil || len(events) != 0 {
		t.Errorf("%+v, %v", events, err)
	}
}
