package backup_test

import (
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/evidence"
	"holdfast/internal/obs"
)

// TestClockThatWasSetBackHidesNoChange: what changes after the clock was
// set back may have the time of an earlier change. So files whose time
// of change the clock could show again are read, and all others are not.
func TestClockThatWasSetBackHidesNoChange(t *testing.T) {
	dir := volumeDir(t)
	makeTree(t, dir, 21, 40, 2)
	for _, c := range []struct {
		name string
		// the step of the clock while the first backup runs, and after it
		first, again time.Duration
		known        bool
	}{
		{"not set", 0, 0, true},
		{"set forward", 0, 5 * time.Hour, true},
		{"set back to a time after all changes", 0, -30 * time.Minute, true},
		{"set back to a time before the changes", 0, -2 * time.Hour, false},
		{"set back while the backup runs", -2 * time.Hour, -2 * time.Hour, false},
		{"set back while it runs, and forward again", -2 * time.Hour, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVault(t, obs.NewMemory())
			var set atomic.Int64
			var asked atomic.Int64
			o := backup.Options{
				// By this clock all files changed an hour ago.
				Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: t.TempDir(),
				Clock: func() time.Duration {
					by := time.Duration(set.Load())
					if asked.Add(1) == 1 {
						by = 0 // it is set right after the backup began
					}
					return evidence.ClockOffset() + by
				},
			}
			set.Store(int64(c.first))
			if _, err := backup.Run(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			set.Store(int64(c.again))
			for _, where := range []string{"this host", "the store"} {
				if where == "the store" {
					o.CatalogueDir = t.TempDir()
				}
				before := o
				before.Precopy = where == "this host" // leaves the newest backup as it is
				res, err := backup.Run(t.Context(), before)
				if err != nil {
					t.Fatal(err)
				}
				if (res.Unchanged == res.Files) != c.known || !c.known && res.Unchanged > 0 {
					t.Errorf("by %s %d of %d files are known, want all: %v", where, res.Unchanged, res.Files, c.known)
				}
			}
		})
	}
}
