package backup_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/obs"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// imageContent reads the image of a backup through its recipe.
func imageContent(t *testing.T, v *vault.Vault, id string, size int) []byte {
	t.Helper()
	m, err := v.Manifest(t.Context(), vault.BackupRef{Instance: "i", ID: id})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	err = v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			for _, x := range it.Extents {
				b, err := v.ReadChunk(t.Context(), vault.Content, x.Chunk)
				if err != nil {
					return err
				}
				copy(got[x.Off:], b[x.In:x.In+x.Len])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// imageLiar says that nothing of an image changed.
type imageLiar struct{ known.Changes }

func (imageLiar) Image() ([]snapshot.Range, bool) { return nil, true }

// TestImagesReadWhatDiffersFromTheBase: thirty backups of an image on xfs, each
// by the clone that the one before left, read little more than what changed and
// hold every byte; a base that says that nothing changed is found out.
func TestImagesReadWhatDiffersFromTheBase(t *testing.T) {
	testbed.Need(t, "xfs")
	const size = 32 << 20
	path := filepath.Join(testbed.Xfs(t), "image")
	rnd := rand.NewChaCha8([32]byte{4})
	r := rand.New(rnd)
	content := make([]byte, size)
	_, _ = rnd.Read(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := snapshot.ByName(snapshot.NameReflink)
	if err != nil {
		t.Fatal(err)
	}
	v, on := newVault(t, obs.NewMemory()), backup.NewPool(backup.PoolOptions{})
	var base *snapshot.Snapshot
	var cat string
	back := func(name string, lie bool) *backup.Result {
		t.Helper()
		snap, err := p.Create(t.Context(), snapshot.Request{Volume: path, Host: "h", Job: name, Name: "v"})
		if err != nil {
			t.Fatal(err)
		}
		s := backup.Source{Volume: "data", Root: snap.Image}
		if base != nil {
			c, err := p.Changed(t.Context(), base.Base(), snap)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s.Base = &known.Base{Catalogue: cat, Changes: c}
			if lie {
				s.Base.Changes = imageLiar{c}
			}
		}
		res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{s}, Pool: on})
		if err != nil {
			t.Fatal(err)
		}
		if base != nil {
			if err := p.Remove(t.Context(), base.Ref); err != nil {
				t.Fatal(err)
			}
		}
		base, cat = snap, res.Catalogues["data"]
		if !bytes.Equal(imageContent(t, v, res.BackupID, size), content) {
			t.Fatalf("backup %s differs from the image", name)
		}
		return res
	}
	change := func(off int64, n int) {
		t.Helper()
		_, _ = rnd.Read(content[off : off+int64(n)])
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(content[off:off+int64(n)], off); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	back("first", false)
	for round := range 30 {
		const piece = 512 << 10
		change(r.Int64N(size-piece), piece)
		res := back("r"+strconv.Itoa(round), false)
		if res.BytesRead > piece*3/2 {
			t.Errorf("round %d: %d bytes read for %d that changed", round, res.BytesRead, piece)
		}
		if res.Checked == 0 {
			t.Errorf("round %d: nothing was checked", round)
		}
	}
	change(0, size)
	res := back("lie", true)
	if len(res.Drifts) != 1 || res.Drifts[0].By != known.ByBase || res.BytesRead != size {
		t.Errorf("drifts %v, %d bytes read", res.Drifts, res.BytesRead)
	}
	// A base of a backup that is not known is not looked at.
	change(1<<20, 1000)
	cat = "unknown"
	if res := back("unknown", false); res.BytesRead != size {
		t.Errorf("%d bytes read by a base of an unknown backup", res.BytesRead)
	}
	if err := p.Remove(t.Context(), base.Ref); err != nil {
		t.Fatal(err)
	}
}

// TestImageReadsWhatDiffersFromTheBase: a backup of an image on xfs reads at most one
// and a half times what changed, counted for the process too. HOLDFAST_BASE_MIB has
// another size than 128; of 8 GiB 64 MiB change, in ranges of half a MiB at any offset.
func TestImageReadsWhatDiffersFromTheBase(t *testing.T) {
	testbed.Need(t, "xfs")
	mib := baseMiB(t)
	path := filepath.Join(testbed.Filesystem(t, "xfs", 64<<30), "image")
	store, err := obs.Open(t.Context(), "file://"+t.TempDir(), obs.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	provider, err := snapshot.ByName(snapshot.NameReflink)
	if err != nil {
		t.Fatal(err)
	}
	view := func(name string) *snapshot.Snapshot {
		t.Helper()
		snap, err := provider.Create(t.Context(), snapshot.Request{Volume: path, Host: "h", Job: name, Name: "v"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = provider.Remove(t.Context(), snap.Ref) }) // unmounted in any case
		return snap
	}
	rnd := rand.NewChaCha8([32]byte{5})
	r := rand.New(rnd)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, io.LimitReader(rnd, int64(mib)<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	v, on := newVault(t, store), backup.NewPool(backup.PoolOptions{})
	o := backup.Options{Vault: v, Instance: "i", IndexDir: t.TempDir(), Pool: on}
	base := view("first")
	o.Sources = []backup.Source{{Volume: "data", Root: base.Image}}
	full, err := backup.Run(t.Context(), o)
	if err != nil || full.BytesRead != uint64(mib)<<20 {
		t.Fatalf("the first backup: %+v, %v", full, err)
	}
	const piece = 512 << 10
	pieces := max(8, mib/64)
	for range pieces {
		overwriteAt(t, rnd, path, r.Int64N(int64(mib)<<20-piece), piece)
	}
	changed := int64(pieces * piece)

	before := readByProcess(t)
	snap := view("second")
	c, err := provider.Changed(t.Context(), base.Base(), snap)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o.Sources = []backup.Source{{Volume: "data", Root: snap.Image, Base: &known.Base{Catalogue: full.Catalogues["data"], Changes: c}}}
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	read := readByProcess(t) - before
	t.Logf("an image of %d MiB, %d bytes changed: %d read of it, %d by the process with its metadata, %d new, %d checked",
		mib, changed, res.BytesRead, read, res.BytesNew, res.Checked)
	if most := changed * 3 / 2; int64(res.BytesRead) > most || res.BytesRead == 0 {
		t.Errorf("read %d bytes of the image, want at most %d", res.BytesRead, most)
	}
	// rows of the recipe and of the index; the sample and the checks
	if most := changed*3/2 + int64(mib)*1024 + 4<<20; read > most {
		t.Errorf("the process read %d bytes, want at most %d with metadata", read, most)
	}
	sameAsView(t, v, res.BackupID, snap.Image)
}

// sameAsView compares the image of a backup with a view of it, piece by piece.
func sameAsView(t *testing.T, v *vault.Vault, id, path string) {
	t.Helper()
	m, err := v.Manifest(t.Context(), vault.BackupRef{Instance: "i", ID: id})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := int64(0)
	same := func(want []byte) error { // what follows, in the view
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, end); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Errorf("the backup differs at %d, within %d bytes", end, len(want))
		}
		end += int64(len(want))
		return nil
	}
	err = v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			for _, x := range it.Extents {
				if err := same(make([]byte, x.Off-end)); err != nil {
					return err
				}
				b, err := v.ReadChunk(t.Context(), vault.Content, x.Chunk)
				if err == nil {
					err = same(b[x.In : x.In+x.Len])
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != end {
		t.Errorf("the backup ends at %d, the view at %d (%v)", end, st.Size(), err)
	}
}

// TestImageRoundsReadWhatDiffers: each round of pre-copy, and the backup
// after them, reads only the ranges that were written since the round before;
// a catalogue that is gone, or belongs to another round, costs a full read.
func TestImageRoundsReadWhatDiffers(t *testing.T) {
	testbed.Need(t, "xfs")
	const size, piece = 32 << 20, 256 << 10
	path := filepath.Join(testbed.Xfs(t), "image")
	provider, err := snapshot.ByName(snapshot.NameReflink)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.NewChaCha8([32]byte{6})
	content := make([]byte, size)
	_, _ = rnd.Read(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	st := obs.NewMemory()
	o := backup.Options{
		Vault: newVault(t, st), Instance: "i", CatalogueDir: t.TempDir(), IndexDir: t.TempDir(), Pool: backup.NewPool(backup.PoolOptions{}),
	}
	var base *snapshot.Snapshot
	var cat, old string // of the base, and of the one before
	n := 0
	back := func(precopy bool, what string, least, most uint64) *backup.Result {
		t.Helper()
		n++
		snap, err := provider.Create(t.Context(), snapshot.Request{Volume: path, Host: "h", Job: strconv.Itoa(n), Name: "v"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = provider.Remove(t.Context(), snap.Ref) }) // unmounted in any case
		s := backup.Source{Volume: "data", Root: snap.Image}
		if base != nil {
			c, err := provider.Changed(t.Context(), base.Base(), snap)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s.Base = &known.Base{Catalogue: cat, Changes: c}
		}
		o.Sources, o.Precopy = []backup.Source{s}, precopy
		res, err := backup.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if res.BytesRead < least || res.BytesRead > most {
			t.Errorf("%s: %d bytes read, want %d to %d", what, res.BytesRead, least, most)
		}
		base, old, cat = snap, cat, res.Catalogues["data"]
		if cat == "" {
			t.Fatalf("%s: the view can't be a base", what)
		}
		if !precopy {
			sameAsView(t, o.Vault, res.BackupID, snap.Image)
		}
		return res
	}
	write := func(off int64) { overwriteAt(t, rnd, path, off, piece) }
	back(true, "first round", size, size)
	write(1 << 20)
	back(true, "second round", piece, 2*piece)
	write(9 << 20)
	back(true, "third round", piece, 2*piece)
	write(17<<20 + 1000)
	back(false, "backup", piece, 2*piece)
	write(20 << 20)
	back(true, "round from the backup", piece, 2*piece)
	write(20<<20 + 100)
	back(false, "backup from that", piece, 2*piece)

	back(true, "another round", 0, piece)
	back(true, "and one more", 0, piece)
	cat = old
	back(true, "with the catalogue of the round before", size, size)
	if err := os.RemoveAll(o.CatalogueDir); err != nil {
		t.Fatal(err)
	}
	back(false, "without a catalogue", size, size)

	// The packs of the round go away. The Run notices that before the
	// manifest names them, and then reads and stores everything anew.
	write(25 << 20)
	back(true, "round whose packs go away", piece, 2*piece)
	forget(t, st, o.Vault.Info().ID+"/packs/")
	if res := back(false, "backup after that", size, size); res.BytesNew < size {
		t.Errorf("%d bytes are new after all packs went away", res.BytesNew)
	}
}
