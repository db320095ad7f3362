package backup_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// backUpAs makes a backup of sources and returns its manifest too.
func backUpAs(t *testing.T, v *vault.Vault, o backup.Options) (*backup.Result, *vault.Manifest) {
	t.Helper()
	o.Vault, o.Instance, o.Sample = v, "a", -1
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ref, ok := vault.RefOf("a", res.BackupID)
	if !ok {
		t.Fatalf("id %q", res.BackupID)
	}
	m, err := v.Manifest(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if int(m.Lost) != res.Lost || int(m.LostAccepted) != res.LostAccepted || len(m.Losses) != len(res.Losses) || ref.Incomplete != (m.Lost > 0) {
		t.Errorf("the manifest has %d and %d losses, the result %d and %d; id %s", m.Lost, m.LostAccepted, res.Lost, res.LostAccepted, m.ID)
	}
	return res, m
}

// places are the losses as volume:path, with a "+" where they are accepted.
func places(m *vault.Manifest) []string {
	var all []string
	for _, l := range m.Losses {
		s := l.Volume + ":" + string(l.Path)
		if l.Accepted {
			s += "+"
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

// TestLossesAreRecorded: the manifest names each lost place once,
// with its volume, and tells which ones are accepted.
func TestLossesAreRecorded(t *testing.T) {
	f := testbed.StartFUSE(t)
	for _, name := range []string{"a", "dir/f", "dir/g", "bad\xff", "sub/x/y", "z"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(f.Folder, filepath.Dir(name)), 0o755), os.WriteFile(filepath.Join(f.Folder, name), []byte(name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	plain := t.TempDir()
	if err := os.WriteFile(filepath.Join(plain, "f"), []byte("f"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Set(
		// attributes and content: one loss
		testbed.FUSERefuses(unix.EIO, testbed.FUSEListXattr, testbed.FUSERead).At("a"),
		testbed.FUSERefuses(unix.EACCES, testbed.FUSEOpenFolder).At("dir"),
		testbed.FUSERefuses(unix.ESTALE, testbed.FUSELookup).At("bad\xff"),
		testbed.FUSERefuses(unix.ENOKEY, testbed.FUSEOpen).At("sub/x/y"),
	)
	v := newVault(t, obs.NewMemory())
	sources := []backup.Source{{Volume: "odd", Root: f.Point}, {Volume: "plain", Root: plain}}
	res, m := backUpAs(t, v, backup.Options{Sources: sources})
	if got, want := places(m), []string{"odd:a", "odd:bad\xff", "odd:dir", "odd:sub/x/y"}; !slices.Equal(got, want) || res.Lost != 4 {
		t.Errorf("losses %q, want %q", got, want)
	}
	i := slices.IndexFunc(m.Losses, func(l vault.Loss) bool { return string(l.Path) == "a" })
	if what := m.Losses[i].What; !strings.Contains(what, "attributes") || !strings.Contains(what, "read (") {
		t.Errorf("the loss at a says %q, not both reasons", what)
	}
	if got := slices.Sorted(maps.Keys(contents(t, v, vault.BackupRef{Instance: "a", ID: m.ID}))); !slices.Equal(got, []string{"f", "z"}) {
		t.Errorf("the backup has the files %q", got)
	}
	if _, err := v.Newest(t.Context(), "a"); !errors.Is(err, vault.ErrOnlyIncomplete) {
		t.Errorf("an incomplete backup is the newest: %v", err)
	}

	sources[0].AcceptLosses = []string{"a", "/dir/", "sub"}
	_, m = backUpAs(t, v, backup.Options{Sources: sources})
	if got, want := places(m), []string{"odd:a+", "odd:bad\xff", "odd:dir+", "odd:sub/x/y+"}; !slices.Equal(got, want) || m.Lost != 1 || m.LostAccepted != 3 {
		t.Errorf("losses %q, want %q", got, want)
	}
	sources[0].AcceptLosses = append(sources[0].AcceptLosses, "bad?")
	_, m = backUpAs(t, v, backup.Options{Sources: sources})
	if ref, err := v.Newest(t.Context(), "a"); err != nil || ref.ID != m.ID || m.LostAccepted != 4 {
		t.Errorf("a backup whose losses are all accepted is not the newest: %v, %v", ref, err)
	}
	// An excluded entry is no loss.
	sources[0].Exclude, sources[0].AcceptLosses = []string{"a", "bad?", "dir/", "y"}, nil
	res, m = backUpAs(t, v, backup.Options{Sources: sources})
	if m.Lost+m.LostAccepted != 0 || res.Excluded != 4 || !slices.Equal(m.Volumes[0].Excludes, sources[0].Exclude) || len(m.Volumes[1].Excludes) != 0 {
		t.Errorf("losses %q, %d excluded, patterns %q", places(m), res.Excluded, m.Volumes[0].Excludes)
	}
}

// TestOwnErrorIsNoLoss: a backup whose own means ran out fails, and no backup comes to be.
func TestOwnErrorIsNoLoss(t *testing.T) {
	f := testbed.StartFUSE(t)
	if err := os.WriteFile(filepath.Join(f.Folder, "f"), []byte("f"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := newVault(t, obs.NewMemory())
	for _, op := range []testbed.FUSEOp{testbed.FUSELookup, testbed.FUSEOpen, testbed.FUSERead, testbed.FUSEListXattr} {
		f.Set(testbed.FUSERefuses(unix.ENOMEM, op).At("f"))
		_, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "a", Sources: []backup.Source{{Volume: "v", Root: f.Point, AcceptLosses: []string{"f"}}}})
		if !errors.Is(err, unix.ENOMEM) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if refs, err := v.Backups(t.Context(), "a"); err != nil || len(refs) != 0 {
		t.Errorf("backups %v, %v", refs, err)
	}
}

// TestManyLossesAreBounded: all losses are counted, the
// first are named, and an unaccepted loss is among them.
func TestManyLossesAreBounded(t *testing.T) {
	f := testbed.StartFUSE(t)
	const n = 1500
	for i := range n {
		if err := os.WriteFile(filepath.Join(f.Folder, fmt.Sprintf("f%04d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.Set(testbed.Oddity{Fail: func(op testbed.FUSEOp, path string) syscall.Errno {
		if op == testbed.FUSELookup && strings.HasPrefix(path, "f") {
			return unix.EIO
		}
		return 0
	}})
	v := newVault(t, obs.NewMemory())
	_, m := backUpAs(t, v, backup.Options{Sources: []backup.Source{{Volume: "v", Root: f.Point}}})
	if m.Lost != n || len(m.Losses) != vault.MaxLosses {
		t.Errorf("%d losses, %d named", m.Lost, len(m.Losses))
	}
	_, m = backUpAs(t, v, backup.Options{Sources: []backup.Source{{Volume: "v", Root: f.Point, AcceptLosses: []string{"f0*", "f10*", "f11*", "f12*", "f13*", "f140*"}}}})
	if m.LostAccepted != 1410 || m.Lost != n-1410 || !slices.ContainsFunc(m.Losses, func(l vault.Loss) bool { return !l.Accepted }) {
		t.Errorf("%d lost, %d accepted, and of the %d named none is lost", m.Lost, m.LostAccepted, len(m.Losses))
	}
}

// TestVanishedEntries: in a live tree an entry that is removed during the walk is
// no loss, and an entry that is moved is a loss; in a quiet tree both are losses.
func TestVanishedEntries(t *testing.T) {
	for _, c := range []struct {
		name string
		// the walk gave this folder, and looked at nothing in it, when the change comes
		at     string
		quiet  bool
		change func(t *testing.T, dir string) error
		want   []string // losses
	}{
		{"file removed", "m", false, func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "m/f")) }, nil},
		{"folder removed", "a", false, func(_ *testing.T, dir string) error { return os.RemoveAll(filepath.Join(dir, "m")) }, nil},
		{"file moved back", "m", false, func(_ *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "m/f"), filepath.Join(dir, "a/moved"))
		}, []string{"v:m/f"}},
		{"file moved on", "m", false, func(_ *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "m/f"), filepath.Join(dir, "z/moved"))
		}, nil},
		{"folder moved back", "a", false, func(_ *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "m"), filepath.Join(dir, "a/moved"))
		}, []string{"v:m"}},
		{"file moved out of the tree", "m", false, func(_ *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "m/f"), filepath.Join(dir, "../outside"))
		}, nil},
		{"file moved, folder removed", "a", false, func(_ *testing.T, dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "m/f"), filepath.Join(dir, "a/moved")), os.RemoveAll(filepath.Join(dir, "m")))
		}, nil}, // the walk has not seen that m held anything
		{"file moved, folder removed later", "m", false, func(_ *testing.T, dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "m/f"), filepath.Join(dir, "a/moved")), os.RemoveAll(filepath.Join(dir, "m")))
		}, []string{"v:m/f"}},
		{"file replaced under its name", "m", false, func(_ *testing.T, dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "m/f"), filepath.Join(dir, "a/moved")), os.WriteFile(filepath.Join(dir, "m/f"), nil, 0o600))
		}, nil},
		{"quiet", "m", true, func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "m/f")) }, []string{"v:m/f"}},
		{"one of two names removed", "m", false, func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "m/link")) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(testbed.Ext4(t), "tree")
			for _, name := range []string{"a/f", "m/f", "m/g", "z/f"} {
				if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Link(filepath.Join(dir, "a/f"), filepath.Join(dir, "m/link")); err != nil {
				t.Fatal(err)
			}
			var once atomic.Bool
			o := backup.Options{Sources: []backup.Source{{Volume: "v", Root: dir, Quiet: c.quiet}}}
			defer backup.SetWalked(func(path string) {
				if path == c.at && !once.Swap(true) {
					if err := c.change(t, dir); err != nil {
						t.Error(err)
					}
				}
			})()
			v := newVault(t, obs.NewMemory())
			_, m := backUpAs(t, v, o)
			if got := places(m); !slices.Equal(got, c.want) {
				t.Errorf("losses %q, want %q: %v", got, c.want, m.Losses)
			}
			if !once.Load() {
				t.Error("nothing was changed")
			}
			for _, l := range m.Losses {
				if !c.quiet && !strings.Contains(l.What, "moved to") {
					t.Errorf("the loss does not say where the file is: %s", l.What)
				}
			}
		})
	}
}

