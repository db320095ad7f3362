package e2e_test

import (
	"bytes"
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

// powerCuts is how often the power goes in CI; ROUNDS makes it more.
const powerCuts = 5

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

// TestPowerCuts backs up three instances again and again in a virtual machine, takes its power away at random instants, boots it
// with the same disk, and in the end lets all jobs end: the journal opens each time, an instance is down only after its report
// was taken, and each backup of one that is down has what its storage holds. HOLDFAST_SEED makes other instants.
func TestPowerCuts(t *testing.T) {
	testbed.Need(t, "machine", "btrfs")
	dir := t.TempDir()
	build := func(name, pkg string) string {
		c := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return filepath.Join(dir, name)
	}
	makeCertificate(t, dir)
	must(t, exec.Command(build("holdfast", "holdfast/cmd/holdfast"), "key", "new", "--out", filepath.Join(dir, "host.key")).Run())
	build("holdfastd", "holdfast/cmd/holdfastd")
	var instances strings.Builder
	for i := range 3 {
		id := fmt.Sprintf("phone-%d", i+1)
		verb := func(v string) string {
			return fmt.Sprintf(`[/bin/sh, -c, "echo %s %s | nc 127.0.0.1 9999"]`, v, id)
		}
		fmt.Fprintf(&instances, "\n- {id: %s, tenant: %q, runtime: {exec: {freeze: %s, thaw: %s, power_down: %s, state: %s}}, volumes: [{name: data, path: /disk/volumes/%s/data}]}",
			id, tenant, verb("freeze"), verb("thaw"), verb("power-down"), verb("state"), id)
	}
	spec := testbed.MachineSpec{
		Program: build("powercut", "./testdata/powercut"), Modules: []string{"btrfs"},
		Env:   []string{"TOKEN=" + token, "HOLDFAST_STORE=file:///disk/store", "HOLDFAST_KEY=/etc/holdfast/host.key", "HOLDFAST_VAULT=" + tenant},
		Disks: []string{testbed.Disk(t, 2<<30)},
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
	for _, name := range []string{"cert.pem", "key.pem", "host.key", "holdfast", "holdfastd"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		spec.Files["/etc/holdfast/"+name] = string(b)
	}
	if out, err := exec.Command("mkfs.btrfs", "-q", spec.Disks[0]).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seed := fromEnv(t, "HOLDFAST_SEED", 1)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	rounds, counts := fromEnv(t, "ROUNDS", powerCuts), map[string]int{}
	look := func(round int, m *testbed.Machine) {
		for line := range strings.Lines(string(m.Output())) {
			what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			if what == "took" {
				what, _, _ = strings.Cut(rest, " ")
			}
			counts[what]++
		}
		if bytes.Contains(m.Output(), []byte("FAIL")) || bytes.Contains(m.Output(), []byte("panic")) {
			t.Fatalf("HOLDFAST_SEED=%d, after %d cuts:\n%s", seed, round, m.Output())
		}
	}
	begin := time.Now()
	for round := range rounds {
		m := testbed.StartMachine(t, spec)
		eventually(t, "the machine is ready", func() bool {
			return bytes.Contains(m.Output(), []byte("ready\n")) || bytes.Contains(m.Output(), []byte("FAIL"))
		})
		time.Sleep(time.Duration(r.IntN(12000)) * time.Millisecond)
		m.Cut()
		look(round, m)
	}
	spec.Env = append(spec.Env, "FINAL=1")
	m := testbed.StartMachine(t, spec)
	code, err := m.Wait(2 * patience)
	look(rounds, m)
	if err != nil || code != 0 {
		t.Errorf("the last machine ended with %d, %v\n%s", code, err, m.Output())
	}
	t.Logf("HOLDFAST_SEED=%d ROUNDS=%d: %.1f s; seen: %v", seed, rounds, time.Since(begin).Seconds(), counts)
}
