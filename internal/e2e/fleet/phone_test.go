package fleet_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// phone is an instance, which all hosts know and which lives on one of them.
type phone struct {
	f       *fleet
	id      string
	below   string // the folder of the volume, below the folder of the phone
	release string // who decides on the power-down
	hold    string
	r       *rand.Rand // of its movements

	mu      sync.Mutex
	owner   *tenant
	at      int       // host on which the control plane believes it to be
	meddled time.Time // when somebody else last acted on it
	// parked are the hosts on which it is stopped on purpose: no engine starts it after a boot.
	parked map[*host]bool
}

func newPhone(f *fleet, number int, r *rand.Rand) *phone {
	p := &phone{
		f: f, id: fmt.Sprintf("phone-%d", number), below: "data", release: "agent", hold: "precopy", at: number % phoneHosts, owner: tenants[0],
		r: rand.New(rand.NewPCG(r.Uint64(), r.Uint64())),
	}
	if number%2 == 1 {
		p.release = "control-plane"
	}
	if number%3 == 2 {
		p.hold = "frozen"
	}
	for _, h := range f.hosts {
		must(f.t, os.MkdirAll(p.dir(h), 0o755))
		must(f.t, os.MkdirAll(filepath.Dir(p.volume(h)), 0o755))
	}
	out, err := exec.Command("btrfs", "subvolume", "create", p.volume(f.hosts[p.at])).CombinedOutput()
	if err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	return p
}

// dir holds the outside's knowledge of the phone's lives on a host, and volume
// holds the phone's own data; of a tablet it is the folder of both volumes.
func (p *phone) dir(h *host) string    { return filepath.Join(h.dir, p.id) }
func (p *phone) volume(h *host) string { return filepath.Join(p.f.disk, h.name, p.id, p.below) }

// tenant is whose the instance is.
func (p *phone) tenant() *tenant {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner
}

// park says whether the instance is stopped on a host on purpose.
func (p *phone) park(h *host, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parked == nil {
		p.parked = map[*host]bool{}
	}
	p.parked[h] = on
}

func (p *phone) isParked(h *host) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parked[h]
}

// run does a verb of the instance's manager, as an operator would.
func (p *phone) run(verb string, h *host) error {
	c := exec.Command(p.f.tools.phone, p.dir(h), p.volume(h))
	c.Env = append(os.Environ(), "HOLDFAST_ACTION="+verb)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s on %s: %w: %s", verb, p.id, h.name, err, out)
	}
	return nil
}

// process is the process of an instance on a host.
type process struct {
	pid    int // 0 for none
	began  string
	frozen bool
}

// look tells whether the instance has a process on the host.
func (p *phone) look(h *host) (v process) {
	text, err := os.ReadFile(filepath.Join(p.dir(h), "pid"))
	if err != nil {
		return process{}
	}
	if _, err := fmt.Sscan(string(text), &v.pid, &v.began); err != nil {
		return process{}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.pid))
	if err != nil {
		return process{}
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // proc_pid_stat(5)
	if len(fields) < 20 || fields[19] != v.began || fields[0] == "Z" || fields[0] == "X" {
		return process{}
	}
	v.frozen = fields[0] == "T"
	return v
}

func (p *phone) runs(h *host) bool {
	v := p.look(h)
	return v.pid != 0 && !v.frozen
}

// where is the host on which the control plane believes the phone to be.
func (p *phone) where() *host {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.f.hosts[p.at]
}

// meddle notes that somebody beside agent and control plane acts on the phone.
func (p *phone) meddle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meddled = time.Now()
}

func (p *phone) meddledSince(t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.meddled.After(t)
}

// whileFrozen calls f while nobody else can act on the phone, if it stands still there.
func (p *phone) whileFrozen(h *host, f func(pid int) error) (bool, error) {
	lock, err := os.OpenFile(filepath.Join(p.dir(h), "act"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false, nil //nolint:nilerr // the agent acts on it just now
	}
	v := p.look(h)
	if !v.frozen {
		return false, nil
	}
	p.meddle()
	defer p.meddle()
	return true, f(v.pid)
}

// begin starts a new life while this process holds the lock of the
// phone, as an engine does that recreates an instance.
func (p *phone) begin(h *host) error {
	c := exec.Command(p.f.tools.phone, p.dir(h), p.volume(h))
	c.Env = append(os.Environ(), "HOLDFAST_ACTION=recreate")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("recreate %s on %s: %w: %s", p.id, h.name, err, out)
	}
	return nil
}