// TestVanishedWithoutNumbers: where inode numbers mean nothing, a name that vanishes is a loss.
func TestVanishedWithoutNumbers(t *testing.T) {
	f := testbed.StartFUSE(t)
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(f.Folder, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.Set(testbed.FUSERefuses(unix.ENOENT, testbed.FUSELookup).At("b"))
	_, m := backUpAs(t, newVault(t, obs.NewMemory()), backup.Options{Sources: []backup.Source{{Volume: "v", Root: f.Point}}})
	if got := places(m); !slices.Equal(got, []string{"v:b"}) {
		t.Errorf("losses %q", got)
	}
}

// TestExcludesChange: with the catalogue of the last backup at hand, this backup
// reads files that the last backup excluded, and lacks files that it excludes itself.
func TestExcludesChange(t *testing.T) {
	dir := testbed.Ext4(t)
	for _, name := range []string{"a/f", "b/f", "c/f", "c/g.tmp"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	v, cache := newVault(t, obs.NewMemory()), t.TempDir()
	for _, c := range []struct{ exclude, want []string }{
		{nil, []string{"a/f", "b/f", "c/f", "c/g.tmp"}},
		{[]string{"/b/", "*.tmp", "lost+found"}, []string{"a/f", "c/f"}},
		{[]string{"a"}, []string{"b/f", "c/f", "c/g.tmp"}},
		{nil, []string{"a/f", "b/f", "c/f", "c/g.tmp"}},
	} {
		_, m := backUpAs(t, v, backup.Options{CatalogueDir: cache, Sources: []backup.Source{{Volume: "v", Root: dir, Exclude: c.exclude}}})
		got := contents(t, v, vault.BackupRef{Instance: "a", ID: m.ID})
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, c.want) {
			t.Errorf("without %q: %q, want %q", c.exclude, names, c.want)
		}
		for name, content := range got {
			if string(content) != name {
				t.Errorf("%s has the content %q", name, content)
			}
		}
	}
	_, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "a", Sources: []backup.Source{{Volume: "v", Root: dir, Exclude: []string{"**"}}}})
	if err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("the root is excluded: %v", err)
	}
}

// TestImageIgnoresExcludes tells so, and is whole.
func TestImageIgnoresExcludes(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	var told []tree.Warning
	_, m := backUpAs(t, newVault(t, obs.NewMemory()), backup.Options{
		Sources: []backup.Source{{Volume: "v", Root: image, Exclude: []string{"disk"}}}, Warn: func(w tree.Warning) { told = append(told, w) },
	})
	if len(told) != 1 || !strings.Contains(told[0].What, "no paths") || m.Lost != 0 || m.Bytes != 4 || m.Volumes[0].Excludes != nil {
		t.Errorf("warnings %v, %d losses, %d bytes", told, m.Lost, m.Bytes)
	}
}
