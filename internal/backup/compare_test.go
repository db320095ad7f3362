package backup_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// compared is a volume with a backup, and this host's catalogue of it.
type compared struct {
	t         *testing.T
	v         *vault.Vault
	dir, root string
	id        string
	ref       vault.BackupRef
}

func newCompared(t *testing.T, root string) *compared {
	t.Helper()
	c := &compared{t: t, v: newVault(t, obs.NewMemory()), dir: t.TempDir(), root: root}
	makeTree(t, root, 41, 100, 0)
	c.must(os.Symlink("empty", filepath.Join(root, "link")))
	c.back()
	return c
}

func (c *compared) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *compared) back() {
	c.t.Helper()
	res, err := backup.Run(c.t.Context(), backup.Options{
		Vault: c.v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: c.root, AllowEmpty: true}}, CatalogueDir: c.dir,
	})
	c.must(err)
	c.id, c.ref = res.Catalogues["data"], vault.BackupRef{Instance: "i", ID: res.BackupID}
}

func (c *compared) look(root string) known.Comparison {
	c.t.Helper()
	got, err := known.Compare(c.t.Context(), c.v, c.dir, "i", "data", c.id, root, time.Hour)
	c.must(err)
	return got
}

// stored is the same by the vault alone.
func (c *compared) stored(root string) known.Comparison {
	c.t.Helper()
	m, err := c.v.Manifest(c.t.Context(), c.ref)
	c.must(err)
	got, err := known.CompareStored(c.t.Context(), c.v, &m.Volumes[0], root, time.Hour)
	c.must(err)
	return got
}

// files lists the files of the tree.
func (c *compared) files() (all []string) {
	c.t.Helper()
	c.must(filepath.WalkDir(c.root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, path)
		}
		return err
	}))
	return all
}

// anew writes a file as many programs do: another file, that is renamed into its place.
func (c *compared) anew(path string) {
	c.t.Helper()
	c.must(os.WriteFile(path+".new", []byte("anew"), 0o600))
	c.must(os.Rename(path+".new", path))
}

// TestCompareTellsWhatBecameOfAVolume on the file systems whose times tell of each change.
func TestCompareTellsWhatBecameOfAVolume(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	ways := []struct {
		name         string
		do           func(c *compared)
		want, stored known.Likeness
	}{
		{"left alone", func(*compared) {}, known.LikenessSame, known.LikenessSame},
		{"written to", func(c *compared) { c.must(os.WriteFile(c.files()[3], []byte("written"), 0o600)) }, known.LikenessNewer, known.LikenessNewer},
		{"with a new file", func(c *compared) { c.must(makeFile(filepath.Join(c.root, "small/0/new"))) }, known.LikenessNewer, known.LikenessNewer},
		{"with a new file in the root", func(c *compared) { c.must(makeFile(filepath.Join(c.root, "new"))) }, known.LikenessNewer, known.LikenessNewer},
		{"some removed", func(c *compared) {
			for _, f := range c.files()[:30] {
				c.must(os.Remove(f))
			}
		}, known.LikenessNewer, known.LikenessNewer},
		{"half removed", func(c *compared) {
			for _, f := range c.files()[:60] {
				c.must(os.Remove(f))
			}
		}, known.LikenessHalf, known.LikenessHalf},
		{"a folder became a link", func(c *compared) {
			c.must(os.Rename(filepath.Join(c.root, "small"), c.root+"-small"))
			c.must(os.Symlink(c.root+"-small", filepath.Join(c.root, "small")))
		}, known.LikenessHalf, known.LikenessHalf},
		{"most written anew", func(c *compared) {
			for _, f := range c.files()[:80] {
				c.anew(f)
			}
		}, known.LikenessNewer, known.LikenessNewer},
		{"refilled", func(c *compared) {
			for _, f := range c.files() {
				c.anew(f)
			}
			c.must(os.Remove(filepath.Join(c.root, "link")))
			c.must(os.Symlink("empty", filepath.Join(c.root, "link")))
		}, known.LikenessOther, known.LikenessNewer},
		{"emptied", func(c *compared) {
			c.must(os.RemoveAll(c.root))
			c.must(os.Mkdir(c.root, 0o700))
		}, known.LikenessHalf, known.LikenessHalf},
	}
	for fs, place := range map[string]func(testing.TB) string{"btrfs": testbed.Btrfs, "xfs": testbed.Xfs, "ext4": testbed.Ext4} {
		at := place(t)
		for i, way := range ways {
			t.Run(fs+"/"+way.name, func(t *testing.T) {
				c := newCompared(t, filepath.Join(at, fmt.Sprint(i)))
				way.do(c)
				got, stored := c.look(c.root), c.stored(c.root)
				if got.Likeness() != way.want || stored.Likeness() != way.stored {
					t.Errorf("%s is %q, by the vault %q\n%s\n%s", way.name, got.Likeness(), stored.Likeness(), got, stored)
				}
				if got.Weak || !stored.Weak || got.Partly || got.Looked != 102 {
					t.Errorf("%+v", got)
				}
				if bad := way.want == known.LikenessHalf || way.want == known.LikenessOther; bad && got.First == "" {
					t.Error("no path is named")
				}
			})
		}
	}
}

