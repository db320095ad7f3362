package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMain is also the program that TestBench's runs start for
// their parts; flags of tests begin with a dash.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1][0] != '-' {
		if err := part(os.Args[1], os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestBench runs all that "make bench" runs, on few bytes, with the tools that are there.
func TestBench(t *testing.T) {
	dir := t.TempDir()
	if memory, err := os.MkdirTemp("/dev/shm", "holdfast-testbed-"); err == nil { // faster
		t.Cleanup(func() { os.RemoveAll(memory) })
		dir = memory
	}
	set := map[string]string{
		"SIZE": "8", "ROUNDS": "1", "DIR": dir, "OUT": filepath.Join(dir, "BENCH.md"), "PATH": os.Getenv("PATH"),
	}
	if err := bench(t.Context(), func(name string) string { return set[name] }, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(set["OUT"])
	if err != nil {
		t.Fatal(err)
	}
	have := []string{"the floor", "holdfast"}
	for _, peer := range []string{"restic", "borg", "kopia"} {
		if _, err := exec.LookPath(peer); err == nil {
			have = append(have, peer)
		}
	}
	for _, tool := range have {
		want := len(steps)
		if tool == "the floor" {
			want = 1
		}
		rows := regexp.MustCompile(`(?m)^\| [a-z, -]+\| `+tool+` +\|`).FindAll(written, -1)
		if len(rows) != want {
			t.Errorf("%s has %d steps, want %d:\n%s", tool, len(rows), want, written)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "holdfast-bench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// made adds two rounds of a step to r: wall seconds and one more,
// size MiB of memory and in the store.
func made(r results, tool, step string, wall, size int) {
	for _, more := range []time.Duration{0, time.Second} {
		r.add(tool, step, cost{
			wall: time.Duration(wall)*time.Second + more, cpu: 2 * time.Duration(wall) * time.Second,
			peak: int64(size) << 20, added: int64(size) << 20, stored: int64(size) << 21,
		})
	}
}

func TestReport(t *testing.T) {
	r := results{}
	made(r, "floor", stepFirst, 1, 90)
	made(r, "holdfast", stepFirst, 2, 100)
	made(r, "restic", stepFirst, 9, 110)
	made(r, "borg", stepFirst, 11, 105)
	made(r, "holdfast", stepRestore, 3, 50)
	made(r, "restic", stepRestore, 4, 60)
	made(r, "holdfast", stepOnDisk, 3, 0)
	made(r, "restic", stepOnDisk, 7, 0)
	list := []found{{"holdfast", "/x/holdfast", "holdfast 1.2.3"}, {"restic", "/x/restic", "restic 0.1"}, {"borg", "/x/borg", "borg 4"}}
	s := settings{bytes: 64 << 20, rounds: 2, seed: 5}
	got := report("2 cores", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), s, "99 files, 64 MiB", list, r)
	want, err := os.ReadFile("testdata/report.md")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("report differs from testdata/report.md:\n%s", got)
	}
}

func TestMedian(t *testing.T) {
	for want, list := range map[float64][]int{0: {}, 4: {4}, 5: {7, 3}, 6: {9, 1, 6}} {
		var costs []cost
		for _, s := range list {
			costs = append(costs, cost{wall: time.Duration(s) * time.Second})
		}
		if got := median(costs, wall); got != want {
			t.Errorf("median of %v is %v, want %v", list, got, want)
		}
	}
}

func TestKeepNotes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "BENCH.md")
	if err := keepNotes(file, "# One\n"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("# One\n\n## Notes\n\nWhy.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keepNotes(file, "# Two\n"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "# Two\n\n## Notes\n\nWhy.\n" {
		t.Errorf("got %q", got)
	}
}

func TestSettings(t *testing.T) {
	_, err := settingsFrom(func(name string) string {
		return map[string]string{"SIZE": "x", "ROUNDS": "0", "TOOLS": "restic tar"}[name]
	})
	for _, want := range []string{`SIZE: must be a number from 8 on, got "x"`, `ROUNDS: must be a number from 1 on, got "0"`, `no tool "tar"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %s", err, want)
		}
	}
	s, err := settingsFrom(func(string) string { return "" })
	if err != nil || s.bytes != 512<<20 || s.rounds != 3 || s.chosen || len(s.tools) != 4 {
		t.Errorf("without settings: %+v, %v", s, err)
	}
}

func TestMeasure(t *testing.T) {
	c := command{args: []string{"/bin/sh", "-c", "echo said; while [ $((i=i+1)) -lt 20000 ]; do :; done"}, dir: t.TempDir()}
	spent, said, err := c.run(context.Background())
	if err != nil || said != "said\n" || spent.cpu <= 0 || spent.wall <= 0 || spent.peak <= 0 {
		t.Errorf("cost %+v, said %q, error %v", spent, said, err)
	}
	c.args[2] = "echo why >&2; exit 3"
	if _, _, err := c.run(context.Background()); err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("error is %v", err)
	}
}

func TestSame(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "sub/f"), []byte("one"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := same(a, b); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(b, "more"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if same(a, b) == nil {
		t.Error("an entry too many passes")
	}
	if err := os.WriteFile(filepath.Join(a, "more"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if same(a, b) == nil {
		t.Error("other content passes")
	}
}

func TestFloor(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "zeros"), make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if left, err := floor(dir); err != nil || left <= 0 || left > 1<<16 {
		t.Errorf("3 MiB of zeros become %d bytes, error %v", left, err)
	}
}

// manyPeak bounds the memory of a backup of 200,000 small files, in bytes. Apart from
// the catalogue and the index, the memory does not depend on the number of files.
const manyPeak = 128 << 20

// TestManyFiles runs the first step of BIG=1. How long a file takes
// is printed, and depends on the machine.
func TestManyFiles(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-testbed-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "holdfast")
	if text, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	r := &runner{settings: settings{holdfast: bin}, dir: dir, trees: dir, path: os.Getenv("PATH")}
	var table strings.Builder
	all, err := r.many(t.Context(), manySteps[:1], &table)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
	for _, c := range []cost{all[0].first, all[0].again} {
		if c.peak > manyPeak {
			t.Errorf("%d files took %d MiB of memory, more than %d", all[0].files, c.peak>>20, manyPeak>>20)
		}
	}
	if all[0].again.added > 1<<20 {
		t.Errorf("nothing changed, and %d KiB were added", all[0].again.added>>10)
	}
}
