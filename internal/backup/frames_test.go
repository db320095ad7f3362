package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/snapshot"
	"holdfast/internal/vault"
)

// database is a file that begins as a SQLite database does, and is changed in place.
type database struct {
	t    *testing.T
	path string
	src  *rand.Rand
	b    []byte
}

const databaseHeader = "SQLite format 3\x00"

func newDatabase(t *testing.T, path string, size int, seed uint64) *database {
	d := &database{t: t, path: path, src: rand.New(rand.NewPCG(seed, 9)), b: make([]byte, size)}
	d.fill(d.b)
	copy(d.b, databaseHeader)
	if err := os.WriteFile(path, d.b, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *database) fill(p []byte) {
	for i := range p {
		p[i] = byte(d.src.Uint32())
	}
}

// change writes n random bytes at off.
func (d *database) change(off, n int) {
	d.t.Helper()
	n = min(n, len(d.b)-off)
	d.fill(d.b[off : off+n])
	f, err := os.OpenFile(d.path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(d.b[off:off+n], int64(off))
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// resize cuts the file, or makes it grow by random bytes.
func (d *database) resize(size int) {
	d.t.Helper()
	old := len(d.b)
	if size < old {
		d.b = d.b[:size]
		if err := os.Truncate(d.path, int64(size)); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	d.b = append(d.b, make([]byte, size-old)...)
	d.change(old, size-old)
}

func runBackup(t *testing.T, o backup.Options) *backup.Result {
	t.Helper()
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (d *database) compare(v *vault.Vault, res *backup.Result) {
	d.t.Helper()
	ref, err := v.Find(d.t.Context(), "i", res.BackupID)
	if err != nil {
		d.t.Fatal(err)
	}
	compare(d.t, contents(d.t, v, ref), map[string][]byte{"db": d.b})
}

// extentsOf returns the extents of the database in a backup.
func extentsOf(t *testing.T, v *vault.Vault, res *backup.Result) (extents []vault.Extent) {
	t.Helper()
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.Manifest(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	err = v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			extents = append(extents, it.Extents...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return extents
}

// restoreInto puts the newest backup in the place of dir. The
// catalogue that a restore leaves has no sums.
func restoreInto(t *testing.T, v *vault.Vault, dir, catalogues string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	ref, err := v.Newest(t.Context(), "i")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dir, CatalogueDir: catalogues}); err != nil {
		t.Fatal(err)
	}
}

// TestDatabasePages: rewritten pages of a database cost little more than their
// own bytes, whether the host knows much or little of the backup before.
func TestDatabasePages(t *testing.T) {
	for name, c := range map[string]struct {
		most int // bytes for a change
		do   func(t *testing.T, v *vault.Vault, dir, catalogues string)
	}{
		"catalogue": {most: vault.PieceSize, do: func(*testing.T, *vault.Vault, string, string) {}},
		"restored":  {most: vault.PieceSize, do: restoreInto},
		"stat pages": {most: vault.PieceSize, do: func(t *testing.T, _ *vault.Vault, _, catalogues string) {
			if err := os.RemoveAll(catalogues); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t, obs.NewMemory())
			dir, catalogues := filepath.Join(t.TempDir(), "tree"), t.TempDir()
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			d := newDatabase(t, filepath.Join(dir, "db"), 6<<20+100, 9)
			o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: catalogues}
			runBackup(t, o)
			c.do(t, v, dir, catalogues)
			const changes = 40
			for i := range changes {
				d.change(4096*(1+37*i), 4096)
			}
			res := runBackup(t, o)
			if res.BytesNew > uint64(changes*c.most) {
				t.Errorf("%d pages of 4 KiB stored %d bytes anew", changes, res.BytesNew)
			}
			d.compare(v, res)
			if res = runBackup(t, o); res.BytesNew != 0 {
				t.Errorf("without a change, %d bytes were stored", res.BytesNew)
			}
		})
	}
}

// unreadStore counts the reads of packs, and answers none once it is away.
type unreadStore struct {
	obs.Store
	away  bool
	reads atomic.Int64
}

func (s *unreadStore) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if s.away && strings.Contains(key, "/packs/") {
		s.reads.Add(1)
		return 0, errors.New("no answer")
	}
	return s.Store.ReadAt(ctx, key, p, off)
}

// TestDatabaseIsNotComparedForEver: a store that does not answer reads is not asked
// for each frame in turn, since each answer may take long. Nothing is lost by it.
func TestDatabaseIsNotComparedForEver(t *testing.T) {
	st := &unreadStore{Store: obs.NewMemory()}
	v := newVault(t, st)
	dir, catalogues := filepath.Join(t.TempDir(), "tree"), t.TempDir()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const frame, frames = 128 << 10, 60
	d := newDatabase(t, filepath.Join(dir, "db"), frames*frame, 4)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: catalogues, Sample: -1}
	runBackup(t, o)
	restoreInto(t, v, dir, catalogues)
	for i := range frames {
		d.change(i*frame+4096, 100)
	}
	st.away = true
	res := runBackup(t, o)
	st.away = false
	d.compare(v, res)
	if n := st.reads.Load(); n == 0 || n > frames/2 {
		t.Errorf("%d reads of packs for %d frames", n, frames)
	}
}

// TestFramesStayWhole: however often pages change, a frame lies in
// few chunks, so that a restore asks for few.
func TestFramesStayWhole(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	const frame = 128 << 10
	d := newDatabase(t, filepath.Join(dir, "db"), 12*frame+5000, 3)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir()}
	var res *backup.Result
	for range 12 {
		for range 8 {
			d.change(d.src.IntN(len(d.b)/4096)*4096+16, 4000)
		}
		res = runBackup(t, o)
		d.compare(v, res)
		count := map[int64]int{}
		for _, x := range extentsOf(t, v, res) {
			count[x.Off/frame]++
		}
		for i, n := range count {
			if n > 12 {
				t.Fatalf("frame %d has %d extents", i, n)
			}
		}
	}
}

