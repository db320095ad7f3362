package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// roomForRounds is the size of the file system that the tools work in. It is sparse:
// unused space takes no memory.
const roomForRounds = 64 << 30

// inMemory makes folders to work in below dir: rest, and trees for the trees. Where dir is
// on tmpfs and the process runs as root, trees is an ext4 in memory. On tmpfs the times of
// change do not tell of every change, so a careful tool would have to read everything
// again there, which no instance's storage makes it do. undo removes everything. The file
// system has room for that many small files, each in its inode, and for a phone's.
func inMemory(ctx context.Context, dir string, files int, progress io.Writer) (rest, trees string, undo func() error, err error) {
	made, err := os.MkdirTemp(dir, "holdfast-bench-")
	if err != nil {
		return "", "", nil, err
	}
	undo = func() error { return os.RemoveAll(made) }
	var fs unix.Statfs_t
	if err := unix.Statfs(made, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || os.Geteuid() != 0 {
		return made, made, undo, err
	}
	disk, mount := filepath.Join(made, "disk"), filepath.Join(made, "mount")
	unmounted := undo
	err = errors.Join(os.Mkdir(mount, 0o755), os.WriteFile(disk, nil, 0o600))
	if err == nil {
		err = os.Truncate(disk, roomForRounds)
	}
	if err == nil {
		err = run(ctx, "mkfs.ext4", "-q", "-m", "0", "-O", "inline_data", "-N", strconv.Itoa(files+files/100+1_000_000), disk)
	}
	if err == nil {
		// The kernel would go on to write empty inodes while the tools work.
		err = run(ctx, "mount", "-o", "loop,noatime,noinit_itable", disk, mount)
	}
	if err != nil {
		fmt.Fprintf(progress, "no ext4 in memory, so on tmpfs: %v\n", err)
		return made, made, unmounted, nil
	}
	return made, mount, func() error {
		return errors.Join(run(context.WithoutCancel(ctx), "umount", mount), unmounted())
	}, nil
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
