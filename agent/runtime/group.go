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

	"holdfast/internal/mounts"
)

// minID is the length of an engine's full id.
const minID = 64

// group is the control group of a container. The kernel names the group of the
// container's first process; the container's group is that group, or the group above it
// whose name has the container's id. The list of processes of the engine ("docker top")
// is no use: it needs ps, and its numbers may belong to other processes by now.
type group struct {
	path string // as the kernel names it, in the hierarchy of the freezer
	dir  string // the same in the file system
	// the file that has the time that the group's processes have spent on the processors
	cpu string
	v2  bool
}

// placement is the group of a process in one hierarchy.
type placement struct{ hierarchy, path string }

// The hierarchies that count here. In version 2 there is one for all.
const (
	freezer = "freezer"
	cpuacct = "cpuacct"
	unified = ""
)

// placements reads in which groups a process is: lines are
// "4:freezer:/docker/<id>" and "0::/system.slice/docker-<id>.scope/below".
func placements(pid int) ([]placement, error) {
	b, err := os.ReadFile(filepath.Join(procDir(pid), "cgroup"))
	if err != nil {
		return nil, err
	}
	var all []placement
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for hierarchy := range strings.SplitSeq(f[1], ",") {
			if slices.Contains([]string{freezer, cpuacct, unified}, hierarchy) {
				all = append(all, placement{hierarchy, f[2]})
			}
		}
	}
	return all, nil
}

// find returns the path of the process in a hierarchy.
func find(all []placement, hierarchy string) (string, bool) {
	i := slices.IndexFunc(all, func(p placement) bool { return p.hierarchy == hierarchy })
	if i < 0 {
		return "", false
	}
	return all[i].path, true
}

// upTo cuts a path behind the group that is named after the id: "<id>", "docker-<id>.scope".
func upTo(path, id string) (string, bool) {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if name := strings.TrimSuffix(part, ".scope"); name == id || strings.HasSuffix(name, "-"+id) {
			return strings.Join(parts[:i+1], "/"), true
		}
	}
	return "", false
}

// groupOf finds the group of the container with that id, whose first process has that number.
// It fails when that process can't be seen under its number: the engine runs elsewhere, or in
// another PID namespace, and a held container could not be killed from here.
func groupOf(id string, first int) (*group, error) {
	foreign := fmt.Errorf("its first process, %d by the engine's word, is not a process of this host: the agent must run on the engine's host and in its PID namespace", first)
	if first <= 0 {
		return nil, foreign
	}
	all, err := placements(first)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, foreign
	}
	if err != nil {
		return nil, err
	}
	// A host may have both versions. The engine has put the container into the groups
	// of the version that it uses.
	g := &group{}
	hierarchy, accounts := freezer, cpuacct
	where, _ := find(all, freezer)
	var ok bool
	if g.path, ok = upTo(where, id); !ok {
		hierarchy, accounts, g.v2 = unified, unified, true
		where, _ = find(all, unified)
		if g.path, ok = upTo(where, id); !ok {
			return nil, foreign
		}
	}
	table, err := mounts.Read(mounts.Own)
	if err != nil {
		return nil, fmt.Errorf("find its control group: %w", err)
	}
	if g.dir, err = placed(table, hierarchy, g.path); err != nil {
		return nil, err
	}
	where, _ = find(all, accounts)
	if where, ok = upTo(where, id); !ok {
		return nil, fmt.Errorf("process %d is in no control group of container %.12s that counts its time on the processors (%s)", first, id, accounts)
	}
	cpu, err := placed(table, accounts, where)
	if err != nil {
		return nil, err
	}
	g.cpu = filepath.Join(cpu, "cpuacct.usage")
	if g.v2 {
		g.cpu = filepath.Join(cpu, "cpu.stat")
	}
	return g, nil
}

// placed finds the folder of a group.
func placed(table []mounts.Mount, hierarchy, path string) (string, error) {
	for _, m := range slices.Backward(table) {
		if hierarchy == unified && m.Kind != "cgroup2" || hierarchy != unified && (m.Kind != "cgroup" || !slices.Contains(strings.Split(m.Super, ","), hierarchy)) {
			continue
		}
		if below, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Root, "/")); ok && strings.HasPrefix(below, "/") {
			return filepath.Join(m.Point, below), nil
		}
	}
	what := "control groups of version 2"
	if hierarchy != unified {
		what = "the control groups of " + hierarchy
	}
	return "", fmt.Errorf("control group %s is not to be found: the agent must see %s, as they are mounted below /sys/fs/cgroup", path, what)
}

// work is the time that the processes of the group, with the ended ones, have spent on
// the processors since the group was made. It stands still while the group is frozen,
// and any instruction changes it.
func (g *group) work() (string, error) {
	b, err := os.ReadFile(g.cpu)
	if err != nil {
		return "", fmt.Errorf("read how long it ran: %w", err)
	}
	if !g.v2 {
		return strings.TrimSpace(string(b)) + " ns", nil
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "usage_usec" {
			return f[1] + " us", nil
		}
	}
	return "", fmt.Errorf("read how long it ran: %s has no line usage_usec", g.cpu)
}

// processes lists the processes of the group and of the groups below it, in numbers of
// this PID namespace, without dead processes that wait for their parent. It is complete
// only while the container is held or gone.
func (g *group) processes() (pids []int, err error) {
	err = filepath.WalkDir(g.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return gone(err)
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil // a group of threads: the group above lists its processes
		}
		if err != nil {
			return gone(err)
		}
		for number := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(number)
			if err != nil {
				return err
			}
			if !dead(pid) && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the processes of its control group: %w", err)
	}
	return pids, nil
}

// gone is nil for the error of a group that was removed.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// has tells whether the process, now, is in the group or in one
// below. A process that is gone is not.
func (g *group) has(pid int) (bool, error) {
	all, err := placements(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	hierarchy := freezer
	if g.v2 {
		hierarchy = unified
	}
	path, ok := find(all, hierarchy)
	return ok && (path == g.path || strings.HasPrefix(path, g.path+"/")), nil
}

// killAllBut sends SIGKILL to every process of a held container but its first.
//
// "docker kill" alone signals the first process and resumes, and until the kernel has
// torn down the rest, the others run: some records were written in every try. So they
// get their SIGKILL while the freezer holds them, and when it lets go, they die before
// they are back in their program. (Control groups of version 2 let SIGKILL through to a
// frozen process.) The first process is left to the engine, which notes before it
// signals that the stop was wanted: if it died on its own, a restart policy would bring
// it up again. For the same reason the one write to cgroup.kill of version 2 is no way.
//
// It looks again until it has seen no new process: a held one can't
// fork, but the list is not read at one instant.
func (g *group) killAllBut(first int) error {
	sent := map[int]bool{first: true}
	for {
		pids, err := g.processes()
		if err != nil {
			return err
		}
		fresh := false
		for _, pid := range pids {
			if sent[pid] {
				continue
			}
			sent[pid], fresh = true, true
			if err := g.kill(pid); err != nil {
				return err
			}
		}
		if !fresh {
			return nil
		}
	}
}

// kill holds the process by a descriptor while it checks the process's group, so that a
// number which was given to another process meanwhile hits nobody.
func (g *group) kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if in, err := g.has(pid); err != nil || !in {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// procDir is the kernel's folder of facts about a process.
func procDir(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// dead tells whether the process has ended: its state, after the name in parentheses, is Z or X.
func dead(pid int) bool {
	b, err := os.ReadFile(filepath.Join(procDir(pid), "stat"))
	if err != nil {
		return true
	}
	_, after, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	return ok && (strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X"))
}
