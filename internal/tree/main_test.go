package tree_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// collector keeps the warnings of a walk or a target.
type collector struct {
	mu   sync.Mutex
	list []tree.Warning
}

func (c *collector) warn(w tree.Warning) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, w)
}

// walk lists the tree at dir.
func walk(t testing.TB, dir string) ([]*tree.Entry, []tree.Warning) {
	t.Helper()
	r := openRoot(t, dir)
	var c collector
	var all []*tree.Entry
	err := r.Walk(t.Context(), tree.WalkOptions{Warn: c.warn}, func(e *tree.Entry) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, c.list
}

func openRoot(t testing.TB, dir string) *tree.Root {
	t.Helper()
	r, err := tree.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// copyTree copies src into the new folder dst as a backup and a
// restore would, several files at a time.
func copyTree(t testing.TB, src, dst string) []tree.Warning {
	t.Helper()
	if err := os.Mkdir(dst, 0o755); err != nil {
		t.Fatal(err)
	}
	var c collector
	if err := transfer(t.Context(), src, dst, c.warn); err != nil {
		t.Fatal(err)
	}
	return c.list
}

func transfer(ctx context.Context, src, dst string, warn func(tree.Warning)) error {
	r, err := tree.OpenRoot(src)
	if err != nil {
		return err
	}
	defer r.Close()
	target, err := tree.NewTarget(dst, warn)
	if err != nil {
		return err
	}
	defer target.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	err = r.Walk(ctx, tree.WalkOptions{Warn: warn}, func(e *tree.Entry) error {
		if e.Kind == tree.File && !e.HasLinkTo {
			in, err := r.Open(e, nil)
			if err == nil {
				err = errors.Join(r.ReadFlags(e, in), in.Close())
			}
			if err != nil {
				return err
			}
		}
		out, err := target.Create(e)
		if err != nil || out == nil {
			return err
		}
		g.Go(func() error {
			if err := fill(r, e, out); err != nil {
				return fmt.Errorf("copy %q: %w", e.Path, err)
			}
			return target.FinishFile(e, out)
		})
		return nil
	})
	if waitErr := g.Wait(); waitErr != nil {
		return waitErr
	}
	if err != nil {
		return err
	}
	return errors.Join(target.Finish(), target.Seal())
}

func fill(r *tree.Root, e *tree.Entry, out *tree.Content) error {
	in, err := r.Open(e, nil)
	if err != nil {
		return err
	}
	defer in.Close()
	for part := range tree.DataRanges(in, e.Size) {
		buf := make([]byte, part.Len)
		if _, err := in.ReadAt(buf, part.Off); err != nil {
			return err
		}
		if _, err := out.WriteAt(buf, part.Off); err != nil {
			return err
		}
	}
	if same, err := r.Unchanged(e, in); err != nil || !same {
		return fmt.Errorf("unchanged: %v %w", same, err)
	}
	return nil
}

// write makes files below dir with the folders on the way: path and content in turn.
func write(t testing.TB, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tool(t *testing.T, dir string, cmd ...string) string {
	t.Helper()
	path, err := testbed.Program(cmd[0])
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, cmd[1:]...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(cmd, " "), err, out)
	}
	return string(out)
}

// makeDeep makes levels folders inside each other, whose path is far beyond PATH_MAX,
// each with a file that comes before the next folder and a file that comes after it.
func makeDeep(t *testing.T, dir string, levels int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := "m" + strings.Repeat("d", 100)
	for i := range levels {
		for _, n := range []string{"a", "z"} {
			f, err := unix.Openat(fd, n, unix.O_WRONLY|unix.O_CREAT, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(f, fmt.Appendf(nil, "%s at %d", n, i)); err != nil {
				t.Fatal(err)
			}
			unix.Close(f)
		}
		if err := unix.Mkdirat(fd, name, 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}