// changedRanges is a base that tells the exact changes, as a snapshot does.
type changedRanges struct{ ranges []snapshot.Range }

func (c *changedRanges) Inode(uint64) bool { return len(c.ranges) > 0 }
func (c *changedRanges) File(uint64, int64) ([]snapshot.Range, bool, error) {
	return c.ranges, true, nil
}

// TestPacksOfDatabasesGone: pieces in packs that are gone are
// stored anew, whatever tells that the pieces did not change.
func TestPacksOfDatabasesGone(t *testing.T) {
	for name, changed := range map[string]snapshot.Range{
		"sums":         {},
		"base":         {Offset: 300 << 10, Length: 4096},
		"another file": {},
	} {
		t.Run(name, func(t *testing.T) {
			st := obs.NewMemory()
			v := newVault(t, st)
			dir := t.TempDir()
			d := newDatabase(t, filepath.Join(dir, "db"), 900<<10, 6)
			o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir()}
			runBackup(t, o)
			first := packKeys(t, st)
			d.change(100<<10, 4096)
			res := runBackup(t, o) // its pieces lie in two packs
			if err := st.Delete(t.Context(), first...); err != nil {
				t.Fatal(err)
			}
			d.change(300<<10, 4096)
			switch name {
			case "base":
				o.Sources[0].Base = &known.Base{Catalogue: res.Catalogues["data"], Changes: &changedRanges{[]snapshot.Range{changed}}}
			case "another file":
				if err := os.WriteFile(d.path+".new", d.b, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(d.path+".new", d.path); err != nil {
					t.Fatal(err)
				}
			}
			res = runBackup(t, o)
			d.compare(v, res)
			if len(res.Damaged) == 0 {
				t.Error("nobody is told that packs are gone")
			}
		})
	}
}