// TestCompareSeesATreeThatWentBack: a snapshot of an earlier time has the same
// files, and its times say that it is from before the backup.
func TestCompareSeesATreeThatWentBack(t *testing.T) {
	testbed.Need(t, "btrfs")
	btrfs, err := testbed.Program("btrfs")
	if err != nil {
		t.Fatal(err)
	}
	at := testbed.Btrfs(t)
	root, early := filepath.Join(at, "volume"), filepath.Join(at, "early")
	if err := exec.Command(btrfs, "subvolume", "create", root).Run(); err != nil {
		t.Fatal(err)
	}
	c := newCompared(t, root)
	// what changes in the last two seconds before a backup is of no evidence to it
	old := time.Now().Add(-time.Hour)
	c.must(exec.Command(btrfs, "subvolume", "snapshot", root, early).Run())
	changed := c.files()[5]
	c.must(os.WriteFile(changed, []byte("later"), 0o600))
	c.must(os.Chtimes(changed, old, old))
	time.Sleep(2500 * time.Millisecond)
	c.back()
	if got := c.look(root); got.Likeness() != known.LikenessSame {
		t.Errorf("the volume itself: %s", got)
	}
	got := c.look(early)
	c.must(os.Chmod(c.files()[7], 0o400))
	if now := c.look(root); now.Likeness() != known.LikenessNewer || now.Changed != 1 {
		t.Errorf("with another mode: %s", now)
	}
	if got.Likeness() != known.LikenessOlder || got.Back != 1 || !strings.HasSuffix(changed, got.First) {
		t.Errorf("an earlier snapshot: %s, %+v", got, got)
	}
}

// TestCompareKnowsNoOtherCatalogue: the catalogue of another backup, a damaged
// catalogue and a missing one are reported; after a restore the new catalogue tells.
func TestCompareKnowsNoOtherCatalogue(t *testing.T) {
	at := testbed.Ext4(t)
	c := newCompared(t, filepath.Join(at, "volume"))
	id := c.id
	for _, c.id = range []string{"", "another"} {
		if _, err := known.Compare(t.Context(), c.v, c.dir, "i", "data", c.id, c.root, time.Hour); !errors.Is(err, known.ErrNoCatalogue) {
			t.Errorf("%q: %v", c.id, err)
		}
	}
	restored := filepath.Join(at, "restored")
	res, err := restore.Run(t.Context(), restore.Options{Vault: c.v, Ref: c.ref, Dest: restored, Volume: "data", CatalogueDir: c.dir})
	c.must(err)
	if _, err := known.Compare(t.Context(), c.v, c.dir, "i", "data", id, c.root, time.Hour); !errors.Is(err, known.ErrNoCatalogue) {
		t.Errorf("the one before the restore: %v", err)
	}
	c.id = res.Catalogues["data"]
	if got := c.look(restored); got.Likeness() != known.LikenessSame {
		t.Errorf("what was restored: %s", got)
	}
	if got := c.look(c.root); got.Likeness() != known.LikenessOther {
		t.Errorf("what it came from: %s", got)
	}
	names, err := filepath.Glob(filepath.Join(c.dir, "*", "*"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	c.must(os.Truncate(names[0], 100))
	if _, err := known.Compare(t.Context(), c.v, c.dir, "i", "data", c.id, restored, time.Hour); !errors.Is(err, known.ErrNoCatalogue) {
		t.Errorf("damaged: %v", err)
	}
}

// TestCompareEndsInTime: the entries seen until then
// count, and the result says that they are not all.
func TestCompareEndsInTime(t *testing.T) {
	c := newCompared(t, filepath.Join(testbed.Ext4(t), "volume"))
	got, err := known.Compare(t.Context(), c.v, c.dir, "i", "data", c.id, c.root, -1)
	if err != nil || !got.Partly || got.Looked != 0 || got.Likeness() != known.LikenessUnknown {
		t.Errorf("%+v, %v", got, err)
	}
	m, err := c.v.Manifest(t.Context(), c.ref)
	c.must(err)
	if got, err = known.CompareStored(t.Context(), c.v, &m.Volumes[0], c.root, -1); err != nil || !got.Partly || got.Likeness() != known.LikenessUnknown {
		t.Errorf("stored: %+v, %v", got, err)
	}
}

// TestCompareWhereTimesTellNothing: a host keeps no catalogue of
// such a volume, and the vault tells only the missing entries.
func TestCompareWhereTimesTellNothing(t *testing.T) {
	c := newCompared(t, filepath.Join(testbed.Tmpfs(t, "size=64m"), "volume"))
	if got := c.look(c.root); !got.Weak || got.Looked != 0 || got.Likeness() != known.LikenessUnknown {
		t.Errorf("%s", got)
	}
	if got := c.stored(c.root); got.Likeness() != known.LikenessSame {
		t.Errorf("%s", got)
	}
	for _, f := range c.files() {
		c.anew(f)
	}
	if got := c.stored(c.root); got.Likeness() != known.LikenessNewer {
		t.Errorf("written anew: %s", got)
	}
	for _, f := range c.files()[:60] {
		c.must(os.Remove(f))
	}
	if got := c.stored(c.root); got.Likeness() != known.LikenessHalf {
		t.Errorf("most are gone: %s", got)
	}
}

// TestEmptyVolume: folders are no content, and what fsck found is.
func TestEmptyVolume(t *testing.T) {
	dir := t.TempDir()
	look := func(want bool, what string) {
		t.Helper()
		if got, err := known.Empty(t.Context(), dir); err != nil || got != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	look(true, "nothing")
	if err := os.MkdirAll(filepath.Join(dir, "lost+found", "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	look(true, "what mkfs leaves")
	if err := makeFile(filepath.Join(dir, "lost+found", "#12")); err != nil {
		t.Fatal(err)
	}
	look(false, "what fsck found")
	if _, err := known.Empty(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	dir = filepath.Join(dir, "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	look(false, "a file without content")
}
