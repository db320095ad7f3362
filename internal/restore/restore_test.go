package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeTree writes content of every shape and an entry of every kind.
func makeTree(t testing.TB, dir string, seed byte, files int) {
	t.Helper()
	src := rand.NewChaCha8([32]byte{seed})
	r := rand.New(src)
	for i := range files {
		b := make([]byte, r.IntN(30000))
		_, _ = src.Read(b)
		if i%2 == 0 {
			b = bytes.Repeat([]byte(fmt.Sprintf("%d, ", i)), r.IntN(5000))
		}
		p := filepath.Join(dir, fmt.Sprintf("d%d/e%d/f%d", i%5, i%11, i))
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, b, 0o640))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "d1"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "d2/e2"), 0o755))
	big := make([]byte, 9<<20)
	_, _ = src.Read(big)
	must(t, os.WriteFile(filepath.Join(dir, "big"), big, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "big copy"), big, 0o600))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	_, err = sparse.WriteAt(big[:100000], 50<<20)
	must(t, err)
	must(t, sparse.Truncate(200<<20))
	must(t, sparse.Close())
	must(t, os.Symlink("../nowhere/\xff\n", filepath.Join(dir, "link")))
	must(t, os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "zz hard")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o620))
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o755, 0))
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, os.Lchown(filepath.Join(dir, "big"), 12345, 54321))
		must(t, os.Lchown(filepath.Join(dir, "link"), 12345, 54321))
	}
	must(t, unix.Setxattr(filepath.Join(dir, "big"), "user.note", []byte{0, 1, 2}, 0))
	must(t, os.Mkdir(filepath.Join(dir, "empty \x01 name"), 0o1777))
	must(t, os.Chmod(filepath.Join(dir, "d1"), 0o500|os.ModeSetgid))
	for _, p := range []string{"d2", "d2/e2", "fifo", "link", "big"} {
		ts := []unix.Timespec{{Sec: 12345, Nsec: 1}, {Sec: -77, Nsec: 987654321}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, p), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func newVault(t testing.TB, st obs.Store) *vault.Vault {
	t.Helper()
	id, err := vault.GenerateIdentity()
	must(t, err)
	v, err := vault.Create(t.Context(), st, "tenant", nil, nil, id)
	must(t, err)
	t.Cleanup(v.Close)
	return v
}

func backUp(t testing.TB, v *vault.Vault, dirs ...string) vault.BackupRef {
	t.Helper()
	o := backup.Options{Vault: v, Instance: "i", Host: "h", Agent: "test"}
	for i, d := range dirs {
		o.Sources = append(o.Sources, backup.Source{Volume: fmt.Sprintf("v%d", i), Root: d})
	}
	res, err := backup.Run(t.Context(), o)
	must(t, err)
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	must(t, err)
	return ref
}

// differences compares two trees with rsync, which is not ours.
func differences(t testing.TB, a, b string) string {
	t.Helper()
	out, err := exec.Command("rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes", a+"/", b+"/").CombinedOutput()
	if err != nil {
		t.Fatalf("rsync: %v\n%s", err, out)
	}
	return string(out)
}

func TestInvariantRestoreExact(t *testing.T) {
	testbed.Need(t, "rsync", "root")
	for _, files := range []int{0, 3, 3000} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			v := newVault(t, obs.NewMemory())
			src := t.TempDir()
			makeTree(t, src, byte(files), files)
			ref := backUp(t, v, src)
			dest := filepath.Join(t.TempDir(), "dest")
			res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
			must(t, err)
			if res.WarningCount != 0 {
				t.Errorf("warnings: %v", res.Warnings)
			}
			if d := differences(t, src, dest); d != "" {
				t.Errorf("restored tree differs:\n%s", d)
			}
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(dest, "sparse"), &st))
			if st.Blocks*512 > 1<<20 {
				t.Errorf("a file with 100,000 bytes and holes takes %d bytes", st.Blocks*512)
			}
			// Two copies of one content are fetched once.
			if res.BytesFetched > res.Bytes-8<<20 {
				t.Errorf("fetched %d bytes to write %d", res.BytesFetched, res.Bytes)
			}
			left, err := os.ReadDir(filepath.Dir(dest))
			must(t, err)
			if len(left) != 1 {
				t.Errorf("left beside the destination: %v", left)
			}
		})
	}
}

func TestSeveralVolumes(t *testing.T) {
	testbed.Need(t, "rsync")
	v := newVault(t, obs.NewMemory())
	a, b := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(a, "in a"), []byte("a"), 0o644))
	must(t, os.WriteFile(filepath.Join(b, "in b"), []byte("b"), 0o644))
	ref := backUp(t, v, a, b)
	dest := t.TempDir() // empty: allowed
	_, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
	must(t, err)
	if d := differences(t, a, dest+"/v0") + differences(t, b, dest+"/v1"); d != "" {
		t.Error(d)
	}
	one := filepath.Join(t.TempDir(), "one")
	_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: one, Volume: "v1"})
	must(t, err)
	if d := differences(t, b, one); d != "" {
		t.Error(d)
	}
}

