package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cost is the cost of one process, with the processes that it waited for.
type cost struct {
	wall   time.Duration
	cpu    time.Duration // user and system
	peak   int64         // bytes resident, of the largest process
	added  int64         // bytes that the repository grew by
	stored int64         // bytes that the repository has
}

// command is one process to run.
type command struct {
	args []string
	dir  string // to run in
	env  []string
}

// run runs c and returns its cost, without the stored bytes, and its standard output. A
// process that fails is an error with the end of the process's messages.
func (c command) run(ctx context.Context) (cost, string, error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = c.dir, c.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	if err != nil {
		if ctx.Err() != nil {
			return cost{}, "", ctx.Err()
		}
		said := strings.TrimSpace(stderr.String() + "\n" + stdout.String())
		return cost{}, "", fmt.Errorf("%s: %w: %s", strings.Join(c.args, " "), err, said[max(0, len(said)-1000):])
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return cost{
		wall: wall,
		cpu:  time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		peak: usage.Maxrss << 10, // Linux counts KiB
	}, stdout.String(), nil
}

// sizeOf is the sum of the sizes of the files below dir.
func sizeOf(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// same compares two trees: the kind of object at each path, the content of files and the targets
// of symbolic links. A tool that is fast because it restores something else is not fast.
func same(a, b string) error {
	var count [2]int
	for i, dir := range []string{a, b} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			count[i]++
			if i == 1 {
				return nil
			}
			return sameEntry(path, b+strings.TrimPrefix(path, a), d)
		})
		if err != nil {
			return err
		}
	}
	if count[0] != count[1] {
		return fmt.Errorf("%s has %d entries, %s has %d", a, count[0], b, count[1])
	}
	return nil
}

func sameEntry(a, b string, d fs.DirEntry) error {
	is, err := os.Lstat(b)
	if err != nil {
		return err
	}
	if is.Mode().Type() != d.Type() {
		return fmt.Errorf("%s: %v became %v", a, d.Type(), is.Mode().Type())
	}
	read := os.ReadFile
	switch {
	case d.Type() == fs.ModeSymlink:
		read = func(path string) ([]byte, error) {
			target, err := os.Readlink(path)
			return []byte(target), err
		}
	case !d.Type().IsRegular():
		return nil
	}
	want, err := read(a)
	if err != nil {
		return err
	}
	got, err := read(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return fmt.Errorf("%s was restored with other content", a)
	}
	return nil
}
