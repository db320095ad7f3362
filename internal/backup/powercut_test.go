package backup_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// writers write in place what then is on the disk. Each is given a file of whole blocks.
var writers = map[string]func(t *testing.T, f *os.File, b []byte){
	"fdatasync": func(t *testing.T, f *os.File, b []byte) {
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			t.Fatal(err)
		}
	},
	"O_DIRECT": func(t *testing.T, f *os.File, b []byte) {
		d, err := os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := d.WriteAt(aligned(b), 0); err != nil {
			t.Fatal(err)
		}
	},
	"writeback": func(t *testing.T, f *os.File, b []byte) {
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		writeBack(t, f)
	},
	"mmap": func(t *testing.T, f *os.File, b []byte) {
		m, err := unix.Mmap(int(f.Fd()), 0, len(b), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		copy(m, b)
		writeBack(t, f)
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
	},
}

// aligned is a copy of b for O_DIRECT.
func aligned(b []byte) []byte {
	const block = 4096
	buf := make([]byte, len(b)+block)
	at := (block - int(uintptr(unsafe.Pointer(&buf[0]))%block)) % block
	return buf[at : at+copy(buf[at:], b)]
}

// writeBack does the work that the kernel does by itself after a while.
func writeBack(t *testing.T, f *os.File) {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if err := unix.SyncFileRange(int(f.Fd()), 0, 0, all); err != nil {
		t.Fatal(err)
	}
}

// grounds are the disks of power cuts. loses says of which writers a cut loses the times for sure.
var grounds = []struct {
	name    string
	kind    string
	options []string
	noCow   bool
	loses   []string
}{
	{"ext4", "ext4", nil, false, []string{"fdatasync", "O_DIRECT", "writeback", "mmap"}},
	{"ext4 lazytime", "ext4", []string{"lazytime"}, false, []string{"fdatasync", "O_DIRECT", "writeback", "mmap"}},
	{"xfs", "xfs", nil, false, []string{"fdatasync", "O_DIRECT", "writeback", "mmap"}},
	{"btrfs", "btrfs", nil, false, nil},
	{"btrfs nodatacow", "btrfs", nil, true, []string{"O_DIRECT", "writeback", "mmap"}},
}

// cutFiles are the files of a volume that a power cut
// changes: a small file in a bundle, and a large file.
var cutFiles = map[string]int{"small": 16 << 10, "large": 2 << 20}

// fillForCut makes those files, and some more, and brings all to the disk.
func fillForCut(t *testing.T, d *testbed.PowerDisk, dir string, noCow bool) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if noCow {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		const noCowFlag = 0x800000 // FS_NOCOW_FL, which new files in the folder get too
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, noCowFlag)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range cutFiles {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("old "), size/4), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("other", i)), []byte("never changes"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.Sync()
}

func restat(t *testing.T, path string) tree.Stat {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := tree.Restat(f)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// changeAndCut changes the files in place, cuts the power, and tells
// whether both now have new content and show the same as before.
func changeAndCut(t *testing.T, d *testbed.PowerDisk, dir string, write func(*testing.T, *os.File, []byte)) (unseen bool) {
	t.Helper()
	was := map[string]tree.Stat{}
	for name, size := range cutFiles {
		path := filepath.Join(dir, name)
		was[name] = restat(t, path)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, bytes.Repeat([]byte("PAID"), size/4))
		f.Close()
	}
	d.PowerCut()
	unseen = true
	for name := range cutFiles {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		unseen = unseen && restat(t, filepath.Join(dir, name)) == was[name] && bytes.HasPrefix(b, []byte("PAID"))
	}
	return unseen
}

// holdsTree compares a backup with the folder that it is of.
func holdsTree(t *testing.T, v *vault.Vault, id, dir string) {
	t.Helper()
	want := map[string][]byte{}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !n.Type().IsRegular() {
			continue
		}
		if want[n.Name()], err = os.ReadFile(filepath.Join(dir, n.Name())); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: id}), want)
}

