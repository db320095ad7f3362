package tree_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// withUmask calls f on a thread that has that umask. The thread ends afterwards.
func withUmask(t *testing.T, umask int, f func()) {
	t.Helper()
	var group sync.WaitGroup
	group.Go(func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the first thread can't end alone
			defer runtime.UnlockOSThread()
			withUmask(t, umask, f)
			return
		}
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		unix.Umask(umask)
		f()
	})
	group.Wait()
}

// acl is an ACL that fits mode, with the rights of one more user.
func acl(mode uint32) tree.Xattr {
	const none = ^uint32(0)
	b := binary.LittleEndian.AppendUint32(nil, 2) // its version
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, uint16(mode >> 6 & 7), none}, {2, 7, 1234}, {4, 1, none}, {16, uint16(mode >> 3 & 7), none}, {32, uint16(mode & 7), none}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return tree.Xattr{Name: "system.posix_acl_access", Value: b}
}

// dressed are files and folders of all sorts of modes, owners and attributes.
func dressed() []*tree.Entry {
	time := tree.Time{Sec: 1_000_000_000, Nsec: 123_456_789}
	all := []*tree.Entry{{Kind: tree.Dir, Mode: 0o750, UID: 3, GID: 4, Mtime: time}}
	add := func(path string, kind tree.Kind, mode, uid, gid uint32, x ...tree.Xattr) {
		e := &tree.Entry{Path: path, Kind: kind, Mode: mode, UID: uid, GID: gid, Mtime: time, Xattrs: x}
		if kind == tree.File {
			e.Size = 5
		}
		all = append(all, e)
	}
	for i, mode := range []uint32{0, 0o070, 0o400, 0o555, 0o600, 0o640, 0o644, 0o666, 0o700, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o7000} {
		for j, id := range [][2]uint32{{0, 0}, {0, 12345}, {12345, 0}, {12345, 54321}} {
			dir := fmt.Sprintf("%02d%d", i, j)
			add(dir, tree.Dir, mode, id[0], id[1])
			add(dir+"/acl", tree.File, mode, id[0], id[1], acl(mode))
			add(dir+"/attribute", tree.File, mode, id[0], id[1], tree.Xattr{Name: "trusted.a", Value: []byte("b")}, tree.Xattr{Name: "user.a", Value: []byte("b")})
			add(dir+"/dir", tree.Dir, mode, id[0], id[1], acl(mode))
			add(dir+"/dir/f", tree.File, mode, id[0], id[1])
			add(dir+"/f", tree.File, mode, id[0], id[1])
			add(dir+"/root", tree.File, mode, 0, 0)
		}
	}
	return all
}

