package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

func inAnHour() time.Time { return time.Now().Add(time.Hour) } // no time of change is too young

// TestCatalogueFromTheStore: a host without a catalogue reads only changed
// files, since the last backup has the same facts as the catalogue.
func TestCatalogueFromTheStore(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	want := makeTree(t, dir, 12, 1500, 3)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour}
	run := func() *backup.Result {
		t.Helper()
		o.CatalogueDir = t.TempDir()
		res, err := backup.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, contents(t, v, vault.BackupRef{Instance: o.Instance, ID: res.BackupID}), want)
		if res.WarningCount != 0 {
			t.Errorf("warnings: %v", res.Warnings)
		}
		return res
	}
	first := run()
	if again := run(); again.BytesRead != 0 || again.BytesSent != 0 || again.Unchanged == 0 || again.Bytes != first.Bytes {
		t.Errorf("again: %+v", again)
	}
	// Size and time of content are put back: only the time of change tells.
	change := func(name string) {
		t.Helper()
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		want[name][len(want[name])/2] ^= 1
		if err := errors.Join(os.WriteFile(path, want[name], 0o644), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	change("large/1")
	if r := run(); r.BytesRead == 0 || r.BytesRead > uint64(len(want["large/1"])) {
		t.Errorf("one file of %d bytes changed: read %d", len(want["large/1"]), r.BytesRead)
	}
	// By a clock that is late everything changed just now, and may change again in the same tick.
	o.Instance, o.Now = "late", func() time.Time { return time.Now().Add(-time.Hour) }
	run()
	change("large/0")
	o.Now = inAnHour
	if r := run(); r.Unchanged != 0 || r.BytesRead < first.BytesRead {
		t.Errorf("%d files were not read whose time of change was too young", r.Unchanged)
	}
}

// faulty fails or falsifies one read of a pack.
type faulty struct {
	obs.Store
	left atomic.Int64 // reads of packs before it
	lie  bool
}

var errTorn = errors.New("the test's store tears the line")

func (f *faulty) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	n, err := f.Store.ReadAt(ctx, key, p, off)
	if !strings.Contains(key, "/packs/") || f.left.Add(-1) != 0 {
		return n, err
	}
	if !f.lie {
		return 0, errTorn
	}
	p[len(p)/2] ^= 1
	return n, err
}

// TestStoredCatalogueThatIsDamaged: each damage costs a read, and is a warning.
func TestStoredCatalogueThatIsDamaged(t *testing.T) {
	st := &faulty{Store: obs.NewMemory()}
	v := newVault(t, st)
	dir := volumeDir(t)
	want := makeTree(t, dir, 13, 1500, 1)
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour,
		CatalogueDir: t.TempDir(), Sample: -1, // the sample reads packs too
	}
	for i := range 3 { // stat pages in more packs than one
		name := fmt.Sprintf("small/%d/file %d", i, i)
		want[name] = bytes.Repeat([]byte{byte(i)}, 100)
		if err := os.WriteFile(filepath.Join(dir, name), want[name], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, lie := range []bool{false, true} {
		faults := 0
		for reads := int64(1); ; reads++ {
			o.CatalogueDir, st.lie = t.TempDir(), lie
			st.left.Store(reads)
			res, err := backup.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if st.left.Swap(0) > 0 {
				break // so many reads are not needed
			}
			faults++
			// A byte that is between the pages that are needed does no harm.
			if res.WarningCount != 1 && (!lie || res.BytesRead > 0) || res.Lost != 0 {
				t.Errorf("fault in read %d: warnings %v", reads, res.Warnings)
			}
			compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
		}
		if faults < 3 {
			t.Errorf("only %d reads: the test shows little", faults)
		}
	}
}

// TestStoredCatalogueEndsAnywhere: a backup that is cancelled while
// it reads the store's catalogue ends, with all that it started.
func TestStoredCatalogueEndsAnywhere(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := volumeDir(t)
	makeTree(t, dir, 14, 3000, 0)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: t.TempDir()}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*3*time.Millisecond)
		o.CatalogueDir = t.TempDir()
		_, err := backup.Run(ctx, o)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d ms: %v", i*3, err)
		}
	}
}

// TestPackThatWentAwayIsForgotten: a backup stores the content of a lost pack
// anew; the backup after it reads nothing, and neither catalogue names the pack.
func TestPackThatWentAwayIsForgotten(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := volumeDir(t)
	makeTree(t, dir, 16, 100, 5)
	cache := t.TempDir()
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: cache}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for i, err := range st.List(t.Context(), v.Info().ID+"/packs/") {
		if err := errors.Join(err, st.Delete(t.Context(), i.Key)); err != nil {
			t.Fatal(err)
		}
		break
	}
	if res, err := backup.Run(t.Context(), o); err != nil || res.BytesRead == 0 || res.WarningCount != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, o.CatalogueDir = range []string{cache, t.TempDir()} {
		if res, err := backup.Run(t.Context(), o); err != nil || res.BytesRead != 0 || res.WarningCount != 0 {
			t.Errorf("%+v, %v", res, err)
		}
	}
}