// TestPowerCutKeepsNoOldContent: content that was written in place before a
// power cut is in the backups after it, also where the cut lost the times of the
// change, with the catalogue of this host and with the catalogue in the store.
func TestPowerCutKeepsNoOldContent(t *testing.T) {
	for _, g := range grounds {
		for how, write := range writers {
			t.Run(g.name+" "+how, func(t *testing.T) {
				t.Parallel()
				provoke(t, slices.Contains(g.loses, how), func() bool { return powerCut(t, g.kind, g.options, g.noCow, write) })
			})
		}
	}
}

// provoke tries a power cut until it keeps content and loses its times,
// if it has to: another process of this machine may call sync(2) at any
// time, which keeps the times. The test checks the backups each time.
func provoke(t *testing.T, must bool, try func() (unseen bool)) {
	t.Helper()
	for range 20 {
		if try() || !must || t.Failed() {
			return
		}
	}
	t.Error("no cut has lost the times: the test shows nothing")
}

// powerCut is one power cut with backups before and after it.
func powerCut(t *testing.T, kind string, options []string, noCow bool, write func(*testing.T, *os.File, []byte)) (unseen bool) {
	t.Helper()
	d := testbed.NewPowerDisk(t, kind, 512<<20, options...)
	dir := filepath.Join(d.Point, "volume")
	fillForCut(t, d, dir, noCow)
	v := newVault(t, obs.NewMemory())
	cache := t.TempDir()
	back := func(cache string) *backup.Result {
		t.Helper()
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: cache,
		})
		if err != nil || res.WarningCount != 0 {
			t.Fatalf("%v, warnings %v", err, res.Warnings)
		}
		return res
	}
	back(cache)
	if res := back(cache); res.Unchanged != res.Files || res.BytesRead != 0 {
		t.Fatalf("%d of %d files are known before the cut", res.Unchanged, res.Files)
	}
	if res := back(t.TempDir()); res.Unchanged != res.Files || res.BytesRead != 0 {
		t.Fatalf("%d of %d files are known by the store before the cut", res.Unchanged, res.Files)
	}
	unseen = changeAndCut(t, d, dir, write)
	for i, cache := range []string{t.TempDir(), cache, cache, t.TempDir()} {
		res := back(cache)
		holdsTree(t, v, res.BackupID, dir)
		// All content is read once; then even the store knows of the new mount.
		if known := i > 0; (res.Unchanged == res.Files) != known || !known && res.Unchanged > 0 {
			t.Errorf("backup %d after the cut: %d of %d files unchanged", i+1, res.Unchanged, res.Files)
		}
	}
	return unseen
}

// TestPowerCutOfSQLite: a row that was committed before a power cut is in the backup
// after it. SQLite overwrites the write-ahead log in place and asks for fdatasync.
func TestPowerCutOfSQLite(t *testing.T) {
	testbed.Need(t, "python3")
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			provoke(t, true, func() bool { return powerCutOfSQLite(t, kind) })
		})
	}
}

func powerCutOfSQLite(t *testing.T, kind string) (unseen bool) {
	t.Helper()
	d := testbed.NewPowerDisk(t, kind, 512<<20)
	dir := filepath.Join(d.Point, "volume")
	fillForCut(t, d, dir, false)
	database := filepath.Join(dir, "shop.db")
	app := startSQLite(t, database)
	app.do("create table o (id integer primary key, state text)", "insert into o values (1, 'NEW')", "update o set state='OLD'",
		"pragma wal_checkpoint(full)") // after it the log is written from its beginning on
	d.Sync()
	v := newVault(t, obs.NewMemory())
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: t.TempDir(),
	}
	for range 2 {
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	was := restat(t, database+"-wal")
	app.do("update o set state='PAID'")
	app.kill()
	d.PowerCut()
	unseen = restat(t, database+"-wal") == was
	for range 3 {
		res, err := backup.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		holdsTree(t, v, res.BackupID, dir)
	}
	if got := startSQLite(t, database).do("select state from o"); got != "PAID" {
		t.Errorf("the source has %q", got)
	}
	return unseen
}

// sqlite is a program that has a database open.
type sqlite struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	kill func()
}

