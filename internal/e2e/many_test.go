package e2e_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/agent/config"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

// peak is the most memory that the agent has had, in MiB.
func (h *host) peak() (mib float64) {
	h.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.proc.Process.Pid))
	must(h.t, err)
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	_, err = fmt.Sscan(after, &mib)
	must(h.t, err)
	return mib / 1024
}

// cpuTime is the processor time of a process; 0 is this process,
// in which the path to the store and the control plane are.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	if pid == 0 {
		pid = os.Getpid()
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var user, system int
	_, err = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	must(t, err)
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
}

// neighbour is other work on the host, which has to be in time.
type neighbour struct {
	t    *testing.T
	proc *os.Process
	path string
	mark int
}

func startNeighbour(t *testing.T) *neighbour {
	t.Helper()
	n := &neighbour{t: t, path: filepath.Join(t.TempDir(), "late")}
	out, err := os.Create(n.path)
	must(t, err)
	c := exec.Command(program(t, "neighbour"))
	c.Stdout = out
	must(t, c.Start())
	n.proc = c.Process
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		_ = out.Close()
	})
	return n
}

// p99 is how late it was at worst in 99 of 100 times since the last call.
func (n *neighbour) p99() time.Duration {
	n.t.Helper()
	b, err := os.ReadFile(n.path)
	must(n.t, err)
	var late []int
	for _, l := range lines(b)[n.mark:] {
		var us int
		_, err := fmt.Sscan(l, &us)
		must(n.t, err)
		late = append(late, us)
	}
	n.mark += len(late)
	if len(late) == 0 {
		return 0
	}
	slices.Sort(late)
	return time.Duration(late[len(late)*99/100]) * time.Microsecond
}

// processors are those on which this process may run: each as a set of one, and all.
func processors(t *testing.T) (each []*unix.CPUSet, all *unix.CPUSet) {
	t.Helper()
	all = new(unix.CPUSet)
	must(t, unix.SchedGetaffinity(0, all))
	for n := 0; len(each) < all.Count(); n++ {
		if all.IsSet(n) {
			one := new(unix.CPUSet)
			one.Set(n)
			each = append(each, one)
		}
	}
	return each, all
}

// pin has a process run on these processors only, with all its threads and their children.
func pin(t *testing.T, pid int, set *unix.CPUSet) {
	t.Helper()
	for pinned := map[int]bool{}; ; {
		before := len(pinned)
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		must(t, err)
		for _, thread := range threads {
			id, err := strconv.Atoi(filepath.Base(thread))
			must(t, err)
			if err := unix.SchedSetaffinity(id, set); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
			pinned[id] = true
		}
		if len(pinned) == before { // or an unpinned thread began some meanwhile
			return
		}
	}
}

// flush writes back the file system of a folder.
func flush(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	must(t, errors.Join(unix.Syncfs(int(f.Fd())), f.Close()))
}

// fair fails the test unless instances of one size were done about in the
// order of the command, as the agent's DESIGN.md promises: none was
// overtaken by, or overtook, more than four times as many as may be at work.
func fair(t *testing.T, ids []string, done []received) {
	t.Helper()
	most := 0
	for at, e := range done {
		off := at - slices.Index(ids, e.Instance)
		most = max(most, off, -off)
	}
	if limit := 4 * config.DefaultJobs; most > limit {
		t.Errorf("an instance was done %d places from its own in the command, and may be %d", most, limit)
	}
	t.Logf("of %d, all were done at most %d places from their own", len(ids), most)
}

