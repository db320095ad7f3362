package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Processes are found by their control group: a container's carries its id, in both versions of
// control groups and with both of docker's cgroup drivers, and processes that moved to a group below
// keep it in their path. The list of the engine ("docker top") is no use: it needs ps, and numbers
// without a check of what they are now.

// inContainer tells whether the process, now, is in the container's group. A process that is gone is not.
func inContainer(proc string, id string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// Lines are "4:freezer:/docker/<id>" and "0::/system.slice/docker-<id>.scope/below".
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(line, ":", 3)
		if len(f) == 3 && (f[1] == "" || slices.Contains(strings.Split(f[1], ","), "freezer")) && strings.Contains(f[2], id) {
			return true, nil
		}
	}
	return false, nil
}

// procDir is where the kernel tells about a process.
func procDir(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// processesOf lists the container's processes in this PID namespace, without those that are dead and
// wait for their parent. It is complete only while the container is held or gone.
func processesOf(id string) ([]int, error) {
	if len(id) < 64 { // an engine's full id: a short one could be part of another path
		return nil, fmt.Errorf("container id %q is not a full one", id)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		in, err := inContainer(procDir(pid), id)
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		if in && !dead(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// dead tells whether the process has ended: its state, after the name in parentheses, is Z or X.
func dead(pid int) bool {
	b, err := os.ReadFile(filepath.Join(procDir(pid), "stat"))
	if err != nil {
		return true
	}
	_, after, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	return ok && (strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X"))
}

// reachable fails when the container's first process can't be seen under its number: the engine runs
// elsewhere, or in another PID namespace, and a held container could not be killed from here.
func reachable(id string, first int) error {
	in, err := inContainer(procDir(first), id)
	if err == nil && (!in || first <= 0) {
		err = fmt.Errorf("its first process, %d by the engine's word, is not a process of this host: the agent must run on the engine's host and in its PID namespace", first)
	}
	return err
}

// killAllBut sends SIGKILL to every process of a held container but its first. It looks again until
// it has seen no new one: a held process can't fork, but the list is not read at one instant.
func killAllBut(id string, first int) error {
	if err := reachable(id, first); err != nil {
		return err
	}
	sent := map[int]bool{first: true}
	for {
		pids, err := processesOf(id)
		if err != nil {
			return err
		}
		fresh := false
		for _, pid := range pids {
			if sent[pid] {
				continue
			}
			sent[pid], fresh = true, true
			if err := kill(id, pid); err != nil {
				return err
			}
		}
		if !fresh {
			return nil
		}
	}
}

// kill holds the process by a descriptor while it checks whose it is, so that a number which was given
// to another process meanwhile hits nobody.
func kill(id string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if in, err := inContainer(procDir(pid), id); err != nil || !in {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}