func startSQLite(t *testing.T, database string) *sqlite {
	t.Helper()
	s := &sqlite{t: t, cmd: exec.Command("python3", "-c", `
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute('pragma journal_mode=wal'); c.execute('pragma synchronous=full')
for line in sys.stdin:
    row = c.execute(line).fetchone()
    print(row[0] if row else 'done', flush=True)
`, database)}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		s.out = bufio.NewScanner(out)
		s.in, err = s.cmd.StdinPipe()
	}
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.kill = sync.OnceFunc(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		_ = s.cmd.Wait()         // says that it was killed
	})
	t.Cleanup(s.kill)
	return s
}

// do executes statements and returns the first column of the result of the last statement.
func (s *sqlite) do(statements ...string) (got string) {
	s.t.Helper()
	for _, q := range statements {
		if _, err := fmt.Fprintln(s.in, q); err != nil || !s.out.Scan() {
			s.t.Fatalf("sqlite %s: %v, %v", q, err, s.out.Err())
		}
		got = s.out.Text()
	}
	return got
}

// TestRemountReadsOnce: after an unmount in the proper way content is read once, and
// nothing is sent again. A bind mount and a second mount are the same mounted file system.
func TestRemountReadsOnce(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			d := testbed.NewPowerDisk(t, kind, 512<<20)
			dir := filepath.Join(d.Point, "volume")
			fillForCut(t, d, dir, false)
			v := newVault(t, obs.NewMemory())
			o := backup.Options{Vault: v, Instance: "i", Now: inAnHour, CatalogueDir: t.TempDir()}
			back := func(root string, known bool) {
				t.Helper()
				o.Sources = []backup.Source{{Volume: "data", Root: root}}
				res, err := backup.Run(t.Context(), o)
				if err != nil || res.WarningCount > 0 {
					t.Fatalf("%v, warnings %v", err, res.Warnings)
				}
				if (res.Unchanged == res.Files) != known || !known && res.Unchanged > 0 {
					t.Errorf("%d of %d files unchanged, want all: %v", res.Unchanged, res.Files, known)
				}
				if len(o.Resume) > 0 && res.BytesNew > 0 {
					t.Errorf("%d bytes were stored again", res.BytesNew)
				}
				o.Resume = []string{} // the content is in the vault
			}
			back(dir, false)
			back(dir, true)
			other := filepath.Join(d.Point, "other")
			if err := os.Mkdir(other, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(dir, other, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			back(other, true)
			if err := unix.Unmount(other, 0); err != nil {
				t.Fatal(err)
			}
			second := t.TempDir()
			if err := unix.Mount(d.Device, second, kind, 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(second, 0) }) // gone when the test went well
			back(filepath.Join(second, "volume"), true)
			d.UnmountPoint() // the second mount keeps it mounted
			d.Mount()
			back(dir, true)
			if err := unix.Unmount(second, 0); err != nil {
				t.Fatal(err)
			}
			d.Unmount()
			d.Mount()
			back(dir, false)
			back(dir, true)
		})
	}
}

// TestOtherMountIsNotBelieved: a source that says of which mount it is a
// snapshot is known by that mount, wherever the snapshot is mounted itself.
func TestOtherMountIsNotBelieved(t *testing.T) {
	d := testbed.NewPowerDisk(t, "ext4", 256<<20)
	dir := filepath.Join(d.Point, "volume")
	fillForCut(t, d, dir, false)
	v := newVault(t, obs.NewMemory())
	cache := t.TempDir()
	for i, step := range []struct {
		mounted string
		known   bool
	}{{"boot 1", false}, {"boot 1", true}, {"boot 2", false}, {"", false}, {"boot 2", false}, {"boot 2", true}} {
		d.Unmount() // each snapshot of a logical volume is a mount of its own
		d.Mount()
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir, Mounted: step.mounted, Taken: time.Now().Add(time.Hour)}},
			Now: inAnHour, CatalogueDir: cache,
		})
		if err != nil || (res.Unchanged == res.Files) != step.known || !step.known && res.Unchanged > 0 {
			t.Errorf("backup %d: %d of %d files unchanged, want all: %v (%v)", i, res.Unchanged, res.Files, step.known, err)
		}
	}
}