// TestPackThatWentAwayLeavesTheIndex: after the backup that found a pack missing the index
// has no row of it, so that backups of other instances do not run twice for the same loss.
func TestPackThatWentAwayLeavesTheIndex(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 17, 50, 2)
	o := backup.Options{Vault: v, Sources: []backup.Source{{Volume: "data", Root: dir}}, IndexDir: t.TempDir()}
	for i := range 6 { // the old or the new pack has the smaller id, by chance
		o.Instance = fmt.Sprint("i", i)
		for again := range 2 {
			res, err := backup.Run(t.Context(), o)
			if err != nil {
				t.Fatalf("loss %d: %v", i, err)
			}
			if lost := i > 0 && again == 0; (res.WarningCount != 0) != lost || (res.BytesNew > 0) != (again == 0) {
				t.Errorf("loss %d, time %d: %d bytes were new, warnings %v", i, again, res.BytesNew, res.Warnings)
			}
			compare(t, contents(t, v, vault.BackupRef{Instance: o.Instance, ID: res.BackupID}), want)
		}
		forget(t, st, v.Info().ID+"/packs/")
	}
}

// TestPacksThatHoldTheSame: when all packs are gone that hold a
// chunk, the backup finds it out one after the other.
func TestPacksThatHoldTheSame(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 18, 50, 2)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}}
	var segments [][]byte
	var names []string
	for range 3 { // none knows of the one before
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		for info, err := range st.List(t.Context(), v.Info().ID+"/index/") {
			segment := make([]byte, info.Size)
			if _, rerr := st.ReadAt(t.Context(), info.Key, segment, 0); err != nil || rerr != nil && rerr != io.EOF {
				t.Fatal(err, rerr)
			}
			segments, names = append(segments, segment), append(names, info.Key)
		}
		forget(t, st, v.Info().ID+"/index/")
	}
	for i, name := range names {
		if err := st.Put(t.Context(), name, segments[i]); err != nil {
			t.Fatal(err)
		}
	}
	forget(t, st, v.Info().ID+"/packs/")
	res, err := backup.Run(t.Context(), o)
	if err != nil || len(segments) != 3 {
		t.Fatalf("%d segments: %v", len(segments), err)
	}
	if res.WarningCount == 0 || res.BytesNew == 0 {
		t.Errorf("%d bytes were new, warnings %v", res.BytesNew, res.Warnings)
	}
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
}

// TestRoundFindsALoss: a round of a precopy finds out that a pack
// is gone, so that nobody does while the instance stands still.
func TestRoundFindsALoss(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := volumeDir(t)
	makeTree(t, dir, 19, 50, 2)
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: t.TempDir(),
	}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	forget(t, st, v.Info().ID+"/packs/")
	o.Precopy = true
	if res, err := backup.Run(t.Context(), o); err != nil || res.BytesNew == 0 || res.WarningCount != 1 {
		t.Errorf("round: %+v, %v", res, err)
	}
	o.Precopy = false
	if res, err := backup.Run(t.Context(), o); err != nil || res.BytesRead != 0 || res.WarningCount != 0 {
		t.Errorf("backup: %+v, %v", res, err)
	}
}

// forget deletes all objects below prefix.
func forget(t *testing.T, st obs.Store, prefix string) {
	t.Helper()
	for info, err := range st.List(t.Context(), prefix) {
		if err := errors.Join(err, st.Delete(t.Context(), info.Key)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStoredCatalogueOfAChain: pages that lie in the packs of many
// backups are read with few requests.
func TestStoredCatalogueOfAChain(t *testing.T) {
	st := &faulty{Store: obs.NewMemory()}
	v := newVault(t, st)
	dir := volumeDir(t)
	name := func(i int) string {
		return filepath.Join(dir, fmt.Sprintf("folder %d", i/100), fmt.Sprintf("file %d", i))
	}
	const files, days = 8000, 15
	for i := range files {
		if i%100 == 0 {
			if err := os.Mkdir(filepath.Dir(name(i)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(name(i), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour,
		CatalogueDir: t.TempDir(), Sample: -1, // the sample reads packs too
	}
	for day := range days {
		for i := range 3 {
			if err := os.WriteFile(name((day*997+i*2671)%files), []byte("y"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	const many = 1 << 40
	o.CatalogueDir = t.TempDir()
	st.left.Store(many)
	res, err := backup.Run(t.Context(), o)
	if err != nil || res.BytesRead != 0 || res.Packs < days/2 {
		t.Fatalf("%+v, %v", res, err)
	}
	if reads := many - st.left.Load(); reads > int64(res.Packs)+4 { // lists; then each pack once
		t.Errorf("%d requests to read what lies in %d packs", reads, res.Packs)
	}
}

// TestStoredCatalogueOfCoarseTimes: a file system that counts whole
// seconds is known by its mount too.
func TestStoredCatalogueOfCoarseTimes(t *testing.T) {
	config := filepath.Join(t.TempDir(), "mke2fs.conf")
	if err := os.WriteFile(config, []byte("[defaults]\ninode_size = 128\nblocksize = 4096\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MKE2FS_CONFIG", config) // inodes without room for fractions
	dir := testbed.Ext4(t)
	v := newVault(t, obs.NewMemory())
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour}
	cache := t.TempDir()
	for _, c := range []struct {
		dir       string
		unchanged uint64
	}{{cache, 0}, {cache, 1}, {t.TempDir(), 1}} {
		o.CatalogueDir = c.dir
		if res, err := backup.Run(t.Context(), o); err != nil || res.Unchanged != c.unchanged {
			t.Errorf("%d files unchanged, want %d: %v", res.Unchanged, c.unchanged, err)
		}
	}
}
