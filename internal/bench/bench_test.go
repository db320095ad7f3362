package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/bench/phone"
	"holdfast/internal/testbed"
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
	code := m.Run()
	if builtIn != "" {
		_ = os.RemoveAll(builtIn) // a folder in the system's for temporary files
	}
	os.Exit(code)
}

// built is the program that the tests of this package measure. Without the flags of a release, it
// is linked of packages that the tests of other packages have compiled already.
var built = sync.OnceValues(func() (bin string, err error) {
	if builtIn, err = os.MkdirTemp("", "holdfast-testbed-"); err != nil {
		return "", err
	}
	bin = filepath.Join(builtIn, "holdfast")
	return bin, build(context.Background(), bin, nil)
})

var builtIn string // the folder; "" before it is made

// program returns built.
func program(t *testing.T) string {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// inShm returns a folder in memory, which is faster.
func inShm(t *testing.T) string {
	t.Helper()
	memory, err := os.MkdirTemp("/dev/shm", "holdfast-testbed-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	return memory
}

// TestBench runs all that "make bench" runs, on few bytes, with the tools that are there.
func TestBench(t *testing.T) {
	dir := inShm(t)
	stores := []string{near}
	minio, err := testbed.GoProgram("minio")
	switch {
	case err == nil:
		t.Setenv("HOLDFAST_TOOLS", filepath.Dir(minio))
		stores = append(stores, far)
	case testbed.MustRun():
		t.Fatal(err)
	}
	set := map[string]string{
		"MIX": "noise", "SIZE": "8", "ROUNDS": "1", "DIR": dir, "OUT": filepath.Join(dir, "BENCH.md"), "PATH": os.Getenv("PATH"),
		"HOLDFAST": program(t), "STORE": strings.Join(stores, " "),
	}
	if err := bench(t.Context(), func(name string) string { return set[name] }, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(set["OUT"])
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"the floor": 2, "holdfast": len(steps) * len(stores)}
	for _, peer := range []string{"restic", "borg", "kopia"} {
		if _, err := exec.LookPath(peer); err != nil {
			continue
		}
		want[peer] = len(steps) * len(stores)
		if tools[peer].nearby {
			want[peer] = len(steps)
		}
	}
	for tool, want := range want {
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
	list := []found{{"holdfast", "/x/holdfast", "holdfast 1.2.3"}, {"holdfast-s2", "/x/holdfast", "holdfast 1.2.3"}, {"restic", "/x/restic", "restic 0.1"}, {"borg", "/x/borg", "borg 4"}}
	other := results{}
	made(other, "floor", stepRestore, 1, 0)
	made(other, "holdfast", stepFirst, 3, 40)
	made(other, "holdfast-s2", stepFirst, 1, 45)
	made(other, "restic", stepFirst, 9, 110)
	s := settings{rounds: 2, seeds: []int{5}, sizes: []int{64}, mixes: []phone.Mix{phone.Phone, phone.Small}, stores: []string{near, far}}
	got := report("2 cores", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), s, list, []measured{
		{cell{phone.Phone, 64 << 20, 5, near}, 99, 64 << 20, r},
		{cell{phone.Small, 64 << 20, 5, far}, 3000, 63 << 20, other},
	})
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
		return map[string]string{"SIZE": "8 x", "SEED": "-1", "ROUNDS": "0", "TOOLS": "restic tar", "MIX": "phone music", "STORE": "tape"}[name]
	})
	for _, want := range []string{
		`SIZE: must be numbers from 8 on, got "x"`, `SEED: must be numbers from 0 on, got "-1"`, `ROUNDS: must be a number from 1 on, got "0"`,
		`no tool "tar"`, `MIX: no mixture "music"`, `STORE: no store "tape"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %s", err, want)
		}
	}
	s, err := settingsFrom(func(string) string { return "" })
	if err != nil || s.rounds != 3 || s.chosen || len(s.tools) != 4 {
		t.Errorf("without settings: %+v, %v", s, err)
	}
	if got := fmt.Sprint(s.cells()); got != "[phone, seed 1 databases, seed 1]" {
		t.Errorf("without settings: %s", got)
	}
	s, err = settingsFrom(func(name string) string {
		return map[string]string{"SIZE": "8 16", "SEED": "3", "MIX": "all", "STORE": "near far"}[name]
	})
	if got := len(s.cells()); err != nil || got != 2*5*2 {
		t.Errorf("%d cells, %v", got, err)
	}
}

// TestCopyTree: the floor of a restore copies all entries and bytes.
func TestCopyTree(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	// In a process of its own, as the bench makes it: the peak of memory of a program that a
	// test starts is never below the memory that this process has.
	r := &runner{dir: t.TempDir(), trees: filepath.Dir(a), now: cell{mix: phone.Images, bytes: 8 << 20, seed: 1}}
	if err := r.phone(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(a, b); err != nil {
		t.Fatal(err)
	}
	if err := same(a, b); err != nil {
		t.Error(err)
	}
	if err := copyTree(a, b); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a copy over another: %v", err)
	}
}

// TestNetwork: the network before a far store passes all bytes on in both directions, and ends
// a direction when its sender ends it.
func TestNetwork(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { // answers with all that it was sent, once that has ended
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(c)
			_, _ = c.Write(all)
			_ = c.Close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "network", server.Addr().String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var address string
	if _, err := fmt.Fscanln(out, &address); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(sent)
	for range 3 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came back of %d: %v", len(got), len(sent), err)
		}
		_ = c.Close()
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

// manyPeak bounds the memory of a backup of many small files, in bytes.
const manyPeak = 128 << 20

// TestManyFiles runs the first step of BIG=1 with fewer files. How long a file takes
// is printed, and depends on the machine.
func TestManyFiles(t *testing.T) {
	dir := inShm(t)
	r := &runner{settings: settings{holdfast: program(t)}, dir: dir, trees: dir, path: os.Getenv("PATH")}
	var table strings.Builder
	all, err := r.many(t.Context(), []int{5000}, &table)
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
