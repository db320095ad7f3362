package fear_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// blobCount is how many contents files may have. It is small, so that old content comes back when
// the packs that held it are about to be deleted.
const blobCount = 24

// blob is one of these contents.
func blob(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 77))
	b := make([]byte, 100+r.IntN(100<<10)*(n%3)/2)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// tree is the content of a volume: the number of a blob for each path.
type tree map[string]int

// drawTree draws the content of an instance.
func drawTree(r *rand.Rand) tree {
	t := tree{}
	for range 3 + r.IntN(4) {
		t[fmt.Sprintf("d%d/f%d", r.IntN(2), r.IntN(8))] = r.IntN(blobCount)
	}
	return t
}

// write makes dir hold the content and nothing else. Files that stay are not written.
func (t tree) write(dir string, before tree) error {
	for path := range before {
		if _, stays := t[path]; !stays {
			if err := os.Remove(filepath.Join(dir, path)); err != nil {
				return err
			}
		}
	}
	for path, n := range t {
		if was, is := before[path]; is && was == n {
			continue
		}
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, blob(n), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compare is an error unless dir holds exactly the content.
func (t tree) compare(dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		path = strings.TrimPrefix(path, dir+"/")
		want, is := t[path]
		if !is {
			return fmt.Errorf("%s is too much", path)
		}
		got, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, blob(want)) {
			return fmt.Errorf("%s differs", path)
		}
		n++
		return nil
	})
	if err == nil && n != len(t) {
		err = fmt.Errorf("there are %d of %d files", n, len(t))
	}
	return err
}

// instance is a folder that one host at a time backs up.
type instance struct {
	id, dir string
	now     tree
}

func newInstance(s *stage, n int) *instance {
	i := &instance{id: fmt.Sprintf("cp-%d", n), dir: filepath.Join(s.dir, fmt.Sprintf("volume-%d", n))}
	must(s.t, os.Mkdir(i.dir, 0o755))
	return i
}

// change gives the instance another content.
func (i *instance) change(r *rand.Rand) error {
	next := drawTree(r)
	for path, n := range i.now { // most files stay
		if r.IntN(4) > 0 && len(next) < 10 {
			next[path] = n
		}
	}
	err := next.write(i.dir, i.now)
	i.now = next
	return err
}

// TestCompare: a comparison finds each kind of difference.
func TestCompare(t *testing.T) {
	whole := tree{"d0/f1": 1, "d1/f2": 2, "d1/f3": 4}
	for name, other := range map[string]tree{
		"less": {"d0/f1": 1, "d1/f2": 2}, "more": {"d0/f1": 1, "d1/f2": 2, "d1/f3": 4, "d1/f4": 1}, "other": {"d0/f1": 1, "d1/f2": 2, "d1/f3": 5},
	} {
		dir := t.TempDir()
		must(t, whole.write(dir, nil))
		if err := whole.compare(dir); err != nil {
			t.Errorf("the same: %v", err)
		}
		must(t, other.write(dir, whole))
		if err := whole.compare(dir); err == nil {
			t.Errorf("%s: no difference was found", name)
		}
		if err := other.compare(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