func TestInclude(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	src := t.TempDir()
	for _, p := range []string{"a/b/c", "a/b/d", "a/e", "f/g", "h"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(src, p)), 0o750))
		must(t, os.WriteFile(filepath.Join(src, p), []byte(p), 0o644))
	}
	must(t, os.Link(filepath.Join(src, "a/e"), filepath.Join(src, "f/to e")))
	ref := backUp(t, v, src)
	run := func(include ...string) (string, *restore.Result, error) {
		dest := filepath.Join(t.TempDir(), "dest")
		res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest, Include: include})
		out, _ := exec.Command("find", dest, "-mindepth", "1", "-printf", "%P ").Output()
		return string(out), res, err
	}
	for want, include := range map[string][]string{
		"a a/b a/b/d ":       {"a/b/d"},
		"a a/b a/b/c a/b/d ": {"a/b"},
		"a a/e h ":           {"h", "a/?"},
	} {
		got, _, err := run(include...)
		if err != nil || len(strings.Fields(got)) < len(strings.Fields(want)) {
			t.Errorf("include %q restored %q, %v; want %q", include, got, err, want)
		}
	}
	if got, res, err := run("f"); err != nil || res.WarningCount != 1 {
		t.Errorf("a hard link without its file: %q, %+v, %v", got, res, err)
	}
	if got, _, err := run("nothing*"); !errors.Is(err, restore.ErrNothingIncluded) || got != "" {
		t.Errorf("no match: %q, %v", got, err)
	}
}

// TestFailedRestoreLeavesTheTarget damages the vault in every way a bucket's owner could.
func TestFailedRestoreLeavesTheTarget(t *testing.T) {
	src := t.TempDir()
	makeTree(t, src, 9, 200)
	for name, harm := range map[string]func(t *testing.T, st obs.Store, v *vault.Vault, ref vault.BackupRef) vault.BackupRef{
		"truncated pack": func(t *testing.T, st obs.Store, _ *vault.Vault, ref vault.BackupRef) vault.BackupRef {
			k := largest(t, st, "/packs/")
			rewrite(t, st, k, func(b []byte) []byte { return b[:len(b)/3] })
			return ref
		},
		"flipped bit": func(t *testing.T, st obs.Store, _ *vault.Vault, ref vault.BackupRef) vault.BackupRef {
			k := largest(t, st, "/packs/")
			rewrite(t, st, k, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			return ref
		},
		"missing pack": func(t *testing.T, st obs.Store, _ *vault.Vault, ref vault.BackupRef) vault.BackupRef {
			must(t, st.Delete(t.Context(), largest(t, st, "/packs/")))
			return ref
		},
		"swapped packs": func(t *testing.T, st obs.Store, v *vault.Vault, ref vault.BackupRef) vault.BackupRef {
			other := t.TempDir()
			makeTree(t, other, 77, 200)
			backUp(t, v, other)
			var packs []string
			for i, err := range st.List(t.Context(), "") {
				must(t, err)
				if strings.Contains(i.Key, "/packs/") {
					packs = append(packs, i.Key)
				}
			}
			a, b := read(t, st, packs[0]), read(t, st, packs[1])
			rewrite(t, st, packs[0], func([]byte) []byte { return b })
			rewrite(t, st, packs[1], func([]byte) []byte { return a })
			return ref
		},
		"manifest of another time": func(t *testing.T, st obs.Store, v *vault.Vault, ref vault.BackupRef) vault.BackupRef {
			m, err := v.Manifest(t.Context(), ref)
			must(t, err)
			body := read(t, st, m.Object)
			other := vault.BackupRef{Instance: ref.Instance, ID: vault.NewBackupID(2, time.Now(), false)}
			must(t, st.Put(t.Context(), strings.TrimSuffix(m.Object, ref.ID)+other.ID, body))
			return other
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := obs.NewMemory()
			v := newVault(t, st)
			ref := harm(t, st, v, backUp(t, v, src))
			parent := t.TempDir()
			dest := filepath.Join(parent, "dest")
			must(t, os.Mkdir(dest, 0o700))
			_, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
			if !errors.Is(err, vault.ErrCorrupt) {
				t.Errorf("error is %v", err)
			}
			t.Log(err)
			left, rerr := os.ReadDir(parent)
			must(t, rerr)
			in, rerr := os.ReadDir(dest)
			must(t, rerr)
			if len(left) != 1 || len(in) != 0 {
				t.Errorf("left: %v, %v", left, in)
			}
		})
	}
}

