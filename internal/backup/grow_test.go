package backup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// volumeDir is a new file system: each backup writes back the volume's file system, and
// the file system of the temporary folder has more to write than the changes of the test.
func volumeDir(t *testing.T) string { return testbed.Filesystem(t, "xfs", 64<<30) }

// TestFewChangesAddKilobytes: a backup of very many files, of which ten
// changed, stores neither the other files nor the metadata of the last
// backup once more. HOLDFAST_FILES has another number of files than 100,000.
func TestFewChangesAddKilobytes(t *testing.T) {
	files := 100_000
	if s := os.Getenv("HOLDFAST_FILES"); s != "" {
		var err error
		if files, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := volumeDir(t)
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("d%d/e%d/file-%d", i/10_000, i/100%100, i)) }
	for i := range files {
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(name(i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(name(i), fmt.Appendf(nil, "content of file %d", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	st := obs.NewMemory()
	v := newVault(t, st)
	stored := func() (n int64) {
		for info, err := range st.List(t.Context(), v.Info().ID+"/") {
			if err != nil {
				t.Fatal(err)
			}
			n += info.Size
		}
		return n
	}
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: t.TempDir(),
	}
	run := func() (*backup.Result, int64) {
		before, start := stored(), time.Now()
		res, err := backup.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		added := stored() - before
		t.Logf("%d files: read %d bytes, added %d to the store, took %v", res.Files, res.BytesRead, added, time.Since(start).Round(time.Millisecond))
		return res, added
	}
	run()
	change := func(round int) {
		for i := range 10 {
			if err := os.WriteFile(name(i*files/10+37*round), fmt.Appendf(nil, "%d: other content", round), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// the host's catalogue, and the store's
	for round, cache := range []string{o.CatalogueDir, t.TempDir()} {
		change(round)
		o.CatalogueDir = cache
		if res, added := run(); added > 128<<10 || res.BytesRead > 1000 {
			t.Errorf("round %d: ten of %d files changed: read %d bytes, added %d to the store", round, files, res.BytesRead, added)
		}
	}
	ref, err := v.Newest(t.Context(), "i")
	if err != nil {
		t.Fatal(err)
	}
	if report, err := v.Verify(t.Context(), vault.VerifyOptions{Instance: "i", Backup: ref.ID, ReadDataPercent: 100}); err != nil || len(report.Damaged) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
}
