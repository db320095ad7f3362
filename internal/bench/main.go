// Command bench measures holdfast side by side with restic, borg and kopia, as far as
// they are on PATH: whole processes, on the same bytes, in a memory file system. "make
// bench" runs it. See run.go for the steps, and package phone for the data.
//
// Variables of the environment set it:
//
//	SIZE=512      size of the tree in MiB; about five times this size of memory is needed
//	ROUNDS=3      rounds; each figure is the median of them
//	SEED=1        of the data
//	TOOLS=...     the tools: holdfast restic borg borg-zstd kopia; default: all but borg-zstd
//	OUT=FILE      writes the report to FILE too, as markdown; keeps FILE from "## Notes" on
//	DIR=/dev/shm  the working folder, emptied at the end; as root, trees are in an ext4 in
//	              memory there
//	HOLDFAST=FILE the program to measure; default: built from the source
//	BIG=1         instead: backs up 200 thousand, 1, 3 and 10 million small files, and
//	              prints the costs
//	COUNT=n       with BIG: at most n files; a million take about 0.4 GiB of memory as root,
//	              else 5 GiB
//
// It starts no goroutine except in the floor. If it is killed, it leaves a folder
// holdfast-bench-* in DIR, perhaps with a file system mounted in it.
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
	case name == "phone" && len(args) == 4: // DIR SEED BYTES INSTANCE
		n, err := numbers(args[1:])
		if err != nil {
			return err
		}
		totals, err := phone.Make(args[0], phone.Options{Seed: uint64(n[0]), Bytes: n[1], Instance: int(n[2])})
		fmt.Fprintf(out, "%d files, %d MiB", totals.AllFiles(), totals.AllBytes()>>20)
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
	bytes    int64
	rounds   int
	seed     int
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
	s.bytes = int64(number("SIZE", 512, 8)) << 20
	s.rounds = number("ROUNDS", 3, 1)
	s.seed = number("SEED", 1, 0)
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
	files := 0
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
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version="+revision(ctx), "-o", s.holdfast, "holdfast/cmd/holdfast")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build holdfast: %w\n%s", err, text)
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
	if err := r.run(ctx); err != nil {
		return err
	}
	text := report(machine(), time.Now().UTC(), r.settings, r.data, r.found, r.results)
	if _, err := io.WriteString(out, text); err != nil || s.out == "" {
		return err
	}
	return keepNotes(s.out, text)
}

// revision names the source that is built, so that figures can be made again.
func revision(ctx context.Context) string {
	name, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown" // an unpacked source
	}
	return strings.TrimSpace(string(name))
}
