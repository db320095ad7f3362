package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// manySteps are the numbers of small files that BIG=1 backs up, up to
// COUNT. In an ext4 in memory that keeps them in their inodes a million of
// them take about 0.4 GiB, and 1.5 GiB more that the kernel may take back.
var manySteps = []int{200_000, 1_000_000, 3_000_000, 10_000_000}

// manyFolder is how many files are in each folder.
const manyFolder = 1000

// manyName is the path of the i-th file below dir.
func manyName(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("%03d/%03d/file-%d", i/manyFolder/1000, i/manyFolder%1000, i))
}

// makeMany makes the files from the first up to that before the
// last, each with some bytes of its own.
func makeMany(dir string, first, last int) error {
	var text []byte
	for i := first; i < last; i++ {
		if i%manyFolder == 0 || i == first {
			if err := os.MkdirAll(filepath.Dir(manyName(dir, i)), 0o755); err != nil {
				return err
			}
		}
		text = fmt.Appendf(text[:0], "content of file %d", i)
		if err := os.WriteFile(manyName(dir, i), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// many is the cost of backing up a number of small files.
type many struct {
	files        int
	first, again cost
}

// many backs up growing numbers of small files, each time into a new vault and then once
// more, and writes a row for each to out. The time for a file must not grow with their
// number, and the memory must not grow by more than the facts kept about each file need.
func (r *runner) many(ctx context.Context, steps []int, out io.Writer) (all []many, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(r.trees, &fs); err != nil {
		return nil, err
	}
	if need := uint64(steps[len(steps)-1]); fs.Files > 0 && fs.Ffree < need+need/500 || fs.Bfree*uint64(fs.Bsize) < need<<9 {
		return nil, fmt.Errorf("%s has no room for %d files: %d inodes and %d MiB are free; set COUNT or DIR", r.trees, need, fs.Ffree, fs.Bfree*uint64(fs.Bsize)>>20)
	}
	tree := r.tree("a")
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	fmt.Fprintf(out, "| files | step | wall s | us a file | CPU us a file | peak MiB | added MiB |\n|---|---|---|---|---|---|---|\n")
	made := 0
	for _, n := range steps {
		if _, err := r.self(ctx, "many", tree, strconv.Itoa(made), strconv.Itoa(n)); err != nil {
			return all, err
		}
		made = n
		m, err := r.manyOnce(ctx, tree, n)
		if err != nil {
			return all, fmt.Errorf("%d files: %w", n, err)
		}
		all = append(all, m)
		for _, row := range []struct {
			step string
			cost
		}{{stepFirst, m.first}, {stepAgain, m.again}} {
			fmt.Fprintf(out, "| %d | %s | %.2f | %.2f | %.2f | %d | %.1f |\n", n, row.step, row.wall.Seconds(),
				row.wall.Seconds()*1e6/float64(n), row.cpu.Seconds()*1e6/float64(n), row.peak>>20, float64(row.added)/(1<<20))
		}
	}
	return all, nil
}

func (r *runner) manyOnce(ctx context.Context, tree string, n int) (m many, err error) {
	t := &turn{runner: r, tool: tools["holdfast"], name: "holdfast", place: place{bin: r.holdfast, home: r.in("home"), repo: r.in("repo")}}
	defer func() { err = errors.Join(err, os.RemoveAll(t.place.home), os.RemoveAll(t.place.repo)) }()
	for _, dir := range []string{t.place.home, t.place.repo, t.place.in("tmp")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return m, err
		}
	}
	for _, args := range t.initial(t.place) {
		if _, _, err := t.command(args).run(ctx); err != nil {
			return m, err
		}
	}
	select {
	case <-time.After(settled):
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
	m.files = n
	for _, c := range []*cost{&m.first, &m.again} {
		before, err := sizeOf(t.place.repo)
		if err != nil {
			return m, err
		}
		if *c, _, err = t.command(t.backup(t.place, tree, "")).run(ctx); err != nil {
			return m, err
		}
		if c.stored, err = sizeOf(t.place.repo); err != nil {
			return m, err
		}
		c.added = c.stored - before
	}
	return m, nil
}
