package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/obs"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// based backs up a folder of a btrfs again and again, each time
// from a snapshot that is then the base of the next.
type based struct {
	t    testing.TB
	dir  string // the volume
	o    backup.Options
	n    int
	base *snapshot.Snapshot
	cat  string // of the base
	// wrap replaces the answer of the provider; nil does not.
	wrap func(known.Changes) known.Changes
}

func newBased(t testing.TB, st obs.Store) *based {
	t.Helper()
	testbed.Need(t, "btrfs")
	dir := filepath.Join(testbed.Filesystem(t, "btrfs", 64<<30), "volume")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &based{t: t, dir: dir, o: backup.Options{Vault: newVault(t, st), Instance: "i", CatalogueDir: t.TempDir(), IndexDir: t.TempDir()}}
}

func (b *based) provider() snapshot.Provider {
	b.t.Helper()
	p, err := snapshot.ByName(snapshot.NameBtrfs)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// view makes a snapshot, which is removed with the test, or before.
func (b *based) view() (snap *snapshot.Snapshot, taken time.Time) {
	b.t.Helper()
	b.n++
	taken = time.Now()
	snap, err := b.provider().Create(b.t.Context(), snapshot.Request{Volume: b.dir, Host: "h", Job: strconv.Itoa(b.n), Name: "v"})
	if err != nil {
		b.t.Fatal(err)
	}
	// unmounted in any case
	b.t.Cleanup(func() { _ = b.provider().Remove(b.t.Context(), snap.Ref) })
	return snap, taken
}

func (b *based) remove(snap *snapshot.Snapshot) {
	b.t.Helper()
	if err := b.provider().Remove(b.t.Context(), snap.Ref); err != nil {
		b.t.Fatal(err)
	}
}

// back makes a backup from a new snapshot, with the base that there
// is, and keeps the snapshot as the next one.
func (b *based) back() *backup.Result {
	b.t.Helper()
	snap, taken := b.view()
	source := backup.Source{Volume: "data", Root: snap.Root, Taken: taken}
	if b.base != nil {
		c, err := b.provider().Changed(b.t.Context(), b.base.Base(), snap)
		if err != nil {
			b.t.Fatal(err)
		}
		defer c.Close()
		source.Base = &known.Base{Catalogue: b.cat, Changes: c}
		if b.wrap != nil {
			source.Base.Changes = b.wrap(c)
		}
	}
	b.o.Sources = []backup.Source{source}
	res, err := backup.Run(b.t.Context(), b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.base != nil {
		b.remove(b.base)
	}
	b.base, b.cat = snap, res.Catalogues["data"]
	if b.cat == "" {
		b.t.Fatal("no catalogue was kept")
	}
	return res
}

// holds compares the backup with the view that it was made of, which stands.
func (b *based) holds(res *backup.Result) {
	b.t.Helper()
	stored, files := 0, 0
	eachFile(b.t, b.o.Vault, vault.BackupRef{Instance: "i", ID: res.BackupID}, func(name string, got []byte) {
		stored++
		want, err := os.ReadFile(filepath.Join(b.base.Root, name))
		if err != nil || !bytes.Equal(got, want) {
			b.t.Errorf("%s: the backup has %d bytes, which are not those %d of the view (%v)", name, len(got), len(want), err)
		}
	})
	err := filepath.WalkDir(b.base.Root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files++
		}
		return err
	})
	if err != nil || files != stored {
		b.t.Fatalf("the backup has %d files, the view %d: %v", stored, files, err)
	}
}

// readByProcess returns the bytes that this process has
// read by system calls, from files and from sockets.
func readByProcess(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "rchar: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no rchar")
	return 0
}

// overwriteAt writes n random bytes into a file.
func overwriteAt(t testing.TB, rnd *rand.ChaCha8, path string, off int64, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, n)
	_, _ = rnd.Read(p)
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
}

// baseMiB is the size of the volumes in the measurements of bases.
func baseMiB(t testing.TB) int {
	t.Helper()
	s := os.Getenv("HOLDFAST_BASE_MIB")
	if s == "" {
		return 128
	}
	mib, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return mib
}

