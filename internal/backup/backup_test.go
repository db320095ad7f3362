package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// makeTree writes a tree of small and large, compressible and random files, by seed.
func makeTree(t testing.TB, dir string, seed uint64, small, large int) map[string][]byte {
	t.Helper()
	rnd := rand.NewChaCha8([32]byte{byte(seed)})
	r := rand.New(rnd)
	want := map[string][]byte{}
	write := func(name string, b []byte) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		want[name] = b
	}
	for i := range small {
		b := make([]byte, r.IntN(20000))
		_, _ = rnd.Read(b)
		if i%3 == 0 {
			b = bytes.Repeat([]byte(fmt.Sprintf("line %d of a log\n", i)), r.IntN(2000))
		}
		write(fmt.Sprintf("small/%d/file %d", i%7, i), b)
	}
	for i := range large {
		b := make([]byte, 1<<20+r.IntN(6<<20))
		_, _ = rnd.Read(b)
		if i%2 == 0 {
			clear(b[len(b)/4 : len(b)/2])
		}
		write(fmt.Sprintf("large/%d", i), b)
	}
	write("empty", nil)
	return want
}

func newVault(t testing.TB, st obs.Store) *vault.Vault {
	t.Helper()
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Create(t.Context(), st, "tenant", nil, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// contents reads every file of a backup through its recipe, without internal/restore.
func contents(t testing.TB, v *vault.Vault, ref vault.BackupRef) map[string][]byte {
	t.Helper()
	got := map[string][]byte{}
	eachFile(t, v, ref, func(name string, content []byte) { got[name] = content })
	return got
}

// eachFile gives every file of a backup, one after the other.
func eachFile(t testing.TB, v *vault.Vault, ref vault.BackupRef, take func(name string, content []byte)) {
	t.Helper()
	m, err := v.Manifest(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.Volumes {
		var name string
		var content []byte // of the file at hand; nil for none
		end := func() {
			if content != nil {
				take(name, content)
			}
			content = nil
		}
		err := v.Items(t.Context(), &m.Volumes[i], func(items []vault.Item) error {
			for _, it := range items {
				if !it.Continued {
					end()
				}
				if it.Kind == tree.File && !it.HasLinkTo && !it.Continued {
					name, content = it.Path, make([]byte, it.Size)
				}
				for _, x := range it.Extents {
					b, err := v.ReadChunk(t.Context(), vault.Content, x.Chunk)
					if err != nil {
						return err
					}
					copy(content[x.Off:], b[x.In:x.In+x.Len])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		end()
	}
}

func compare(t *testing.T, got, want map[string][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("backup has %d files, want %d", len(got), len(want))
	}
	for name, w := range want {
		if g, ok := got[name]; !ok || !bytes.Equal(g, w) {
			t.Errorf("%s: %d bytes (there: %v), want %d", name, len(g), ok, len(w))
		}
	}
}

func TestBackupHoldsEveryByte(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 1, 800, 6)
	o := backup.Options{Vault: v, Instance: "cp-1", Host: "h", Agent: "test", Sources: []backup.Source{{Volume: "data", Root: dir}}}
	first, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := v.Backups(t.Context(), "cp-1")
	if err != nil || len(refs) != 1 || refs[0].ID != first.BackupID {
		t.Fatalf("backups: %v, %v", refs, err)
	}
	compare(t, contents(t, v, refs[0]), want)
	if first.Files != uint64(len(want)) || first.Sampled == 0 || first.BytesNew == 0 || first.WarningCount != 0 {
		t.Errorf("result %+v", first)
	}

	again, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if again.BytesNew != 0 || again.BytesSent != 0 || again.BytesRead != first.BytesRead {
		t.Errorf("again: %d bytes new, %d sent, %d read of %d", again.BytesNew, again.BytesSent, again.BytesRead, first.BytesRead)
	}

	// One file more moves little.
	if err := os.WriteFile(filepath.Join(dir, "small/3/another"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	third, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if third.BytesNew > 2<<20 {
		t.Errorf("one small file more stored %d bytes", third.BytesNew)
	}
	report, err := v.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100})
	if err != nil || len(report.Damaged) != 0 || report.Backups != 3 || report.Chunks == 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// TestInvariantManifestLast watches the order of writes: no
// manifest before the last pack and index.
func TestInvariantManifestLast(t *testing.T) {
	st := &recorder{Store: obs.NewMemory()}
	v := newVault(t, st)
	dir := t.TempDir()
	makeTree(t, dir, 2, 100, 14)
	_, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, k := range st.done {
		kinds = append(kinds, filepath.Base(filepath.Dir(k)))
	}
	if len(kinds) < 4 || kinds[len(kinds)-1] != "i" || kinds[len(kinds)-2] != "index" || slices.Index(kinds, "i") != len(kinds)-1 {
		t.Errorf("order of finished writes: %v", kinds)
	}
	// With a pack that fails, nothing that a reader can see is left.
	st.failPack = true
	if err := os.WriteFile(filepath.Join(dir, "new"), bytes.Repeat([]byte("n"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
	if !errors.Is(err, errFull) {
		t.Fatalf("error is %v", err)
	}
	if refs, err := v.Backups(t.Context(), "i"); err != nil || len(refs) != 1 {
		t.Errorf("backups after a failure: %v, %v", refs, err)
	}
}

// TestAccept: a Run that Accept refuses makes no backup and no catalogue;
// the next Run reads everything again, and sends none of it twice.
func TestAccept(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir, catalogues := t.TempDir(), t.TempDir()
	want := makeTree(t, dir, 3, 50, 4)
	refused := errors.New("the view is gone")
	var so backup.Result
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: catalogues,
		Accept: func(_ context.Context, r *backup.Result) error {
			so = *r
			return refused
		},
	}
	for _, precopy := range []bool{true, false} {
		o.Precopy = precopy
		if _, err := backup.Run(t.Context(), o); !errors.Is(err, refused) {
			t.Fatalf("error is %v", err)
		}
		if so.Files != uint64(len(want)) || so.BytesRead == 0 || so.Unchanged != 0 {
			t.Errorf("round %v: asked with %+v", precopy, so)
		}
		if refs, err := v.Backups(t.Context(), "i"); err != nil || len(refs) != 0 {
			t.Errorf("backups after a refusal: %v, %v", refs, err)
		}
	}
	o.Accept = nil
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Unchanged != 0 || res.BytesRead != so.BytesRead || res.BytesNew != 0 {
		t.Errorf("the next one: %+v", res)
	}
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	if err != nil {
		t.Fatal(err)
	}
	got := contents(t, v, ref)
	for name, b := range want {
		if !bytes.Equal(got[name], b) {
			t.Errorf("%s is another", name)
		}
	}
}

var errFull = errors.New("no room in the test's store")

type recorder struct {
	obs.Store
	mu       sync.Mutex
	done     []string
	failPack bool
}

func (r *recorder) Put(ctx context.Context, key string, body []byte) error {
	if r.failPack && bytes.Contains([]byte(key), []byte("/packs/")) {
		return errFull
	}
	err := r.Store.Put(ctx, key, body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, key)
	return err
}

// TestResumeSendsNothingTwice fails a backup after some packs and
// takes it up with the ids it noted.
func TestResumeSendsNothingTwice(t *testing.T) {
	st := &recorder{Store: obs.NewMemory()}
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 3, 50, 14)
	var mu sync.Mutex
	var ids []string
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}},
		PackIntent: func(id string) error {
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, id)
			if len(ids) == 3 {
				return errFull
			}
			return nil
		},
	}
	if _, err := backup.Run(t.Context(), o); !errors.Is(err, errFull) {
		t.Fatalf("error is %v", err)
	}
	stored := 0
	for _, k := range st.done {
		if filepath.Base(filepath.Dir(filepath.Dir(k))) == "packs" {
			stored++
		}
	}
	if stored == 0 {
		t.Fatal("the first try stored no pack: the test shows nothing")
	}
	o.Resume, o.PackIntent = ids, nil
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.BytesNew+uint64(stored)*(12<<20) > res.BytesRead {
		t.Errorf("%d packs were stored, and yet %d of %d bytes were new", stored, res.BytesNew, res.BytesRead)
	}
	refs, _ := v.Backups(t.Context(), "i")
	compare(t, contents(t, v, refs[0]), want)
}

func TestHolesAreNotRead(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{0, 1 << 36} {
		if _, err := f.WriteAt([]byte("data"), off); err != nil {
			t.Fatal(err)
		}
	}
	res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
	if err != nil {
		t.Fatal(err)
	}
	if res.BytesRead > 64<<10 {
		t.Errorf("read %d bytes of a file with 8", res.BytesRead)
	}
}

// TestUnchangedFilesAreNotRead: with a catalogue, unchanged files are not read, and the
// backup is the same in every byte; each changed file is found however its change hides.
func TestUnchangedFilesAreNotRead(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir, cache := t.TempDir(), t.TempDir()
	want := makeTree(t, dir, 5, 600, 5)
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: cache,
		// no time of change is too young
		Now: func() time.Time { return time.Now().Add(time.Hour) },
	}
	run := func() *backup.Result {
		t.Helper()
		res, err := backup.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := v.Find(t.Context(), "i", res.BackupID)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, contents(t, v, ref), want)
		return res
	}
	first := run()
	again := run()
	if again.BytesRead != 0 || again.BytesSent != 0 || again.Bytes != first.Bytes || again.Unchanged == 0 || again.WarningCount != 0 {
		t.Errorf("again: %+v", again)
	}
	// Size and mtime are put back; the time of change tells.
	name := filepath.Join(dir, "large/1")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	want["large/1"][77] ^= 1
	if err := os.WriteFile(name, want["large/1"], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	// A file takes another's place, one goes, one comes.
	if err := os.Rename(filepath.Join(dir, "small/1/file 1"), filepath.Join(dir, "small/2/file 2")); err != nil {
		t.Fatal(err)
	}
	want["small/2/file 2"] = want["small/1/file 1"]
	delete(want, "small/1/file 1")
	changed := run()
	if changed.BytesRead == 0 || changed.BytesRead > uint64(len(want["large/1"]))+1<<20 {
		t.Errorf("changed: read %d bytes", changed.BytesRead)
	}
	// By a clock that is an hour late everything changed just now,
	// and may change again in the same tick.
	o.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	run()
	if r := run(); r.Unchanged != 0 {
		t.Errorf("%d files whose time of change is now were not read", r.Unchanged)
	}
	// A catalogue that was damaged, or of another vault, costs a read and no more.
	o.Now = func() time.Time { return time.Now().Add(time.Hour) }
	run()
	files, err := filepath.Glob(filepath.Join(cache, "*", "i+data"))
	if err != nil || len(files) != 1 {
		t.Fatalf("catalogues: %v, %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, good[:len(good)/2], append(bytes.Clone(good[:len(good)-40]), good[len(good)-39:]...), bytes.Repeat([]byte("x"), 100)} {
		if err := os.WriteFile(files[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := run(); r.WarningCount != 1 {
			t.Errorf("catalogue of %d bytes: %d warnings", len(bad), r.WarningCount)
		}
	}
	// The next backup of the volume, or a sweep, removes the files that a killed backup left.
	dirOf := filepath.Dir(files[0])
	for _, n := range []string{".new-i+data-1", ".new-other+data-2"} {
		if err := os.WriteFile(filepath.Join(dirOf, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run()
	unfinished := func() []string {
		left, err := filepath.Glob(filepath.Join(cache, "*", ".*"))
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := unfinished(); len(left) != 1 || filepath.Base(left[0]) != ".new-other+data-2" {
		t.Errorf("left in the folder of catalogues: %v", left)
	}
	vault.SweepCatalogues(cache)
	if left := unfinished(); len(left) != 0 {
		t.Errorf("left after the sweep: %v", left)
	}
}

// TestPackThatWentAway: somebody deletes packs from the bucket; the
// next backup is whole all the same.
func TestPackThatWentAway(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 6, 100, 5)
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(),
		Now: func() time.Time { return time.Now().Add(time.Hour) },
	}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for i, err := range st.List(t.Context(), v.Info().ID+"/packs/") {
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Delete(t.Context(), i.Key); err != nil {
			t.Fatal(err)
		}
		break
	}
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.WarningCount != 1 {
		t.Errorf("warnings: %v", res.Warnings)
	}
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, contents(t, v, ref), want)
}

func BenchmarkBackup(b *testing.B) {
	dir := b.TempDir()
	makeTree(b, dir, 4, 2000, 30)
	for b.Loop() {
		v := newVault(b, obs.NewMemory())
		res, err := backup.Run(b.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(res.BytesRead))
	}
}
