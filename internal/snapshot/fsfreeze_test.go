package snapshot_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/snapshot/snapshottest"
	"holdfast/internal/testbed"
)

// freezeHost tells the marks of this process from the marks of others.
var freezeHost = fmt.Sprint("freeze-", os.Getpid())

func freezeRequest(volume, job string) snapshot.Request {
	return snapshot.Request{Volume: volume, Host: freezeHost, Job: job, Name: "v"}
}

// writes begins a write to a new file in dir; the channel has its end.
func writes(dir string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(dir, "written"), []byte("x"), 0o600) }()
	return done
}

func TestFsFreezeConformance(t *testing.T) {
	testbed.Need(t, "ext4")
	snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
		return snapshottest.Subject{Provider: provider(t, "fsfreeze"), Volume: testbed.Filesystem(t, "ext4", 64<<20), Slow: true}
	})
}

// While a view stands, every writer waits; several views share one freeze.
func TestFsFreeze(t *testing.T) {
	testbed.Need(t, "xfs", "ext4")
	p := provider(t, "fsfreeze")
	for _, kind := range []string{"ext4", "xfs"} {
		dir := testbed.Filesystem(t, kind, 512<<20)
		disk := image(t, filepath.Join(dir, "disk"), 1<<20)
		var refs []snapshot.Ref
		for i, volume := range []string{dir, disk} {
			snap, err := p.Create(t.Context(), freezeRequest(volume, fmt.Sprint("j", i)))
			must(t, err)
			refs = append(refs, snap.Ref)
		}
		if _, err := p.Create(t.Context(), freezeRequest(dir, "j0")); !errors.Is(err, snapshot.ErrExists) {
			t.Errorf("%s: same name again: %v", kind, err)
		}
		done := writes(dir)
		must(t, p.Remove(t.Context(), refs[0]))
		for i, want := range []bool{false, true} {
			if ok, err := p.Stands(t.Context(), refs[i]); ok != want || err != nil {
				t.Errorf("%s: view %d stands: %v, %v", kind, i, ok, err)
			}
		}
		select {
		case err := <-done:
			t.Errorf("%s: written while frozen: %v", kind, err)
		case <-time.After(50 * time.Millisecond):
		}
		must(t, p.Remove(t.Context(), refs[1]))
		if err := <-done; err != nil {
			t.Errorf("%s: write after the thaw: %v", kind, err)
		}
		// Another program's freeze is neither used nor thawed.
		command(t, "fsfreeze", "--freeze", dir)
		if _, err := p.Create(t.Context(), freezeRequest(dir, "j")); err == nil || !strings.Contains(err.Error(), "another program") {
			t.Errorf("%s: frozen by another program: %v", kind, err)
		}
		must(t, p.Remove(t.Context(), refs[0]))
		command(t, "fsfreeze", "--unfreeze", dir) // fails if it is not frozen
	}
}

// A file system that others need is never frozen.
func TestFsFreezeRefuses(t *testing.T) {
	testbed.Need(t, "ext4", "btrfs")
	dir := testbed.Filesystem(t, "ext4", 64<<20)
	below := folder(t, filepath.Join(dir, "a"))
	twice := testbed.Filesystem(t, "ext4", 64<<20)
	bind := folder(t, filepath.Join(testbed.Dir(t), "bind"))
	command(t, "mount", "--bind", twice, bind)
	t.Cleanup(func() { command(t, "umount", bind) })
	root := testbed.Dir(t)
	// A journal in an image that lies on the file system, and an image in that.
	inner := snapshottest.MountImage(t, image(t, filepath.Join(dir, "journal.img"), 16<<20))
	innermost := snapshottest.MountImage(t, image(t, filepath.Join(inner, "journal.img"), 8<<20))
	over := folder(t, filepath.Join(testbed.Dir(t), "over"))
	command(t, "mount", "-t", "overlay", "none", over, "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", folder(t, dir+"/l"), folder(t, dir+"/u"), folder(t, dir+"/w")))
	t.Cleanup(func() { command(t, "umount", over) })
	for _, c := range []struct {
		volume, spare, reason string
	}{
		// for being needed, or for being mounted elsewhere too, which depends on the host
		{"/", "", ""},
		{root, "", "no file system of its own"},
		{below, "", "no file system of its own"},
		{twice, "", "mounted at " + bind},
		{dir, filepath.Join(below, "state", "not-yet", "journal"), "must stay writable"},
		{dir, inner, "must stay writable"},
		{dir, filepath.Join(innermost, "journal.db"), "must stay writable"},
		{dir, over, "must stay writable"},
		{image(t, filepath.Join(below, "disk"), 0), "", "no file system of its own"},
	} {
		req := freezeRequest(c.volume, "j")
		if c.spare != "" {
			req.Spare = []string{c.spare}
		}
		_, reason, err := snapshot.Detect(t.Context(), req, "fsfreeze")
		_, cerr := provider(t, "fsfreeze").Create(t.Context(), req)
		for _, err := range []error{err, cerr} {
			if !errors.Is(err, snapshot.ErrUnsupported) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("%s: %q, %v", c.volume, reason, err)
			}
		}
	}
	req := freezeRequest(dir, "j")
	req.Spare = []string{testbed.Filesystem(t, "ext4", 64<<20), "/dev/null"}
	if _, _, err := snapshot.Detect(t.Context(), req, "fsfreeze"); err != nil {
		t.Error(err)
	}
}