// TestModesAndOwners: a target gives each entry its mode, owner and ACL, and skips no call that the
// entry needs, whatever the umask is and whatever new entries get from the folder above.
func TestModesAndOwners(t *testing.T) {
	testbed.Need(t, "root")
	top := testbed.Ext4(t)
	for name, prepare := range map[string]func(dir string) error{
		"plain": func(string) error { return nil },
		"group of the folder above": func(dir string) error {
			return errors.Join(os.Chown(dir, 0, 777), os.Chmod(dir, 0o755|os.ModeSetgid))
		},
		"default ACL": func(dir string) error {
			x := acl(0o755)
			return unix.Setxattr(dir, "system.posix_acl_default", x.Value, 0)
		},
		"groups as in BSD": func(dir string) error {
			return errors.Join(unix.Mount("", top, "", unix.MS_REMOUNT, "grpid"), os.Chown(dir, 0, 777))
		},
	} {
		for _, umask := range []int{-1, 0, 0o022, 0o077, 0o777} {
			t.Run(fmt.Sprintf("%s, umask %o", name, umask), func(t *testing.T) {
				above, err := os.MkdirTemp(top, "")
				if err != nil {
					t.Fatal(err)
				}
				if err := prepare(above); err != nil {
					t.Fatal(err)
				}
				dir := filepath.Join(above, "target")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if umask < 0 {
					must(t, tree.Unmasked(func() error { return build(dir, dressed()) }))
				} else {
					withUmask(t, umask, func() {
						if err := build(dir, dressed()); err != nil {
							t.Error(err)
						}
					})
				}
				checkDressed(t, dir)
			})
		}
		must(t, unix.Mount("", top, "", unix.MS_REMOUNT, "nogrpid"))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// build makes entries in the empty folder dir; each file's content is "12345".
func build(dir string, entries []*tree.Entry) error {
	target, err := tree.NewTarget(dir, nil)
	if err != nil {
		return err
	}
	defer target.Close()
	for _, e := range entries {
		f, err := target.Create(e)
		if err == nil && f != nil {
			_, werr := f.WriteAt([]byte("12345"), 0)
			err = errors.Join(werr, target.FinishFile(e, f))
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(target.Finish(), target.Seal())
}

func checkDressed(t *testing.T, dir string) {
	t.Helper()
	got, warnings := walk(t, dir)
	want := dressed()
	if len(got) != len(want) || len(warnings) > 0 {
		t.Fatalf("%d entries, want %d; warnings %v", len(got), len(want), warnings)
	}
	for i, e := range got {
		e.Ino, e.Ctime = 0, tree.Time{}
		if e.Kind == tree.Dir {
			e.Size = 0
		}
		if !reflect.DeepEqual(e, want[i]) {
			t.Errorf("got  %+v\nwant %+v", *e, *want[i])
		}
	}
}

// TestContentSize: the writes of a file, in any order and with holes between them, leave a file of
// its size with these bytes and these holes.
func TestContentSize(t *testing.T) {
	const small, large = 100 << 10, 300 << 10
	for name, c := range map[string]struct {
		size   int64
		writes [][2]int64 // begin and end
	}{
		"nothing":              {small, nil},
		"empty":                {0, nil},
		"at once":              {small, [][2]int64{{0, small}}},
		"in order":             {small, [][2]int64{{0, 10}, {10, 4096}, {4096, small}}},
		"backwards":            {small, [][2]int64{{50 << 10, small}, {0, 50 << 10}}},
		"hole at the begin":    {small, [][2]int64{{96 << 10, small}}},
		"hole in the middle":   {small, [][2]int64{{0, 4 << 10}, {96 << 10, small}}},
		"hole at the end":      {small, [][2]int64{{0, 4 << 10}}},
		"hole at both ends":    {small, [][2]int64{{32 << 10, 36 << 10}}},
		"the middle last":      {small, [][2]int64{{0, 4 << 10}, {96 << 10, small}, {4 << 10, 96 << 10}}},
		"large":                {large, [][2]int64{{0, large}}},
		"large, with holes":    {large, [][2]int64{{64 << 10, 68 << 10}, {0, 4 << 10}}},
		"large, without bytes": {large, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			target, err := tree.NewTarget(dir, nil)
			must(t, err)
			defer target.Close()
			e := &tree.Entry{Path: "f", Kind: tree.File, Mode: 0o600, Size: c.size}
			f, err := target.Create(e)
			must(t, err)
			want := make([]byte, c.size)
			for _, w := range c.writes {
				for i := w[0]; i < w[1]; i++ {
					want[i] = byte(i%251) + 1
				}
				n, err := f.WriteAt(want[w[0]:w[1]], w[0])
				if must(t, err); n != int(w[1]-w[0]) {
					t.Fatalf("%d bytes written of %v", n, w)
				}
			}
			must(t, target.FinishFile(e, f))
			checkContent(t, filepath.Join(dir, "f"), want)
		})
	}
}

// checkContent checks the bytes of a file, and that it takes no room for zeros.
func checkContent(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d, or with other content", len(got), len(want))
	}
	const page = 4 << 10
	needed := 0
	for at := 0; at < len(want); at += page {
		if len(bytes.Trim(want[at:min(at+page, len(want))], "\x00")) > 0 {
			needed += page
		}
	}
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if has := int(st.Blocks) * 512; has > needed+page { // the file system may need a block for itself
		t.Errorf("takes %d bytes for %d", has, needed)
	}
}

// TestContentAtOnce: many goroutines write one file.
func TestContentAtOnce(t *testing.T) {
	const size, piece = 96 << 10, 1 << 10
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		dir := t.TempDir()
		target, err := tree.NewTarget(dir, nil)
		must(t, err)
		defer target.Close()
		e := &tree.Entry{Path: "f", Kind: tree.File, Mode: 0o600, Size: size}
		f, err := target.Create(e)
		must(t, err)
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(r.Uint32()) | 1
		}
		var group sync.WaitGroup
		for _, i := range r.Perm(size / piece) {
			group.Go(func() {
				if _, err := f.WriteAt(want[i*piece:][:piece], int64(i*piece)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		must(t, target.FinishFile(e, f))
		checkContent(t, filepath.Join(dir, "f"), want)
	}
}

// TestContentClosed: a closed file takes no bytes, and closing it again closes no other file.
func TestContentClosed(t *testing.T) {
	target, err := tree.NewTarget(t.TempDir(), nil)
	must(t, err)
	defer target.Close()
	e := &tree.Entry{Path: "f", Kind: tree.File, Size: 5}
	f, err := target.Create(e)
	must(t, err)
	must(t, target.FinishFile(e, f))
	other, err := os.CreateTemp(t.TempDir(), "") // likely has the number that f had
	must(t, err)
	defer other.Close()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a write to a closed file: %v", err)
	}
	if _, err := other.WriteString("x"); err != nil {
		t.Errorf("the other file: %v", err)
	}
	if err := (*tree.Content)(nil).Close(); err != nil {
		t.Error(err)
	}
}