// TestDatabasesAtRandom backs up a database that is changed, cut, grown, replaced and restored
// at random, with all ways of knowing what changed. Each backup holds the file as it is.
func TestDatabasesAtRandom(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			v := newVault(t, obs.NewMemory())
			dir, catalogues := filepath.Join(t.TempDir(), "tree"), t.TempDir()
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			d := newDatabase(t, filepath.Join(dir, "db"), 1500<<10, seed)
			o := backup.Options{Vault: v, Instance: "i", CatalogueDir: catalogues}
			last := ""
			for range 25 {
				base := &changedRanges{}
				based := d.src.IntN(2) == 0
				for range d.src.IntN(6) {
					off, n := d.src.IntN(len(d.b)-64)+20, 1+d.src.IntN(40<<10)
					if d.src.IntN(2) == 0 {
						off, n = max(off/4096*4096, 4096), 4096
					}
					n = min(n, len(d.b)-off)
					if n <= 0 {
						continue
					}
					d.change(off, n)
					base.ranges = append(base.ranges, snapshot.Range{Offset: int64(off), Length: int64(n)})
				}
				switch d.src.IntN(8) {
				case 0:
					size := 600<<10 + d.src.IntN(1200<<10)
					from := min(len(d.b), size)
					d.resize(size)
					base.ranges = append(base.ranges, snapshot.Range{Offset: int64(from), Length: int64(size-from) + 1})
				case 1: // a hole
					d.b = append(d.b, make([]byte, 300<<10)...)
					from := len(d.b) - 300<<10
					if err := os.Truncate(d.path, int64(len(d.b))); err != nil {
						t.Fatal(err)
					}
					d.change(len(d.b)-4096, 4096)
					base.ranges = append(base.ranges, snapshot.Range{Offset: int64(from), Length: 300 << 10})
				case 2: // another file with the same name
					if err := os.WriteFile(d.path+".new", d.b, 0o600); err != nil {
						t.Fatal(err)
					}
					if err := os.Rename(d.path+".new", d.path); err != nil {
						t.Fatal(err)
					}
					based = false
				case 3: // nothing is known of the pieces
					if err := os.RemoveAll(catalogues); err != nil {
						t.Fatal(err)
					}
					based = false
				}
				o.Sources = []backup.Source{{Volume: "data", Root: dir}}
				if based && last != "" {
					o.Sources[0].Base = &known.Base{Catalogue: last, Changes: base}
				}
				res := runBackup(t, o)
				d.compare(v, res)
				last = res.Catalogues["data"]
			}
		})
	}
}

// TestUnchangedDatabasesKeepTheirSums: a backup that finds databases
// unchanged knows their pieces as well as the backup that read them.
func TestUnchangedDatabasesKeepTheirSums(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	want := map[string][]byte{}
	var all []*database
	for i := range 3 {
		for _, name := range []string{fmt.Sprintf("a%d", i), fmt.Sprintf("c%d", i)} {
			want[name] = []byte("small " + name)
			if err := os.WriteFile(filepath.Join(dir, name), want[name], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, newDatabase(t, filepath.Join(dir, fmt.Sprintf("b%d", i)), 1<<20+i*5000, uint64(i)))
	}
	// else the files are too young to be known
	inAnHour := func() time.Time { return time.Now().Add(time.Hour) }
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(), Now: inAnHour,
	}
	runBackup(t, o)
	if res := runBackup(t, o); res.Unchanged != 9 {
		t.Fatalf("%d of 9 files are unchanged", res.Unchanged)
	}
	for i, d := range all {
		d.change(200_000+i*100_000, 4096)
		want[fmt.Sprintf("b%d", i)] = d.b
	}
	res := runBackup(t, o)
	// A page of 4 KiB that begins anywhere lies in two pieces.
	if res.BytesNew > uint64(len(all))*2*vault.PieceSize+1000 {
		t.Errorf("a page of each of %d databases stored %d bytes", len(all), res.BytesNew)
	}
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, contents(t, v, ref), want)
}

// TestRepeatedFrames: frames with the same content lie next to each
// other in the file, and are one chunk in the vault.
func TestRepeatedFrames(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir, catalogues := filepath.Join(t.TempDir(), "tree"), t.TempDir()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const frame = 128 << 10
	d := newDatabase(t, filepath.Join(dir, "db"), 9*frame, 5)
	for _, i := range []int{3, 4, 7} { // next to the frame 2, and once more
		copy(d.b[i*frame:], d.b[2*frame:][:frame])
	}
	if err := os.WriteFile(d.path, d.b, 0o600); err != nil {
		t.Fatal(err)
	}
	runBackup(t, backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
	restoreInto(t, v, dir, catalogues)
	got, err := os.ReadFile(d.path)
	if err != nil || !bytes.Equal(got, d.b) {
		t.Errorf("the restored database differs: %v", err)
	}
}
