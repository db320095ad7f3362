// Command bench measures holdfast side by side with restic, borg and kopia, as far as
// they are on PATH: whole processes, on the same bytes, in a memory file system. "make
// bench" runs it. See run.go for the steps, and package phone for the data.
//
// Variables of the environment set it:
//
//	MIX=...       the mixtures of data, or all: phone databases noise images small (package phone);
//	              default: phone databases
//	SIZE=512      sizes of the tree in MiB; about five times this size of memory is needed
//	SEED=1        seeds of the data
//	STORE=near    the stores: near, a folder in memory; far, MinIO behind 20 ms and 100 MB/s
//	ROUNDS=3      rounds; each figure is the median of them
//	TOOLS=...     the tools: holdfast holdfast-s2 restic borg borg-zstd kopia; default: all but
//	              holdfast-s2 and borg-zstd
//	OUT=FILE      writes the report to FILE too, as markdown; keeps FILE from "## Notes" on
//	DIR=/dev/shm  the working folder, emptied at the end; as root, trees are in an ext4 in
//	              memory there
//	HOLDFAST=FILE the program to measure; default: built from the source
//	BIG=1         instead: backs up 200 thousand, 1, 3 and 10 million small files, and
//	              prints the costs
//	COUNT=n       with BIG: at most n files; a million take about 0.4 GiB of memory as root,
//	              else 5 GiB
//
// MIX, SIZE, SEED and STORE take several values, with spaces between. Each combination of them is
// measured, and a table shows the worst of all ratios. A far store needs a tool that speaks S3,
// so borg is left out there. With the defaults and all tools all takes about eight minutes on two
// cores.
//
// It starts goroutines only in the floors and in the network before a far store, which are
// processes of their own. If it is killed, it leaves a folder holdfast-bench-* in DIR, perhaps
// with a file system mounted in it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/bench/phone"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 {
		err = part(os.Args[1], os.Args[2:], os.Stdout)
	} else {
		err = bench(ctx, os.Getenv, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// part does one thing in a process of its own: a child's peak of memory, as the kernel
// counts it, is never below its parent's, so the process that measures has to stay small.
func part(name string, args []string, out io.Writer) error {
	switch {
	case name == "phone" && len(args) == 5: // DIR SEED BYTES INSTANCE MIX
		n, err := numbers(args[1:4])
		if err != nil {
			return err
		}
		totals, err := phone.Make(args[0], phone.Options{Seed: uint64(n[0]), Bytes: n[1], Instance: int(n[2]), Mix: phone.Mix(args[4])})
		fmt.Fprint(out, totals.AllFiles(), totals.AllBytes())
		return err
	case name == "day" && len(args) == 2: // DIR SEED
		n, err := numbers(args[1:])
		if err != nil {
			return err
		}
		change, err := phone.Day(args[0], uint64(n[0]))
		fmt.Fprintf(out, "%.1f MiB", float64(change.Bytes)/(1<<20))
		return err
	case name == "many" && len(args) == 3: // DIR FIRST LAST
		n, err := numbers(args[1:])
		if err != nil {
			return err
		}
		return makeMany(args[0], int(n[0]), int(n[1]))
	case name == "same" && len(args) == 2: // DIR DIR
		return same(args[0], args[1])
	case name == "floor" && len(args) == 1: // DIR
		stored, err := floor(args[0])
		fmt.Fprint(out, stored)
		return err
	case name == "copy" && len(args) == 2: // DIR NEWDIR
		return copyTree(args[0], args[1])
	case name == "network" && len(args) == 1: // HOST:PORT
		return network(args[0], out)
	}
	return fmt.Errorf("no part %s with %d arguments; run without arguments, and see the variables in main.go", name, len(args))
}

func numbers(args []string) ([]int64, error) {
	list := make([]int64, len(args))
	for i, a := range args {
		n, err := strconv.ParseInt(a, 10, 64)
		if err != nil {
			return nil, err
		}
		list[i] = n
	}
	return list, nil
}

// settings are the settings of a run.
type settings struct {
	mixes    []phone.Mix
	sizes    []int // MiB
	seeds    []int
	stores   []string
	rounds   int
	tools    []string
	out      string
	dir      string
	holdfast string
	chosen   bool // the tools were named, so each must be there
	big      bool
	count    int
}

func settingsFrom(getenv func(string) string) (settings, error) {
	s := settings{
		out: getenv("OUT"), dir: getenv("DIR"), holdfast: getenv("HOLDFAST"),
		tools: strings.Fields(getenv("TOOLS")),
	}
	var faults []error
	number := func(name string, otherwise, least int) int {
		text := getenv(name)
		if text == "" {
			return otherwise
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			faults = append(faults, fmt.Errorf("%s: must be a number from %d on, got %q", name, least, text))
		}
		return n
	}
	s.lists(getenv, &faults)
	s.rounds = number("ROUNDS", 3, 1)
	s.big = getenv("BIG") != ""
	s.count = number("COUNT", manySteps[len(manySteps)-1], manySteps[0])
	if s.dir == "" {
		s.dir = "/dev/shm"
	}
	if s.chosen = len(s.tools) > 0; !s.chosen {
		s.tools = []string{"holdfast", "restic", "borg", "kopia"}
	}
	for _, name := range s.tools {
		if tools[name] == nil {
			faults = append(faults, fmt.Errorf("TOOLS: no tool %q", name))
		}
	}
	return s, errors.Join(faults...)
}

// bench runs all rounds and writes the report to out, and to progress how far it is.
func bench(ctx context.Context, getenv func(string) string, out, progress io.Writer) (err error) {
	s, err := settingsFrom(getenv)
	if err != nil {
		return err
	}
	files := s.files()
	if s.big {
		files = s.count
	}
	dir, trees, undo, err := inMemory(ctx, s.dir, files, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	if s.holdfast == "" {
		s.holdfast = filepath.Join(dir, "holdfast")
		if err := build(ctx, s.holdfast, append(os.Environ(), "CGO_ENABLED=0"), "-trimpath", "-ldflags", "-X main.version="+revision(ctx)); err != nil {
			return err
		}
	}
	r := &runner{settings: s, dir: dir, trees: trees, path: getenv("PATH"), progress: progress}
	if s.big {
		n := 0
		for n < len(manySteps) && manySteps[n] <= s.count {
			n++
		}
		_, err := r.many(ctx, manySteps[:n], out)
		return err
	}
	if err := r.find(ctx); err != nil {
		return err
	}
	var all []measured
	for _, c := range s.cells() {
		m, err := r.cell(ctx, c)
		if err != nil {
			return err
		}
		all = append(all, m)
	}
	text := report(machine(), time.Now().UTC(), r.settings, r.found, all)
	if _, err := io.WriteString(out, text); err != nil || s.out == "" {
		return err
	}
	return keepNotes(s.out, text)
}

// build makes the program to measure of the source. Without env the environment is that of
// this process.
func build(ctx context.Context, bin string, env []string, flags ...string) error {
	c := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", bin}, flags...), "holdfast/cmd/holdfast")...)
	c.Env = env
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build holdfast: %w\n%s", err, text)
	}
	return nil
}

// revision names the source that is built, so that figures can be made again.
func revision(ctx context.Context) string {
	name, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown" // an unpacked source
	}
	return strings.TrimSpace(string(name))
}