// TestManyInstances backs up a hundred instances with one command, to a store that answers
// 20 ms later, beside one instance of the same size together, and prints the times; it
// checks memory, the reports and their order. MIB is the size of an instance. In the end
// it does so once more with the agent and the neighbour on a processor of their own, as
// where the store is elsewhere, to show the agent's effect on the neighbour.
func TestManyInstances(t *testing.T) {
	testbed.Need(t, "root")
	const count = 100
	mib := fromEnv(t, "MIB", 4)
	// A store is elsewhere. Beside the instances and the journal its
	// data would have to reach the disk with each flush of theirs.
	minio := testbed.StartMinIOIn(t, testbed.Tmpfs(t, fmt.Sprintf("size=%dm", 2*count*mib+1024)))
	volumes := testbed.Filesystem(t, "ext4", int64(count*mib)<<20*5/4+4<<30)
	far := testbed.StartToxic(t, minio.Endpoint)
	far.Add("latency", testbed.FromServer, map[string]int{"latency": 20})
	other := startNeighbour(t)
	time.Sleep(2 * time.Second)
	alone := other.p99()

	// What store and path alone cost a neighbour, as they are on this
	// host for the sake of the test: packs put by this process.
	bucket := minio.Bucket(t)
	store, err := obs.Open(t.Context(), minio.URLVia(far.Endpoint, bucket, ""), obs.Options{Getenv: minio.Getenv})
	must(t, err)
	pack := make([]byte, 16<<20)
	_, err = rand.Read(pack)
	must(t, err)
	other.p99()
	var puts errgroup.Group
	puts.SetLimit(4)
	for i := range min(count*mib/16, 50) {
		puts.Go(func() error { return store.Put(t.Context(), fmt.Sprint("packs/", i), pack) })
	}
	must(t, puts.Wait())
	storeLate := other.p99()
	must(t, store.Close())
	// it takes memory
	discard := func(bucket string) { must(t, os.RemoveAll(filepath.Join(minio.DataDir(), bucket))) }
	discard(bucket)

	back := func(n, files int, apart bool) (took, first time.Duration, peak float64, late time.Duration) {
		p := startPlane(t)
		bucket := minio.Bucket(t)
		h := newHost(t, p, minio.URLVia(far.Endpoint, bucket, ""), minio.Env()...)
		// The path of a volume may have no link in it.
		must(t, errors.Join(os.Mkdir(filepath.Join(h.dir, "volumes"), 0o755), unix.Mount(volumes, filepath.Join(h.dir, "volumes"), "", unix.MS_BIND, "")))
		t.Cleanup(func() { must(t, unix.Unmount(filepath.Join(h.dir, "volumes"), unix.MNT_DETACH)) })
		var ids []string
		for i := range n {
			id := fmt.Sprintf("phone-%d", i)
			volume := h.addFolder(id, tenant, false)
			for k := range files {
				bulkFile(t, filepath.Join(volume, fmt.Sprint("bulk-", k)), mib)
			}
			ids = append(ids, id)
		}
		flush(t, volumes) // the measurement leaves out the test's own writes
		h.start("")
		if apart {
			each, all := processors(t)
			t.Cleanup(func() { pin(t, os.Getpid(), all) })
			pin(t, os.Getpid(), each[0]) // the path to the store, and the control plane
			pin(t, minio.PID(), each[0])
			pin(t, other.proc.Pid, each[1])
			pin(t, h.proc.Process.Pid, each[1])
		}
		other.p99()
		begin := time.Now()
		agent, store, self := cpuTime(t, h.proc.Process.Pid), cpuTime(t, minio.PID()), cpuTime(t, 0)
		h.backup("request-1", ids...)
		within(t, patience+time.Duration(count*mib)*(time.Second/10), "all are told", func() bool { return len(p.got(completed))+len(p.got(failed)) == n })
		took = time.Since(begin)
		late = other.p99()
		t.Logf("processor time for %d: agent %s, store %s, the path to it and the control plane %s", n,
			cpuTime(t, h.proc.Process.Pid)-agent, cpuTime(t, minio.PID())-store, cpuTime(t, 0)-self)
		done := p.got(completed)
		if len(done) != n {
			t.Fatalf("%d of %d were backed up", len(done), n)
		}
		fair(t, ids, done)
		peak, first = h.peak(), done[0].At.Sub(begin)
		if code := h.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		for _, id := range ids {
			must(t, os.RemoveAll(filepath.Join(volumes, id)))
		}
		discard(bucket)
		return took, first, peak, late
	}
	one, _, oneMemory, oneLate := back(1, count, false)
	many, first, manyMemory, manyLate := back(count, 1, false)
	t.Logf("%d MiB as one instance: %.2f s, %.0f MiB of memory", count*mib, one.Seconds(), oneMemory)
	t.Logf("as %d instances:       %.2f s, %.0f MiB of memory; the first was told after %.2f s", count, many.Seconds(), manyMemory, first.Seconds())
	t.Logf("ratios: time %.2f, memory %.2f", many.Seconds()/one.Seconds(), manyMemory/oneMemory)
	t.Logf("a neighbour is late by (p99): alone %s, beside the store %s, beside one instance %s, beside %d %s", alone, storeLate, oneLate, count, manyLate)
	if runtime.NumCPU() > 1 {
		_, _, _, late := back(count, 1, true)
		t.Logf("beside the agent with %d, and without a store on its processor: %s", count, late)
	}
	if limit := 1.3; manyMemory > limit*oneMemory {
		t.Errorf("a hundred instances take %.0f MiB of memory, and one takes %.0f", manyMemory, oneMemory)
	}
}
