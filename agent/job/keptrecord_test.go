package job_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/journal/journaltest"
	"holdfast/agent/model"
)

// TestDamagedRecordOfKeptContent: a record of kept content that can't be understood is set aside
// and told of, and hides no other record. The content itself is adopted by the notes on it.
func TestDamagedRecordOfKeptContent(t *testing.T) {
	for name, damage := range map[string]func(b *journaltest.Bucket, k, v []byte) error{
		"damaged": journaltest.Damaged, "of another job": journaltest.Replaced(`"job":"`, `"job":"0`),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{7}
				had(3)(w)
				opts := job.Options{KeepAside: 30 * time.Hour}
				l := w.start(-1, opts)
				if err := prepared(7).do(l); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Minute)
				l.stop()
				journaltest.Edit(t, w.journal, journaltest.First("aside", "phone", damage))
				journaltest.Edit(t, w.journal, func(tx *journaltest.Tx) error {
					return tx.Bucket([]byte("aside")).Put([]byte("other\x00j1"), []byte(`{"instance":"other","job":"j1","volumes":[]}`))
				})
				l = w.start(-1, opts)
				found, err := l.j.Unknown()
				if err != nil || len(found) != 1 || !strings.HasPrefix(found[0].About(), "aside ") {
					t.Errorf("unknown: %+v, %v", found, err)
				}
				time.Sleep(5 * time.Minute)
				all, err := l.m.Kept()
				if err != nil || len(all) != 2 {
					t.Fatalf("kept: %+v, %v", all, err)
				}
				for _, s := range all {
					if s.Instance == "phone" && (s.Adopted.IsZero() || len(s.Volumes) != 2 || s.Replaced.Files != 2) {
						t.Errorf("adopted as %+v", s)
					}
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}