// TestBackupReadsWhatDiffersFromTheBase: a backup reads at most one and a half times what
// changed, and metadata. Half of the data is in small files, of which some are written
// anew; half is in large ones, in which ranges of half a MiB are. HOLDFAST_BASE_MIB has
// another size of the whole than 128; of 8 GiB 64 MiB change, of less a larger part.
func TestBackupReadsWhatDiffersFromTheBase(t *testing.T) {
	mib := baseMiB(t)
	store, err := obs.Open(t.Context(), "file://"+t.TempDir(), obs.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	b := newBased(t, store)
	const largeSize = 16 << 20
	rnd := rand.NewChaCha8([32]byte{7})
	r := rand.New(rnd)
	small, large := mib*20000/8192, mib<<20/2/largeSize
	smallSize := mib << 20 / 2 / small
	name := func(i int) string { return filepath.Join(b.dir, fmt.Sprintf("small/%d/%d", i/500, i)) }
	big := func(i int) string { return filepath.Join(b.dir, fmt.Sprintf("large-%d", i)) }
	p := make([]byte, largeSize)
	for i := range small {
		if i%500 == 0 {
			if err := os.MkdirAll(filepath.Dir(name(i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = rnd.Read(p[:smallSize])
		if err := os.WriteFile(name(i), p[:smallSize], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range large {
		_, _ = rnd.Read(p)
		if err := os.WriteFile(big(i), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	full := b.back()
	if full.Lost > 0 || full.BytesRead < uint64(mib<<20*9/10) {
		t.Fatalf("the first backup read %d bytes, %d lost", full.BytesRead, full.Lost)
	}

	const piece = 512 << 10
	changed := int64(0)
	// how far a range reaches beyond what changed depends on the
	// vault's cuts: few could all be unlucky
	for i := range max(8, mib/128) {
		overwriteAt(t, rnd, big(i%large), r.Int64N(largeSize-piece), piece)
		changed += piece
	}
	for i := range max(1, int(changed)/smallSize) {
		overwriteAt(t, rnd, name((i*37)%small), 0, smallSize)
		changed += int64(smallSize)
	}
	unix.Sync()
	// A backup without a change reads only metadata: the catalogue, the
	// index of the vault, and the files that the process itself needs.
	before := readByProcess(t)
	snap, taken := b.view()
	c, err := b.provider().Changed(t.Context(), b.base.Base(), snap)
	if err != nil {
		t.Fatal(err)
	}
	b.o.Sources = []backup.Source{{Volume: "data", Root: snap.Root, Taken: taken, Base: &known.Base{Catalogue: b.cat, Changes: c}}}
	b.o.Precopy = false
	res, err := backup.Run(t.Context(), b.o)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	read := readByProcess(t) - before
	t.Logf("%d MiB in %d files, %d bytes changed: %d read of the volume, %d by the process with its metadata, %d new, %d checked",
		mib, small+large, changed, res.BytesRead, read, res.BytesNew, res.Checked)
	if most := changed * 3 / 2; int64(res.BytesRead) > most {
		t.Errorf("read %d bytes of the volume, want at most %d", res.BytesRead, most)
	}
	// rows of the catalogue, of the index, of the packs; the sample and the checks
	metadata := int64(small+large)*400 + 4<<20
	if most := changed*3/2 + metadata; read > most {
		t.Errorf("the process read %d bytes, want at most %d with metadata", read, most)
	}
	if res.Checked == 0 {
		t.Error("nothing that was known not to have changed was checked")
	}
	b.remove(b.base)
	b.base, b.cat = snap, res.Catalogues["data"]
	b.holds(res)
}

// TestChainOfBases: thirty backups, each by the base of the backup
// before, hold every byte, whatever the test does to the files.
func TestChainOfBases(t *testing.T) {
	b := newBased(t, obs.NewMemory())
	makeTree(t, b.dir, 3, 150, 5)
	rnd := rand.NewChaCha8([32]byte{9})
	r := rand.New(rnd)
	database := filepath.Join(b.dir, "database")
	content := make([]byte, 3<<20)
	_, _ = rnd.Read(content)
	copy(content, "SQLite format 3\x00")
	if err := os.WriteFile(database, content, 0o600); err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for round := range 31 {
		res := b.back()
		b.holds(res)
		if round == 0 {
			total = res.BytesRead
		} else if res.BytesRead > total/4 {
			t.Errorf("round %d read %d of %d bytes", round, res.BytesRead, total)
		}
		for range 3 {
			path := filepath.Join(b.dir, "large", strconv.Itoa(r.IntN(5)))
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			at := r.Int64N(st.Size())
			switch r.IntN(7) {
			case 0:
				overwriteAt(t, rnd, path, at, 1+r.IntN(9000))
			case 1:
				overwriteAt(t, rnd, path, st.Size(), 1+r.IntN(200_000))
			case 2:
				err = os.Truncate(path, max(st.Size()-r.Int64N(300_000), 1<<20))
			case 3:
				err = os.Truncate(path, st.Size()+r.Int64N(300_000))
			case 4:
				var f *os.File
				if f, err = os.OpenFile(path, os.O_RDWR, 0); err == nil {
					err = errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, 1+r.Int64N(500_000)), f.Close())
				}
			case 5:
				err = os.Chmod(path, fs.FileMode(0o600+r.IntN(64)))
			case 6:
				overwriteAt(t, rnd, path, at, 1)
				err = os.Chtimes(path, st.ModTime(), st.ModTime())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		overwriteAt(t, rnd, database, 100+r.Int64N(3<<20-200), 100)
		overwriteAt(t, rnd, filepath.Join(b.dir, fmt.Sprintf("small/%d/file %d", round%7, round)), 0, 50)
	}
}

// liar says of the inodes in it that nothing changed.
type liar struct {
	known.Changes
	inodes []uint64
}

func (l liar) Inode(ino uint64) bool { return !slices.Contains(l.inodes, ino) && l.Changes.Inode(ino) }

// rangeLiar says of all files that nothing of their content changed.
type rangeLiar struct{ known.Changes }

func (rangeLiar) File(uint64, int64) ([]snapshot.Range, bool, error) { return nil, true, nil }

// TestChangesThatLie: a means that says of what changed that it did not is
// found out, the volume is read whole, and the means is not used again.
func TestChangesThatLie(t *testing.T) {
	for _, kind := range []string{"inodes", "ranges"} {
		t.Run(kind, func(t *testing.T) {
			b := newBased(t, obs.NewMemory())
			b.o.Pool = backup.NewPool(backup.PoolOptions{})
			rnd := rand.NewChaCha8([32]byte{1})
			// One file: then the first check hits the change.
			path, size := filepath.Join(b.dir, "file"), 2<<20
			if kind == "inodes" {
				size = 40_000
			}
			if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			overwriteAt(t, rnd, path, 0, size)
			b.back()
			mtime := time.Unix(st.Mtim.Sec, st.Mtim.Nsec)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(os.Chtimes(path, mtime, mtime))
			b.back() // the catalogue has that time, and a time of change that is too young
			overwriteAt(t, rnd, path, 0, size)
			must(os.Chtimes(path, mtime, mtime))
			b.wrap = func(c known.Changes) known.Changes {
				if kind == "ranges" {
					return rangeLiar{c}
				}
				return liar{c, []uint64{st.Ino}}
			}
			res := b.back()
			b.holds(res)
			if len(res.Drifts) != 1 || res.Drifts[0].By != known.ByBase || res.Drifts[0].Path != "file" || res.WarningCount != 1 {
				t.Fatalf("drifts %v, warnings %v", res.Drifts, res.Warnings)
			}
			overwriteAt(t, rnd, path, 0, size)
			must(os.Chtimes(path, mtime, mtime))
			res = b.back()
			b.holds(res)
			if len(res.Drifts) != 0 || res.BytesRead != uint64(size) {
				t.Errorf("after the alarm: drifts %v, %d bytes read", res.Drifts, res.BytesRead)
			}
		})
	}
}

// TestBaseOfAnotherCatalogue: a base counts with the catalogue that
// was made of it, and with no other.
func TestBaseOfAnotherCatalogue(t *testing.T) {
	b := newBased(t, obs.NewMemory())
	makeTree(t, b.dir, 5, 30, 2)
	b.back()
	path := filepath.Join(b.dir, "large", "0")
	rnd := rand.NewChaCha8([32]byte{2})
	overwriteAt(t, rnd, path, 1<<19, 1000)

	// Another backup meanwhile, of which the base knows nothing.
	snap, taken := b.view()
	o := b.o
	o.Sources = []backup.Source{{Volume: "data", Root: snap.Root, Taken: taken}}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	overwriteAt(t, rnd, path, 1<<20, 1000)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	res := b.back()
	b.holds(res)
	if res.BytesRead < uint64(info.Size())/2 {
		t.Errorf("read %d bytes: the ranges of a base that is not the catalogue's were trusted", res.BytesRead)
	}
}
