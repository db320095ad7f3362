package job_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// model drives agents over one host with random commands, faults, restarts and clocks, and
// checks the promises after each step. Each step begins when every goroutine waits, so the
// step falls between two acts of an agent, as an act of a person or another program would.
type hostModel struct {
	w     *world
	l     *life
	r     *rand.Rand
	opts  job.Options
	names []string

	bad     map[string]bool   // acts that fail
	store   string            // "", "slow", "fails", "hangs"
	plane   string            // "", "away", "refuses", "anyone": see receiver
	known   map[string]string // request -> task; "" when the answer was lost
	bodies  map[string]job.Request
	jobs    []string
	lastSeq map[string]uint64   // instance -> of the events that the control plane took
	told    map[string][]string // job -> types of events
	// "job type" of events that the control plane has, also of events that it got late
	took    map[string]bool
	refused map[uint64]bool // numbers of events that the control plane refused
	other   *rand.Rand      // for the receiver's answers; the world's lock is held
	trail   []string
	seq     int
	began   time.Time
	saved   []byte // journal of some steps ago, for a journal that forgets
}

var faultyActs = []string{"state", "freeze", "thaw", "stop", "start", "power-down", "power-down-answer", "keep-down", "snapshot", "remove-snapshot", "remove-leftover", "discard", "note"}

// runModel makes the steps of one seed and returns the broken promises, and the steps before.
func runModel(t *testing.T, seed uint64, steps int, broken string) (found, trail []string) {
	synctest.Test(t, func(t *testing.T) {
		m := &hostModel{
			names: []string{"a", "b", "c", "d"}, r: rand.New(rand.NewPCG(seed, 0)), bad: map[string]bool{}, known: map[string]string{},
			bodies: map[string]job.Request{}, lastSeq: map[string]uint64{}, told: map[string][]string{},
			took: map[string]bool{}, refused: map[uint64]bool{}, other: rand.New(rand.NewPCG(seed, 1)),
		}
		m.w, m.began = newWorld(t, m.names...), time.Now()
		m.w.broken = broken
		m.w.backup, m.w.answer, m.w.observe, m.w.fail = m.send, m.answer, m.observe, m.fail
		m.w.present = func(ctx context.Context, _ *model.Job) error { return m.send(ctx, job.BackupRequest{}) }
		m.w.restore = func(ctx context.Context, _ int) error { return m.send(ctx, job.BackupRequest{}) }
		for _, n := range m.names {
			m.configure(n)
		}
		m.begin()
		for range steps {
			m.step()
			if m.l.isDead() {
				m.l.stop()
				m.forget()
				m.begin()
			}
			m.check()
			if len(m.w.faults) > 0 {
				break
			}
		}
		if len(m.w.faults) == 0 {
			m.quiet()
		} else {
			m.l.kill()
			m.l.stop()
		}
		found, trail = m.w.faults, m.trail
	})
	return found, trail
}

