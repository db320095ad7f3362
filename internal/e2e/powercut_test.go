package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/agent/auth"
	"holdfast/internal/testbed"
)

// powerCuts is how often the power goes in CI; ROUNDS makes it more, as "make soak" does.
const powerCuts = 20

// Every other cut comes after so much processor time of the emulating host, which does not
// depend on other work of that host: at the least the machine begins to run, at the most it has
// started and ended some jobs. The other cuts come while the disk is at one of so many flushes.
const (
	leastWork, mostWork = 500 * time.Millisecond, 9 * time.Second
	mostFlushes         = 300
)

// lifePatience is how long a life may take on a busy host, where its processor time comes slowly.
const lifePatience = 15 * time.Minute

// fromEnv is a number that a run by hand may set.
func fromEnv(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// TestPowerCuts backs up three instances again and again in a virtual machine, takes its power
// away at random instants, boots it with the same disk, and in the end lets all jobs end: the
// journal opens each time, an instance is down only after its report was taken, and the backup
// of each instance that is down equals its storage. The disk has a cache, and a cut loses all
// or a part of the unflushed writes, sector by sector. HOLDFAST_SEED makes other cuts.
func TestPowerCuts(t *testing.T) {
	testbed.Need(t, "machine", "btrfs")
	dir := t.TempDir()
	powercut := filepath.Join(dir, "powercut")
	must(t, testbed.Build(powercut, "./testdata/powercut"))
	testbed.WriteCertificate(t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "127.0.0.1")
	must(t, exec.Command(program(t, "holdfast"), "key", "new", "--out", filepath.Join(dir, "host.key")).Run())
	var instances strings.Builder
	for i := range 3 {
		id := fmt.Sprintf("phone-%d", i+1)
		verb := func(v string) string {
			return fmt.Sprintf(`[/bin/sh, -c, "echo %s %s | nc 127.0.0.1 9999"]`, v, id)
		}
		fmt.Fprintf(&instances, "\n- {id: %s, tenant: %q, runtime: {exec: {timeout: 10m, freeze: %s, thaw: %s, power_down: %s, state: %s}}, volumes: [{name: data, path: /disk/volumes/%s/data}]}",
			id, tenant, verb("freeze"), verb("thaw"), verb("power-down"), verb("state"), id)
	}
	spec := testbed.MachineSpec{
		Program: powercut, Modules: []string{"btrfs"},
		Env: []string{"TOKEN=" + token, "HOLDFAST_STORE=file:///disk/store", "HOLDFAST_KEY=/etc/holdfast/host.key", "HOLDFAST_VAULT=" + tenant},
		Files: map[string]string{
			"/etc/holdfast/tokens": auth.HashToken(token) + " tenant=" + tenant + " role=tenant\n",
			"/etc/holdfast/holdfast.yaml": `
host_id: test-machine
state_dir: /disk/state
listen: 127.0.0.1:8443
tls: {cert_file: /etc/holdfast/cert.pem, key_file: /etc/holdfast/key.pem}
tokens_file: /etc/holdfast/tokens
metrics_listen: 127.0.0.1:9477
store: {url: "file:///disk/store"}
key_file: /etc/holdfast/host.key
signing_key_file: /disk/signing.pem
report: {url: "http://127.0.0.1:9998/reports"}
instances:` + instances.String() + "\n",
		},
	}
	for _, path := range []string{
		filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "host.key"), program(t, "holdfast"), program(t, "holdfastd"),
	} {
		b, err := os.ReadFile(path)
		must(t, err)
		spec.Files["/etc/holdfast/"+filepath.Base(path)] = string(b)
	}
	seed, rounds := fromEnv(t, "HOLDFAST_SEED", 1), fromEnv(t, "ROUNDS", powerCuts)
	begin := time.Now()
	saved := testbed.SaveMachine(t, spec)
	t.Logf("a machine booted and was saved in %.1f s", time.Since(begin).Seconds())
	for lane := range 2 { // the machines have one processor, and CI has two of them
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			c := &cuts{
				t: t, seed: seed, saved: saved, disk: testbed.NewVolatileDisk(t, 2<<30), seen: map[string]int{}, boots: map[string]bool{},
				r: rand.New(rand.NewPCG(uint64(seed), uint64(lane))),
			}
			if out, err := exec.Command("mkfs.btrfs", "-q", c.disk.Path()).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for n := range (rounds + lane) / 2 {
				c.cut(n)
			}
			c.final()
			t.Log(c)
		})
	}
}

