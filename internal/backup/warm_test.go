package backup_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

// TestRoundInPlaceAfterARemount: a round that reads a volume in place while its instance runs
// leaves little to read in the hold, also when nothing of the last backup is believed any more.
func TestRoundInPlaceAfterARemount(t *testing.T) {
	d := testbed.NewPowerDisk(t, "ext4", 512<<20)
	dir := filepath.Join(d.Point, "volume")
	makeTree(t, dir, 41, 200, 3)
	v := newVault(t, obs.NewMemory())
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: t.TempDir(),
	}
	first, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	d.Mount()
	o.Precopy = true
	round, err := backup.Run(t.Context(), o)
	if err != nil || round.BytesRead != first.BytesRead || round.BytesNew != 0 {
		t.Fatalf("the round read %d bytes of %d, %d were new: %v", round.BytesRead, first.BytesRead, round.BytesNew, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "late"), []byte("written after the round"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Precopy, o.Sources[0].Quiet = false, true
	if res, err := backup.Run(t.Context(), o); err != nil || res.BytesRead != uint64(len("written after the round")) || res.BytesSent > first.BytesSent/2 {
		t.Errorf("the hold read %d bytes and sent %d: %v", res.BytesRead, res.BytesSent, err)
	}
}

// TestRoundInPlaceBelievesNoYoungFile: what changed in the last minute is read again in the hold.
func TestRoundInPlaceBelievesNoYoungFile(t *testing.T) {
	dir := volumeDir(t)
	makeTree(t, dir, 42, 20, 1)
	o := backup.Options{
		Vault: newVault(t, obs.NewMemory()), Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(), Precopy: true,
	}
	round, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Precopy, o.Sources[0].Quiet = false, true
	if res, err := backup.Run(t.Context(), o); err != nil || res.Unchanged != 0 || res.BytesRead != round.BytesRead || res.BytesNew != 0 {
		t.Errorf("the hold took %d files as unchanged: %v", res.Unchanged, err)
	}
}

// TestRoundInPlaceOfABusyVolume: while a round reads in place, an instance
// writes, makes, renames and removes files in every way. The round does not
// fail, raises no alarm, and the backup in the hold is exact. By a clock that
// makes all changes old, the test finds content that a round has read too early.
func TestRoundInPlaceOfABusyVolume(t *testing.T) {
	d := testbed.NewPowerDisk(t, "ext4", 512<<20)
	dir := filepath.Join(d.Point, "volume")
	fillForCut(t, d, dir, false)
	v := newVault(t, obs.NewMemory())
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(),
		Drifted: func(d *backup.DriftError) { t.Errorf("alarm: %v", d) },
	}
	for round := range 4 {
		stop := make(chan struct{})
		var busy sync.WaitGroup
		busy.Go(func() {
			r := rand.New(rand.NewPCG(uint64(round), 1))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				for name, size := range cutFiles {
					f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
					if err != nil {
						t.Error(err)
						return
					}
					how := []string{"fdatasync", "O_DIRECT", "writeback", "mmap"}[r.IntN(4)]
					writers[how](t, f, bytes.Repeat(fmt.Appendf(nil, "%04d", i%10000), size/4))
					f.Close()
				}
				name := filepath.Join(dir, fmt.Sprint("other", r.IntN(20)))
				// nobody needs it
				_ = os.WriteFile(name+".new", fmt.Append(nil, "content ", i), 0o600)
				_ = os.Rename(name+".new", name)
				_ = os.Remove(filepath.Join(dir, fmt.Sprint("other", r.IntN(20))))
			}
		})
		o.Precopy, o.Sources[0].Quiet = true, false
		for range 3 {
			if _, err := backup.Run(t.Context(), o); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		busy.Wait()
		o.Precopy, o.Sources[0].Quiet = false, true
		res, err := backup.Run(t.Context(), o)
		if err != nil || res.Lost != 0 {
			t.Fatalf("%v, warnings %v", err, res.Warnings)
		}
		holdsTree(t, v, res.BackupID, dir)
	}
}
