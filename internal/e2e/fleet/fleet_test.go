package fleet_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
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

// The parts of a fleet, and how long faults happen unless the environment says otherwise.
const (
	hostCount  = 3
	phoneCount = 10
	usualTime  = 75 * time.Second
	usualSeed  = 14
)

// Bounds on how long things take to come right when nothing disturbs
// them. They are generous: the machine may be slow and shared.
const (
	patience     = 5 * time.Minute  // until everything is at rest after the last fault
	signPatience = 20 * time.Second // until what stands still shows
)

// tenant owns the instances, and token is the control plane's token.
const tenant, token = "1008600000104285462", "token-of-the-control-plane"

// fleet is all of it.
type fleet struct {
	t       *testing.T
	seed    uint64
	time    time.Duration // in which faults happen
	dir     string
	without *regexp.Regexp // faults that do not happen; nil for none
	disk    string         // where the volumes of all hosts are
	tools   tools
	minio   *testbed.S3
	store   string // the bucket
	key     string // age identity of all hosts
	plane   *plane

	hosts  []*host
	phones []*phone
	trail  *trail
}

// TestFleet is the whole.
func TestFleet(t *testing.T) {
	testbed.Need(t, "root", "ip", "unshare", "btrfs", "minio")
	f := newFleet(t)
	f.t.Logf("HOLDFAST_SEED=%d, faults for %s", f.seed, f.time)
	f.trail.note("the fleet is made")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var keepers sync.WaitGroup
	defer keepers.Wait()
	defer cancel()
	for _, h := range f.hosts {
		keepers.Go(func() { h.keep(ctx) })
	}
	for _, p := range f.phones {
		must(t, p.run("start", f.hosts[p.at]))
	}
	watching, stopWatching := context.WithCancel(ctx)
	keepers.Go(func() { f.watch(watching) })

	moving, stopMoving := context.WithCancel(ctx)
	defer stopMoving()
	patient, stopPatience := context.WithCancelCause(ctx)
	defer stopPatience(nil)
	var movers errgroup.Group
	for _, p := range f.phones {
		movers.Go(func() error { return p.move(moving, patient) })
	}
	f.disturb(ctx)
	f.trail.note("no more faults")
	stopMoving()
	timer := time.AfterFunc(patience, func() { stopPatience(errors.New("the patience with movements under way is over")) })
	if err := movers.Wait(); err != nil {
		f.found("%v", err)
	}
	timer.Stop()
	f.settle(ctx)
	stopWatching()
	for _, h := range f.hosts {
		h.end()
	}
	f.compareLives()
	f.trail.report()
}

// found tells of something that must not be.
func (f *fleet) found(format string, args ...any) {
	f.trail.count("FOUND")
	f.trail.note("FOUND: "+format, args...)
	f.t.Errorf(format, args...)
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, seed: usualSeed, time: usualTime, dir: testbed.Dir(t), trail: newTrail(t)}
	if text := os.Getenv("HOLDFAST_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		must(t, err)
		f.seed = n
	}
	if text := os.Getenv("HOLDFAST_FLEET_TIME"); text != "" {
		d, err := time.ParseDuration(text)
		must(t, err)
		f.time = d
	}
	if without := os.Getenv("HOLDFAST_FLEET_WITHOUT"); without != "" {
		f.without = regexp.MustCompile(without)
	}
	f.tools = build(t)
	f.disk = testbed.Btrfs(t)
	f.minio = testbed.StartMinIO(t)
	f.store = f.minio.Bucket(t)
	f.key = filepath.Join(f.dir, "fleet.key")
	for i := range hostCount {
		f.hosts = append(f.hosts, newHost(f, i))
	}
	f.plane = startPlane(f)
	f.cli("key", "new", "--out", f.key)
	f.cli("vault", "create", "--vault", tenant)
	r := rand.New(rand.NewPCG(f.seed, 1))
	for i := range phoneCount {
		f.phones = append(f.phones, newPhone(f, i, r))
	}
	for _, h := range f.hosts {
		h.configure()
	}
	return f
}

// cli runs the command line on the whole store, without any fault in between.
func (f *fleet) cli(args ...string) {
	f.t.Helper()
	c := exec.Command(f.tools.cli, args...)
	c.Env = append(append(os.Environ(), f.minio.Env()...), "HOLDFAST_STORE="+f.minio.URL(f.store, "fleet"), "HOLDFAST_KEY="+f.key,
		"HOLDFAST_VAULT="+tenant, "XDG_CACHE_HOME="+filepath.Join(f.dir, "cache"))
	if out, err := c.CombinedOutput(); err != nil {
		f.t.Errorf("holdfast %q: %v\n%s", args, err, out)
	}
}

// tools are the programs of a fleet.
type tools struct{ daemon, cli, phone string }

// build builds the two programs with a clock that the test sets,
// and the instance with the kernel's.
func build(t *testing.T) tools {
	t.Helper()
	dir, err := testbed.SharedDir()
	must(t, err)
	overlay, err := testbed.SkewedClocks(dir)
	must(t, err)
	bin := filepath.Join(dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	for _, args := range [][]string{
		{"-overlay", overlay, "holdfast/cmd/holdfastd", "holdfast/cmd/holdfast"},
		{"./testdata/phone"},
	} {
		c := exec.Command("go", append([]string{"build", "-ldflags=-s -w", "-o", bin + "/"}, args...)...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0") // as shipped: the daemon gives up powers
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %q: %v\n%s", args, err, out)
		}
	}
	return tools{daemon: filepath.Join(bin, "holdfastd"), cli: filepath.Join(bin, "holdfast"), phone: filepath.Join(bin, "phone")}
}

// pause waits for d, or less when ctx ends; it tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// between draws a duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}