// cuts is one host over many lives, for one goroutine.
type cuts struct {
	t     *testing.T
	seed  int
	saved *testbed.SavedMachine
	disk  *testbed.VolatileDisk
	r     *rand.Rand

	seen  map[string]int  // events and other printed words
	boots map[string]bool // ids
	// cuts; cuts in a flush; cuts that lost sectors; the lost sectors
	all, atFlush, withLoss, sectors int
	worked                          time.Duration
}

func (c *cuts) String() string {
	return fmt.Sprintf("HOLDFAST_SEED=%d: %d cuts, %d of them in a flush, %d lost %d sectors; %.1f s of processor time; seen: %v",
		c.seed, c.all, c.atFlush, c.withLoss, c.sectors, c.worked.Seconds(), c.seen)
}

// cut lets the host live for a while and takes its power.
func (c *cuts) cut(n int) {
	flush, work := 0, mostWork
	if c.r.IntN(2) == 0 {
		flush = 1 + c.r.IntN(mostFlushes)
	} else {
		work = leastWork + time.Duration(c.r.Int64N(int64(mostWork-leastWork)))
	}
	dead := c.disk.DieAt(flush)
	m := c.saved.Start(c.t, c.disk.Drive())
	within(c.t, lifePatience, "the machine has come to its end", func() bool {
		select {
		case <-dead:
			c.atFlush++
			return true
		default:
			worked, err := m.Worked()
			must(c.t, err)
			return worked > work || strings.Contains(string(m.Output()), "FAIL")
		}
	})
	m.Cut()
	// nothing stays, every other time
	unflushed, lost, err := c.disk.PowerLost(c.r, max(0, 2*c.r.Float64()-1))
	must(c.t, err)
	c.all++
	if lost > 0 {
		c.withLoss++
		c.sectors += lost
	}
	c.look(m, fmt.Sprintf("cut %d, at flush %d or after %v, with %d of %d sectors lost", n, flush, work, lost, unflushed))
}

// final lets the host live until all jobs have ended.
func (c *cuts) final() {
	c.disk.DieAt(0)
	m := c.saved.Start(c.t, c.disk.Drive(), "FINAL=1")
	code, err := m.Wait(lifePatience)
	c.look(m, "the last life")
	if err != nil || code != 0 {
		c.t.Errorf("the last machine ended with %d, %v\n%s", code, err, m.Output())
	}
}

// look judges the output of a life: "0.00 boot ID", "0.00 took
// EVENT of INSTANCE JOB REASON", "0.00 WORD", "0.00 FAIL …".
func (c *cuts) look(m *testbed.Machine, what string) {
	spent, err := m.Worked()
	must(c.t, err)
	c.worked += spent
	out := string(m.Output())
	for line := range strings.Lines(out) {
		if !strings.HasSuffix(line, "\n") {
			break // the power went in the middle of it
		}
		switch f := append(strings.Fields(line), "", "", ""); f[1] {
		case "took":
			c.seen[f[2]]++
		case "boot":
			if c.boots[f[2]] {
				c.t.Errorf("two boots have the id %s", f[2])
			}
			c.boots[f[2]] = true
		default:
			c.seen[f[1]]++
		}
		// The power took the hold from an instance, came between its
		// power-down and the journal, or came too often.
		if strings.Contains(line, failed) && !strings.Contains(line, "although this job holds it") && !strings.Contains(line, "it was interrupted 5 times") {
			c.t.Errorf("HOLDFAST_SEED=%d, %s: %s", c.seed, what, line)
		}
	}
	if strings.Contains(out, "FAIL") || strings.Contains(out, "panic") {
		c.t.Fatalf("%s:\n%s\n%s", what, out, c)
	}
}
