package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// roomForRounds is the size of the file system that the tools work in. It is sparse: what is not used takes no memory.
const roomForRounds = 64 << 30

// inMemory gives a folder to work in below dir. Where dir is on tmpfs and we are root, it is an ext4 in memory: on tmpfs
// times of change do not tell of every change, so a tool that is careful has to read everything again there, which no
// instance's storage makes it do. undo takes all of it away.
func inMemory(ctx context.Context, dir string, progress io.Writer) (work string, undo func() error, err error) {
	work, err = os.MkdirTemp(dir, "holdfast-bench-")
	if err != nil {
		return "", nil, err
	}
	undo = func() error { return os.RemoveAll(work) }
	var fs unix.Statfs_t
	if err := unix.Statfs(work, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || os.Geteuid() != 0 {
		return work, undo, err
	}
	disk, mount := filepath.Join(work, "disk"), filepath.Join(work, "mount")
	unmounted := undo
	undo = func() error {
		err := run(context.WithoutCancel(ctx), "umount", mount)
		return errors.Join(err, unmounted())
	}
	err = errors.Join(os.Mkdir(mount, 0o755), os.WriteFile(disk, nil, 0o600))
	if err == nil {
		err = os.Truncate(disk, roomForRounds)
	}
	if err == nil {
		err = run(ctx, "mkfs.ext4", "-q", "-m", "0", "-N", "4000000", disk)
	}
	if err == nil {
		err = run(ctx, "mount", "-o", "loop,noatime", disk, mount)
	}
	if err != nil {
		fmt.Fprintf(progress, "no ext4 in memory, so on tmpfs: %v\n", err)
		return work, unmounted, nil
	}
	return mount, undo, nil
}

func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if path, err := exec.LookPath(name); err != nil {
		cmd.Path, cmd.Err = filepath.Join("/usr/sbin", name), nil
	} else {
		cmd.Path = path
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