// A guard thaws by itself when its process makes no progress, and when the time that the
// request gives is over. The view is then said to be gone, and another one can be made.
func TestFsFreezeGuardHasATimer(t *testing.T) {
	testbed.Need(t, "ext4")
	dir := testbed.Filesystem(t, "ext4", 64<<20)
	p := provider(t, "fsfreeze")
	defer func(d time.Duration) { snapshot.GuardPatience = d }(snapshot.GuardPatience)
	for name, c := range map[string]struct{ patience, limit time.Duration }{
		"no progress": {200 * time.Millisecond, 0}, "limit": {time.Hour, 200 * time.Millisecond},
	} {
		snapshot.GuardPatience = c.patience
		req := freezeRequest(dir, strings.ReplaceAll(name, " ", "-"))
		req.FreezeLimit = c.limit
		snap, err := p.Create(t.Context(), req)
		must(t, err)
		select {
		case err := <-writes(dir):
			must(t, err)
		case <-time.After(2 * time.Minute):
			t.Errorf("%s: still frozen", name)
		}
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if err = p.(snapshot.Checker).Check(t.Context(), snap.Ref); err != nil || time.Now().After(end) {
				break
			}
		}
		if !errors.Is(err, snapshot.ErrGone) {
			t.Errorf("%s: check of a view that was thawed: %v", name, err)
		}
		snapshot.GuardPatience = time.Hour
		again := freezeRequest(dir, "again")
		snap2, err := p.Create(t.Context(), again)
		must(t, err)
		for ref, want := range map[snapshot.Ref]bool{snap.Ref: false, snap2.Ref: true} {
			if ok, err := p.Stands(t.Context(), ref); ok != want || err != nil {
				t.Errorf("%s: %s stands: %v, %v", name, ref.Path, ok, err)
			}
		}
		must(t, p.Remove(t.Context(), snap.Ref))
		must(t, p.Remove(t.Context(), snap2.Ref))
		if n := snapshot.Frozen(); n != 0 {
			t.Errorf("%s: %d guards are left", name, n)
		}
	}
}

// A guard that hears of progress keeps the file system frozen beyond its patience.
func TestFsFreezeGuardIsTold(t *testing.T) {
	testbed.Need(t, "ext4")
	dir := testbed.Filesystem(t, "ext4", 64<<20)
	p := provider(t, "fsfreeze")
	defer func(d time.Duration) { snapshot.GuardPatience = d }(snapshot.GuardPatience)
	snapshot.GuardPatience = time.Second
	for try := 0; ; try++ {
		snap, err := p.Create(t.Context(), freezeRequest(dir, "told"))
		must(t, err)
		late := false
		for begin, last := time.Now(), time.Now(); time.Since(begin) < 2*time.Second; time.Sleep(10 * time.Millisecond) {
			snapshot.KeepFrozen()
			late = late || time.Since(last) > time.Second/2
			last = time.Now()
		}
		stands, err := p.Stands(t.Context(), snap.Ref)
		must(t, errors.Join(err, p.Remove(t.Context(), snap.Ref)))
		if stands {
			return
		}
		if !late || try == 20 { // on a host that is too busy for this, another try
			t.Fatal("thawed although it was told of progress")
		}
	}
}