func TestTargetThatExists(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "f"), []byte("x"), 0o644))
	ref := backUp(t, v, src)
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: src}); !errors.Is(err, restore.ErrTargetExists) {
		t.Errorf("folder with content: %v", err)
	}
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: filepath.Join(src, "f")}); !errors.Is(err, restore.ErrTargetExists) {
		t.Errorf("file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := restore.Run(ctx, restore.Options{Vault: v, Ref: ref, Dest: src + "/new"}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func largest(t testing.TB, st obs.Store, part string) (key string) {
	t.Helper()
	size := int64(-1)
	for i, err := range st.List(t.Context(), "") {
		must(t, err)
		if strings.Contains(i.Key, part) && i.Size > size {
			key, size = i.Key, i.Size
		}
	}
	return key
}

func read(t testing.TB, st obs.Store, key string) []byte {
	t.Helper()
	info, err := st.Stat(t.Context(), key)
	must(t, err)
	b := make([]byte, info.Size)
	_, err = st.ReadAt(t.Context(), key, b, 0)
	must(t, err)
	return b
}

func rewrite(t testing.TB, st obs.Store, key string, change func([]byte) []byte) {
	t.Helper()
	b := change(read(t, st, key))
	must(t, st.Delete(t.Context(), key))
	must(t, st.Put(t.Context(), key, b))
}

// TestBackupAfterRestore: a restore leaves everything that the
// next backup needs to read only content that changed since.
func TestBackupAfterRestore(t *testing.T) {
	testbed.Need(t, "rsync")
	v := newVault(t, obs.NewMemory())
	src, cache := t.TempDir(), t.TempDir()
	makeTree(t, src, 5, 2500)
	ref := backUp(t, v, src)
	dest := filepath.Join(t.TempDir(), "dest")
	_, err := restore.Run(t.Context(), restore.Options{
		Vault: v, Ref: ref, Dest: dest, CatalogueDir: cache, Trouble: func(err error) { t.Error(err) },
	})
	must(t, err)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "v0", Root: dest}}, CatalogueDir: cache}
	// At once: a change right after the restore must be seen.
	must(t, os.WriteFile(filepath.Join(dest, "d1/e1/f1"), []byte("changed at once"), 0o640))
	b, err := os.ReadFile(filepath.Join(dest, "big copy"))
	must(t, err)
	info, err := os.Stat(filepath.Join(dest, "big copy"))
	must(t, err)
	b[5<<20] ^= 1
	must(t, os.WriteFile(filepath.Join(dest, "big copy"), b, 0o600))
	must(t, os.Chtimes(filepath.Join(dest, "big copy"), info.ModTime(), info.ModTime()))
	res, err := backup.Run(t.Context(), o)
	must(t, err)
	// Files with several names get a later time of change by the second name, and are read.
	if limit := uint64(2*len(b) + 1<<20); res.BytesRead > limit || res.Unchanged < 2400 || res.WarningCount != 0 {
		t.Errorf("read %d bytes, want at most %d; %+v", res.BytesRead, limit, res)
	}
	again := filepath.Join(t.TempDir(), "again")
	newest, err := v.Find(t.Context(), "i", res.BackupID)
	must(t, err)
	_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: newest, Dest: again})
	must(t, err)
	if d := differences(t, dest, again); d != "" {
		t.Errorf("the backup after the restore differs:\n%s", d)
	}
}

func BenchmarkRestore(b *testing.B) {
	src := b.TempDir()
	makeTree(b, src, 4, 3000)
	v := newVault(b, obs.NewMemory())
	ref := backUp(b, v, src)
	for b.Loop() {
		dest := filepath.Join(b.TempDir(), "dest")
		res, err := restore.Run(b.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
		must(b, err)
		b.SetBytes(int64(res.Bytes))
	}
}

// TestIncludeOfHardLinks: a further name of an entry that
// was left out, of any kind, is left out with a warning.
func TestIncludeOfHardLinks(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	src := t.TempDir()
	must(t, os.Mkdir(filepath.Join(src, "f"), 0o755))
	must(t, os.Symlink("x", filepath.Join(src, "a")))
	must(t, os.Link(filepath.Join(src, "a"), filepath.Join(src, "f/b")))
	ref := backUp(t, v, src)
	for include, warnings := range map[string]int{"f": 1, "*": 0} {
		res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: filepath.Join(t.TempDir(), "dest"), Include: []string{include}})
		if err != nil || res.WarningCount != warnings {
			t.Errorf("include %q: %+v, %v", include, res, err)
		}
	}
}
