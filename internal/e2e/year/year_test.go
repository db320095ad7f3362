package year_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The size of the test, unless the environment says otherwise: some days, with one prune.
const (
	usualDays      = 9
	usualInstances = 3
	usualHosts     = 2
	usualSeed      = 1
)

// keep are the rules of retention.
var keep = []string{"--keep-daily", "7", "--keep-weekly", "4", "--keep-monthly", "6"}

// begin is the first day. Retention takes it for no time that can't be right.
var begin = time.Date(2027, time.January, 1, 1, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// year is the fleet.
type year struct {
	t         *testing.T
	days      int
	seed      uint64
	dir       string
	program   string
	clock     *testbed.Clock
	ahead     time.Duration // the clock of the simulation is before the kernel's
	mu        sync.Mutex    // guards ahead
	store     *store
	hosts     []*host
	janitor   *host
	instances []*instance
	r         *rand.Rand
	months    []*month
	pruning   chan struct{} // closed when the last prune that began has ended; nil before the first
	failed    error         // of that prune
}

// host is one machine: a place for caches and a way to the store.
type host struct {
	dir  string
	door *door
}

// TestYear is the whole.
func TestYear(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: this test runs many programs")
	}
	y := newYear(t)
	var report strings.Builder
	start := time.Now()
	y.play()
	y.report(&report)
	if os.Getenv("HOLDFAST_YEAR_PEERS") != "" {
		y.peers(&report)
	}
	fmt.Fprintf(&report, "\nThe whole took %.0f s.\n", time.Since(start).Seconds())
	if out := os.Getenv("HOLDFAST_YEAR_OUT"); out != "" {
		must(t, os.WriteFile(out, []byte(report.String()), 0o644))
	}
	t.Logf("HOLDFAST_SEED=%d\n%s", y.seed, report.String())
}

// number reads a variable of the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err == nil && n < 1 {
		err = fmt.Errorf("%s: must be 1 or more, got %d", name, n)
	}
	must(t, err)
	return n
}

func newYear(t *testing.T) *year {
	t.Helper()
	y := &year{
		t: t, days: number(t, "HOLDFAST_YEAR_DAYS", usualDays), seed: uint64(number(t, "HOLDFAST_SEED", usualSeed)),
		dir: testbed.Dir(t), clock: testbed.NewClock(t), store: &store{objects: map[string]object{}},
	}
	y.store.now = y.now
	y.r = rand.New(rand.NewPCG(y.seed, 1<<40))
	y.dawn(0)
	shared, err := testbed.SharedDir()
	must(t, err)
	overlay, err := testbed.SkewedClocks(shared)
	must(t, err)
	y.program = filepath.Join(shared, "holdfast")
	must(t, testbed.Build(y.program, "holdfast/cmd/holdfast", "-overlay", overlay))
	for n := range number(t, "HOLDFAST_YEAR_HOSTS", usualHosts) {
		y.hosts = append(y.hosts, y.newHost(fmt.Sprintf("host-%d", n)))
	}
	y.janitor = y.newHost("janitor")
	for n := range number(t, "HOLDFAST_YEAR_INSTANCES", usualInstances) {
		i, err := newInstance(filepath.Join(y.dir, fmt.Sprintf("volume-%d-0", n)), n, y.seed)
		must(t, err)
		i.host = n % len(y.hosts)
		y.instances = append(y.instances, i)
	}
	for _, args := range [][]string{{"key", "new", "--out", filepath.Join(y.dir, "key")}, {"vault", "create"}} {
		_, err := y.run(y.janitor, args...)
		must(t, err)
	}
	return y
}

func (y *year) newHost(name string) *host {
	h := &host{dir: filepath.Join(y.dir, name), door: y.store.open(y.t)}
	must(y.t, os.Mkdir(h.dir, 0o755))
	return h
}

// dawn sets the clock to the begin of a day.
func (y *year) dawn(n int) {
	ahead := time.Until(begin.Add(time.Duration(n) * day)).Truncate(time.Second)
	y.mu.Lock()
	y.ahead = ahead
	y.mu.Unlock()
	y.clock.Set(ahead)
}

func (y *year) now() time.Time {
	y.mu.Lock()
	defer y.mu.Unlock()
	return time.Now().Add(y.ahead)
}

// cost is the cost of one command.
type cost struct {
	wall, cpu     time.Duration
	peak          int64 // bytes resident
	writes, reads int64 // requests
}

// run runs the command line on a host, which runs one command at a time.
func (y *year) run(h *host, args ...string) (cost, error) {
	cmd := exec.Command(y.program, append([]string{"--quiet"}, args...)...)
	cmd.Env = append(y.clock.Env(), "PATH="+os.Getenv("PATH"), "HOME="+h.dir, "HOLDFAST_STORE="+h.door.url, "HOLDFAST_KEY="+filepath.Join(y.dir, "key"),
		"HOLDFAST_VAULT=year", "AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY=asks")
	writes, reads := h.door.writes.Load(), h.door.reads.Load()
	c, err := measure(cmd)
	c.writes, c.reads = h.door.writes.Load()-writes, h.door.reads.Load()-reads
	return c, err
}