// A stopped process, which stands for a process that hangs in a write, keeps nothing frozen.
func TestFsFreezeStoppedProcess(t *testing.T) {
	testbed.Need(t, "ext4")
	dir := testbed.Filesystem(t, "ext4", 64<<20)
	v := exec.Command("/proc/self/exe")
	v.Env = append(os.Environ(), freezeVictim+"="+dir+"\n"+freezeHost, freezeShort+"=1")
	out, err := v.StdoutPipe()
	must(t, err)
	must(t, v.Start())
	defer func() {
		_ = v.Process.Kill()
		_ = v.Wait()
		must(t, provider(t, "fsfreeze").Remove(t.Context(), snapshot.Ref{
			Provider: "fsfreeze", Path: "/run/holdfast-freeze/hf." + freezeHost + ".victim.v", Volume: dir,
		}))
	}()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "frozen\n" {
		t.Fatalf("victim: %s", line)
	}
	must(t, v.Process.Signal(unix.SIGSTOP))
	select {
	case err := <-writes(dir):
		must(t, err)
	case <-time.After(2 * time.Minute):
		t.Error("still frozen")
	}
}

// freezeShort gives the guard of a victim little patience.
const freezeShort = "HOLDFAST_TEST_FREEZE_SHORT"

// freezeVictim makes this test program run as a victim, which freezes that volume and
// waits to be killed.
const freezeVictim = "HOLDFAST_TEST_FREEZE"

func init() {
	volume, host, _ := strings.Cut(os.Getenv(freezeVictim), "\n")
	if volume == "" {
		return
	}
	p, _ := snapshot.ByName("fsfreeze")
	if os.Getenv(freezeShort) != "" {
		snapshot.GuardPatience = time.Second
	}
	req := snapshot.Request{Volume: volume, Host: host, Job: "victim", Name: "v"}
	if _, err := p.Create(context.Background(), req); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("frozen")
	time.Sleep(time.Hour)
}

// The agent dies by SIGKILL: its guard thaws. The guard dies too:
// the next start finds the mark, and thaws.
func TestFsFreezeOutlivesNobody(t *testing.T) {
	testbed.Need(t, "ext4")
	dir := testbed.Filesystem(t, "ext4", 64<<20)
	p := provider(t, "fsfreeze")
	for _, both := range []bool{false, true} {
		v := exec.Command("/proc/self/exe")
		v.Env = append(os.Environ(), freezeVictim+"="+dir+"\n"+freezeHost)
		out, err := v.StdoutPipe()
		must(t, err)
		must(t, v.Start())
		line, _ := bufio.NewReader(out).ReadString('\n')
		if line != "frozen\n" {
			t.Fatalf("victim: %s", line)
		}
		guards := children(t, v.Process.Pid)
		if len(guards) != 1 {
			t.Fatalf("children of the victim: %v", guards)
		}
		// A signal that a service manager sends to the whole group does not end a guard.
		must(t, unix.Kill(guards[0], unix.SIGTERM))
		if both {
			must(t, v.Process.Signal(unix.SIGSTOP))
			must(t, unix.Kill(guards[0], unix.SIGKILL))
		}
		must(t, v.Process.Kill())
		_ = v.Wait()
		if both {
			refs, err := p.Leftovers(t.Context(), freezeRequest("/elsewhere", "x"))
			if err != nil || len(refs) != 1 || refs[0].Volume != dir {
				t.Errorf("leftovers: %v, %v", refs, err)
			}
			other := freezeRequest(dir, "x")
			other.Host = "another-" + freezeHost
			if refs, err := p.Leftovers(t.Context(), other); err != nil || len(refs) != 0 {
				t.Errorf("leftovers of another host: %v, %v", refs, err)
			}
			for _, ref := range refs {
				must(t, p.Remove(t.Context(), ref))
			}
		}
		select {
		case err := <-writes(dir):
			must(t, err)
		case <-time.After(2 * time.Minute):
			command(t, "fsfreeze", "--unfreeze", dir)
			t.Fatalf("guard killed too %v: the file system stays frozen", both)
		}
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
			refs, err := p.Leftovers(t.Context(), freezeRequest(dir, "x"))
			if err == nil && len(refs) == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("left: %v, %v", refs, err)
			}
		}
	}
}

// children lists the processes that pid has started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all []int
	for _, path := range threads {
		for _, word := range strings.Fields(string(readFile(t, path))) {
			n, err := strconv.Atoi(word)
			must(t, err)
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}
