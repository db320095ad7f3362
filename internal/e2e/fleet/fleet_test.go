package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
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
	hostCount   = 4
	phoneHosts  = 3 // the first ones; the last host, the wild one, has tablets alone
	phoneCount  = 6
	tabletCount = 5
	usualTime   = 35 * time.Second
	usualSeed   = 14
)

// Bounds on how long things take to come right when nothing disturbs
// them. They are generous: the machine may be slow and shared.
const (
	patience     = 15 * time.Minute // until everything is at rest after the last fault
	signPatience = 20 * time.Second // until what stands still shows
)

// tenant owns instances.
type tenant struct {
	id     string // the name of its vault too
	token  string // of the control plane
	letter string // begins the names of the lives of its tablets
}

// tenants are all; phones are of the first.
var tenants = []*tenant{
	{"1008600000104285462", "token-of-the-control-plane", "a"},
	{"2008600000104285463", "token-of-the-other-tenant", "b"},
}

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

	hosts   []*host
	clone   *host // whose machine is a copy of the wild host's; its agent runs now and then
	phones  []*phone
	tablets []*tablet
	deck    *deck
	trail   *trail

	setting     sync.Mutex   // held while configurations are written
	releaseTook atomic.Int64 // nanoseconds from a report of a tablet's backup to its release
}

// wild is the host whose state folder people copy, set back and lose.
func (f *fleet) wild() *host { return f.hosts[hostCount-1] }

// everything is all instances.
func (f *fleet) everything() []*phone {
	all := slices.Clone(f.phones)
	for _, d := range f.tablets {
		all = append(all, d.phone)
	}
	return all
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
	keepers.Go(func() { f.clone.keep(ctx) })
	for _, p := range f.everything() {
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
	for _, d := range f.tablets {
		movers.Go(func() error { return d.live(moving, patient) })
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
	f.audit(ctx)
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
		f.hosts = append(f.hosts, newHost(f, fmt.Sprintf("host-%d", i)))
	}
	f.clone = newHost(f, "clone")
	f.clone.id, f.clone.away = f.wild().id, 1
	f.plane = startPlane(f)
	f.cli(tenants[0], "key", "new", "--out", f.key)
	for _, t := range tenants {
		f.cli(t, "vault", "create")
	}
	r := rand.New(rand.NewPCG(f.seed, 1))
	for i := range phoneCount {
		f.phones = append(f.phones, newPhone(f, i, r))
	}
	for i := range tabletCount {
		f.tablets = append(f.tablets, newTablet(f, i))
	}
	f.deck = newDeck(f.seed)
	for _, h := range append(slices.Clone(f.hosts), f.clone) {
		h.configure()
	}
	return f
}

// cli runs the command line on a tenant's vault, without any fault in between.
func (f *fleet) cli(t *tenant, args ...string) {
	f.t.Helper()
	if _, err := f.ask(f.t.Context(), t, args...); err != nil {
		f.t.Error(err)
	}
}

// ask is cli for the output of the command. It fails while the store is down.
func (f *fleet) ask(ctx context.Context, t *tenant, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, f.tools.cli, args...)
	c.Env = append(append(os.Environ(), f.minio.Env()...), "HOLDFAST_STORE="+f.minio.URL(f.store, "fleet"), "HOLDFAST_KEY="+f.key,
		"HOLDFAST_VAULT="+t.id, "XDG_CACHE_HOME="+filepath.Join(f.dir, "cache"))
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("holdfast %q: %w: %s", args, err, errs.String())
	}
	return out, nil
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