func (m *hostModel) note(format string, args ...any) {
	m.trail = append(m.trail, fmt.Sprintf(format, args...))
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// lock runs f while no goroutine of an agent touches the world.
func (m *hostModel) lock(f func()) {
	synctest.Wait()
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	f()
}

func (m *hostModel) configure(name string) {
	p := m.w.instances[name]
	p.mode = pick(m.r, model.ModePrecopy, model.ModeFrozen, model.ModeStop, model.ModeLive)
	p.policy = pick(m.r, model.ReleaseByAgent, model.ReleaseByControlPlane)
	p.pinned = m.r.IntN(4) == 0
	p.warm = m.r.IntN(3) == 0
	p.blind = m.r.IntN(6) == 0
}

func (m *hostModel) begin() {
	m.opts = job.Options{
		Jobs: 1 + m.r.IntN(3), Held: m.r.IntN(3), Precopy: job.Precopy{Rounds: m.r.IntN(4)}, DrainTimeout: pick(m.r, 0, time.Minute),
		StorePatience: pick(m.r, 0, 2*time.Minute), FrozenDeadline: pick(m.r, 0, 10*time.Minute), JobDeadline: pick(m.r, 0, time.Hour),
		KeepFor: 48 * time.Hour,
		Bases:   job.Bases{Keep: m.r.IntN(3) > 0, MaxAge: pick(m.r, 0, time.Hour)}, StartRestored: m.r.IntN(2) == 0,
	}
	m.l = m.w.start(-1, m.opts)
}

// end ends the life that is on, in order or not.
func (m *hostModel) end(orderly bool) {
	if !orderly {
		m.l.kill()
	}
	m.l.stop()
	m.forget()
}

// forget sets the journal back, as a disk does that lied about a sync.
func (m *hostModel) forget() {
	if m.w.broken == "journal" && m.saved != nil {
		if err := os.WriteFile(m.w.journal, m.saved, 0o600); err != nil {
			m.w.t.Error(err)
		}
	}
}

func (m *hostModel) step() {
	m.seq++
	if m.w.broken == "journal" && m.seq%7 == 0 {
		m.lock(func() { m.saved, _ = os.ReadFile(m.w.journal) })
	}
	type act struct {
		weight int
		do     func()
	}
	acts := []act{
		{20, m.command},
		{8, m.repeat},
		{6, m.cancel},
		{8, m.release},
		{5, m.resume},
		{4, m.lookAfterReports},
		{10, m.change},
		{6, m.heal},
		{8, m.interfere},
		{3, m.reconfigure},
		{4, func() { m.note("restart"); m.end(true); m.begin() }},
		{4, func() { m.note("die"); m.end(false); m.begin() }},
		{12, func() { n := 1 + m.r.IntN(25); m.note("die after %d points", n); m.l.dieAfter(n) }},
		{2, m.reboot},
		{2, m.recover},
		{2, m.lose},
		{3, m.rewrite},
		{1, m.hours},
		{4, m.loseBackups},
		{3, m.unmount},
		{8, m.disturb},
		{3, func() {
			d := time.Duration(m.r.IntN(7200)-3600) * time.Second
			if m.r.IntN(3) == 0 { // as after a dead battery, or a wrong time server
				d = time.Duration(m.r.IntN(20*24)-10*24) * time.Hour
			}
			m.note("clock %s", d)
			m.lock(func() { m.w.skew += d })
		}},
		{1, func() { m.note("drain"); m.l.m.Drain() }},
		{8, func() {}},
	}
	total := 0
	for _, a := range acts {
		total += a.weight
	}
	n := m.r.IntN(total)
	for _, a := range acts {
		if n -= a.weight; n < 0 {
			a.do()
			break
		}
	}
	d := pick(m.r, 0, 100*time.Millisecond, time.Second, 10*time.Second, 2*time.Minute)
	m.note("  %s", d)
	time.Sleep(d)
	m.lock(func() {
		for _, p := range m.w.instances {
			if p.state == model.IsRunning {
				p.runs()
			}
		}
	})
}

// send is the store's treatment of a pack.
func (m *hostModel) send(ctx context.Context, _ job.BackupRequest) error {
	m.w.mu.Lock()
	store := m.store
	m.w.mu.Unlock()
	d := time.Second
	switch store {
	case "fails":
		return errors.New("the store refuses")
	case "hangs":
		d = 1000 * time.Hour
	case "slow":
		d = time.Minute
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fail is called with the world's lock held.
func (m *hostModel) fail(act, _ string) error {
	if m.bad[act] {
		return fmt.Errorf("%s: out of order", act)
	}
	return nil
}

// observe looks at the host when the journal has a new state.
func (m *hostModel) observe(j *model.Job) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	p := m.w.instances[j.Instance]
	if frozen, most := time.Duration(j.FreezeSeconds(m.l.j.Up())*float64(time.Second)), time.Since(m.began); frozen > most {
		m.w.fault("clocks: job %s says that %s was frozen for %s, %s after the model began", j.ID, j.Instance, frozen, most)
	}
	switch j.State {
	case model.Releasing:
		p.releasing = time.Now()
	case model.Acknowledged:
		if !m.took[j.ID+" "+model.EventCompleted] {
			m.w.fault("job %s is acknowledged, and the control plane does not have its report", j.ID)
		}
	case model.Released:
		count, down := p.count, p.state == model.IsStopped
		if p.identity() != j.Identity { // made anew since
			count, down = m.w.ended[j.Identity]
		}
		if !down || !m.w.had(j.Instance, count) && !p.blind {
			m.w.fault("nothing-lost: %s is said to be released, it is %s at %d, backups have %v", j.Instance, p.state, p.count, m.w.backups[j.Instance])
		}
	case model.Failed:
		if p.state == model.IsFrozen && !p.owner || p.state == model.IsStopped && j.Found != model.IsStopped && p.by == "stop" {
			m.w.fault("job %s failed (%s) and has left %s %s: %+v", j.ID, j.Cause, j.Instance, p.state, j)
		}
	case model.Done:
		if j.Mode == model.ModeLive && !j.Entered[model.Freezing].IsZero() {
			m.w.fault("job %s froze %s, which is live", j.ID, j.Instance)
		}
	}
}

// check checks the promises that hold at every instant.
func (m *hostModel) check() {
	m.lock(func() {
		if m.l.isDead() {
			return // the next step begins a life, which looks
		}
		for _, n := range m.names {
			j := m.l.record(n)
			p := m.w.instances[n]
			if p.state == model.IsFrozen && !j.Hold && !p.owner {
				m.w.fault("%s is frozen, and its job (%s) does not hold it", n, j.State)
			}
			if j.Hold && p.state == model.IsFrozen && !p.owner && m.w.marks[n] == nil {
				m.w.fault("%s is frozen without a note, and its job is %s", n, j.State)
			}
			m.stopped(n, m.w.instances[n])
			if j.State == model.Held && !strings.Contains(j.Cause, "the control plane refused the report: ") && !strings.Contains(j.Cause, "an operator gave") &&
				!strings.Contains(j.Cause, job.ErrBackupGone.Error()) {
				m.w.fault("job %s is held, and says: %q", j.ID, j.Cause)
			}
			if j.State == model.Held && j.Gone == "" {
				m.kept(j)
			}
		}
		for pack, n := range m.w.packs {
			if n > 1 {
				m.w.fault("pack %s was sent %d times", pack, n)
			}
		}
	})
}

// stopped looks whether an instance that an agent stopped is held
// by a job, or was released by its last. The lock is held.
func (m *hostModel) stopped(name string, p *phone) {
	if p.by != "stop" {
		return
	}
	active, latest, err := m.l.j.ByInstance(name)
	switch {
	case err != nil:
		m.w.fault("%v", err)
	case active != nil && active.Hold && active.State != model.Releasing:
	case active != nil && (active.State == model.Releasing || active.State == model.Released), latest != nil && !latest.Entered[model.Released].IsZero():
		p.by = "power-down"
	default:
		m.w.fault("%s is left stopped: its job is %+v, the last was %+v", name, active, latest)
	}
}

// quiet lets every job end, in a world without faults, and looks for leftovers.
func (m *hostModel) quiet() {
	m.heal()
	m.end(true)
	m.begin()
	for range 1000 {
		jobs, err := m.l.j.Active()
		if err != nil {
			m.w.t.Fatal(err)
		}
		if len(jobs) == 0 {
			break
		}
		for _, j := range jobs {
			switch {
			case j.State == model.Held && j.Gone != "":
				_ = m.l.m.Resume(j.Instance) // likewise
			case j.State == model.Held || j.State == model.Acknowledged:
				_ = m.l.m.Release(j.Instance) // it may have gone on meanwhile
			}
		}
		time.Sleep(10 * time.Second)
	}
	m.retryAll()
	time.Sleep(time.Minute) // the last events go out
	bases, err := m.l.j.Bases("")
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.lock(func() {
		for _, b := range bases {
			if _, stands := m.w.snaps[b.Ref.Path]; !stands {
				m.w.fault("base %+v is not there", b)
			}
			delete(m.w.snaps, b.Ref.Path)
		}
		for path, d := range m.w.disks {
			if strings.Contains(path, ".stage-") {
				m.w.fault("left behind: %s at %s", d.tree, path)
			}
		}
		jobs, err := m.l.j.Active()
		if err != nil || len(jobs) > 0 {
			m.w.fault("jobs that do not end: %+v, %v", jobs, err)
		}
		if n, err := m.l.j.PendingReports(); n > 0 || err != nil {
			m.w.fault("%d reports are not delivered, %v", n, err)
		}
		if n, err := m.l.j.RefusedReports(); n > 0 || err != nil {
			m.w.fault("%d reports are refused by a control plane that takes all, %v", n, err)
		}
		if len(m.w.snaps) > 0 || len(m.w.marks) > 0 {
			m.w.fault("left behind: snapshots %v, notes %v", m.w.snaps, slices.Collect(maps.Keys(m.w.marks)))
		}
		for n, p := range m.w.instances {
			if p.state == model.IsFrozen && !p.owner {
				m.w.fault("%s is left frozen", n)
			}
		}
	})
	m.l.stop()
}

// number is an environment variable, for runs by hand.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

const stepsPerRun = 100

// TestModel makes 10,000 steps. HOLDFAST_SEED and HOLDFAST_RUNS do others; one run of
// a seed that was found is HOLDFAST_SEED=it HOLDFAST_RUNS=1. The steps follow from
// the seed; which of two goroutines that wake in one instant goes first does not.
func TestModel(t *testing.T) {
	seed, runs := number(t, "HOLDFAST_SEED", 1), number(t, "HOLDFAST_RUNS", 100)
	t.Logf("HOLDFAST_SEED=%d HOLDFAST_RUNS=%d, %d steps each", seed, runs, stepsPerRun)
	for s := seed; s < seed+runs; s++ {
		found, trail := runModel(t, s, stepsPerRun, "")
		if len(found) > 0 {
			t.Fatalf("HOLDFAST_SEED=%d HOLDFAST_RUNS=1:\n%s\nafter\n%s", s, strings.Join(found, "\n"), strings.Join(trail, "\n"))
		}
	}
}

// TestModelFindsWhatIsBroken breaks one part of the world
// on which the agent rests, and the model sees that.
func TestModelFindsWhatIsBroken(t *testing.T) {
	for _, broken := range []string{"journal", "acknowledgement", "state", "generation", "removal", "engine", "notes", "proof", "look"} {
		t.Run(broken, func(t *testing.T) {
			for seed := uint64(1); seed <= 60; seed++ {
				if found, _ := runModel(t, seed, stepsPerRun, broken); len(found) > 0 {
					t.Logf("seed %d: %s", seed, found[0])
					return
				}
			}
			t.Error("not found")
		})
	}
}