// measure runs a program, and returns an error with its messages where it fails.
func measure(cmd *exec.Cmd) (c cost, err error) {
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return c, err
	}
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { c.peak = watchPeak(cmd.Process.Pid, over) })
	err = cmd.Wait()
	c.wall = time.Since(start)
	close(over)
	watch.Wait()
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err != nil {
		err = fmt.Errorf("%q: %w: %s", cmd.Args, err, said.String())
	}
	return c, err
}

// watchPeak returns the peak of the memory that a process had. The kernel's own count, in the
// resources of a child, is never below the memory of this process.
func watchPeak(pid int, over <-chan struct{}) (peak int64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return peak
		}
		if _, rest, is := strings.Cut(string(text), "VmHWM:"); is {
			var kib int64
			if _, err := fmt.Sscan(rest, &kib); err == nil {
				peak = max(peak, kib<<10)
			}
		}
		select {
		case <-over:
			return peak
		case <-tick.C:
		}
	}
}

// play plays all days.
func (y *year) play() {
	defer y.awaitPrune()
	for n := range y.days {
		y.afterClock()
		y.dawn(n)
		today := begin.Add(time.Duration(n) * day)
		if n == 0 || today.Day() == 1 {
			y.months = append(y.months, &month{name: today.Format("2006-01")})
		}
		m := y.months[len(y.months)-1]
		if n > 0 {
			y.fate()
		}
		y.work(n, m)
		if n == 0 || n == y.days-1 || today.Add(day).Day() == 1 {
			y.awaitPrune()
			y.endOfMonth(m)
		}
	}
}

// fate moves instances and lets some go dormant. The first instance stays active.
func (y *year) fate() {
	for _, i := range y.instances {
		switch {
		case i.dormant:
		case i != y.instances[0] && y.r.IntN(1400) == 0: // about a quarter of them in a year
			i.dormant = true
		case y.r.IntN(60) == 0:
			i.host = (i.host + 1) % len(y.hosts)
			must(y.t, y.bringBack(i))
		}
	}
}

// bringBack restores the newest backup of an instance on its host, and the instance goes on there.
func (y *year) bringBack(i *instance) error {
	to := nextFolder(i.dir)
	if _, err := y.run(y.hosts[i.host], "restore", "--instance", i.id, to); err != nil {
		return err
	}
	if err := same(i.dir, to); err != nil {
		return fmt.Errorf("%s moves: %w", i.id, err)
	}
	old := i.dir
	i.dir = to
	return os.RemoveAll(old)
}

// nextFolder is a folder beside dir with the next number.
func nextFolder(dir string) string {
	at := strings.LastIndexByte(dir, '-')
	n, _ := strconv.Atoi(dir[at+1:])
	return fmt.Sprintf("%s-%d", dir[:at], n+1)
}

// work backs all active instances up, on all hosts at once. Once a week rules forget backups, and a
// prune begins, which runs beside the backups of this day and of the next days.
func (y *year) work(n int, m *month) {
	var g errgroup.Group
	for at, h := range y.hosts {
		g.Go(func() error { return y.workOn(n, m, at, h) })
	}
	if n%7 == 6 {
		y.awaitPrune()
		c, err := y.run(y.janitor, append([]string{"forget", "--all", "--max-share", "100"}, keep...)...)
		must(y.t, err)
		m.forgot(c)
		y.janitor.door.listed.Store(false)
		y.pruning = make(chan struct{})
		go func() {
			defer close(y.pruning)
			var c cost
			c, y.failed = y.run(y.janitor, "prune", "--grace", "0s", "--wait", "30m")
			m.pruned(c)
		}()
	}
	must(y.t, g.Wait())
}

func (y *year) workOn(n int, m *month, at int, h *host) error {
	for _, i := range y.instances {
		if i.host != at || i.dormant {
			continue
		}
		if n > 0 {
			if err := i.day(); err != nil {
				return err
			}
		}
		c, err := y.run(h, "backup", "--snapshot", "off", "--instance", i.id, i.dir)
		if err != nil {
			return err
		}
		m.backedUp(n, c)
	}
	return nil
}

// awaitPrune returns when no prune is under way.
func (y *year) awaitPrune() {
	if y.pruning != nil {
		<-y.pruning
		must(y.t, y.failed)
	}
}

// afterClock returns when the prune that is under way does not compare its clock any more: it does
// so before it lists packs.
func (y *year) afterClock() {
	for y.pruning != nil && !y.janitor.door.listed.Load() {
		select {
		case <-y.pruning:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// median is the middle of some durations; 0 where there are none.
func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}
