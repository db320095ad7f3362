package job_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// world is a host, a store and a control plane in memory. It outlives the agents that act on it.
type world struct {
	t       *testing.T
	journal string

	mu        sync.Mutex
	instances map[string]*phone
	snaps     map[string]int    // path -> the count that it holds
	made      map[string]string // path -> the catalogue that tells of it
	ended     map[string]int    // identity -> the count at which it was powered down
	creations int
	based     int              // how often the engine was given a base that stands
	backups   map[string][]int // instance -> the counts that its manifests hold
	// instance -> the counts that they held, and when the store lost them
	lost   map[string]map[int]time.Time
	packs  map[string]int // pack id -> how often it was sent
	rounds map[string]int // job -> rounds of pre-copy
	// jobs of which the engine was not told yet that they are over
	kept  map[string]bool
	marks map[string][]byte
	// path -> the content that a restore finds or leaves there
	disks map[string]disk
	// tree -> the mark that it bears
	bears map[string]bearing
	// tree -> the note that a restore has put on it
	notes map[string]model.KeptNote
	room  func(context.Context, model.Base) (int64, int64, error) // nil: not asked
	// the store's treatment of a restore; nil: well
	restore func(ctx context.Context, volume int) error
	// a volume that can't be renamed
	stuck string
	// the disks have room for one copy of an instance
	small bool
	// the store's answer to a request before a hold; nil: well
	away error
	// for how long the store has not answered
	silent time.Duration
	// how often the store was asked before a hold
	asked int
	// how often a look for copies of the host came before a power-down
	alone int
	// such a look; nil: it finds none
	lookForCopies func(ctx context.Context) error
	// as the control plane took them
	events []model.Event
	bootID string
	booted time.Time     // by the clock that no step of the host's clock moves
	skew   time.Duration // of the host's clock
	// fail is the answer of the runtime, the snapshots or
	// the notes instead of doing the act; nil: they do it.
	fail   func(act, instance string) error
	backup func(ctx context.Context, r job.BackupRequest) error // the store's treatment; nil: well
	// the store's answer when it is asked for a backup; nil: it answers
	present func(ctx context.Context, j *model.Job) error
	// how long an act of the runtime takes; nil: no time
	wait func(ctx context.Context, act string)
	// the control plane's answer; nil: 2xx
	answer func(e model.Event) (refusal string, err error)
	// is told of each state; nil: nobody is
	observe func(j *model.Job)
	// another way to make a snapshot; nil: there is none
	instead   func(failed model.Snapshot) (model.Snapshot, bool)
	forks     []model.Fork         // that the engine finds beside each backup
	decisions []model.ForkDecision // that the vault has
	// byMarks is the backup that the marks on an instance's volumes tell.
	byMarks map[string]model.Content
	// the part that does not do its duty; see TestModelFindsWhatIsBroken
	broken string
	lacked []string // what jobs went on without
	// whether this hit of a crash point panics; nil: none does
	explode func(point string) bool
	panics  int // of which the agent was told
	faults  []string
	current *journal.Journal
}

// phone is an instance that counts while it runs; its storage is the count.
type phone struct {
	state  model.RuntimeState
	count  int
	tenant string // "" is acme
	policy model.Policy
	mode   model.Mode
	pinned bool // its storage makes no snapshots while it runs
	warm   bool // but a round can read it in place; of some volumes, if it is not pinned
	gone   bool // its volumes are not mounted
	left   bool // the configuration does not have it
	config int  // how often the configuration made another thing of it
	nobody bool // holds it
	downs  int
	by     string // who stopped it: "stop" or "power-down" for the agent, else ""
	// releasing is when the agent last began to power it down.
	releasing time.Time

	name    string
	id      int  // how often it was made anew
	run     int  // how often it was started
	work    int  // how long it ran
	renamed bool // it does not have its name any more
	owner   bool // froze it, and not an agent
	blind   bool // the runtime can't tell whether it ran
}

func newWorld(t *testing.T, names ...string) *world {
	w := &world{
		t: t, journal: filepath.Join(memoryDir(t), "journal"), instances: map[string]*phone{}, snaps: map[string]int{}, made: map[string]string{},
		backups: map[string][]int{}, packs: map[string]int{}, rounds: map[string]int{}, kept: map[string]bool{}, marks: map[string][]byte{}, disks: map[string]disk{}, bears: map[string]bearing{}, notes: map[string]model.KeptNote{},
		lost: map[string]map[int]time.Time{}, ended: map[string]int{}, bootID: "boot-1", booted: time.Now(),
	}
	for _, n := range names {
		w.instances[n] = &phone{name: n, state: model.IsRunning, policy: model.ReleaseByAgent}
	}
	return w
}

// memoryDir is a folder that needs no disk where there is one: the matrix
// syncs thousands of times, and it tests the written bytes, not the disk.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.skew)
}

// failing is the error that the world has for the act. The lock is held.
func (w *world) failing(act, instance string) error {
	if w.fail == nil {
		return nil
	}
	return w.fail(act, instance)
}

func (w *world) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// life is one process: an agent from its start to its end or its death.
type life struct {
	w       *world
	m       *job.Manager
	j       *journal.Journal
	cancel  context.CancelFunc
	ended   chan struct{}
	dead    chan struct{}
	die     sync.Once
	points  []string // hit so far
	crashAt int      // index into points, -1: never
	// crashName is a point at which it dies too, "": none.
	crashName string
	pmu       sync.Mutex
}

func (w *world) start(crashAt int, opts job.Options) *life {
	w.t.Helper()
	j, err := journal.Open(w.journal)
	if err != nil {
		w.t.Fatal(err)
	}
	l := &life{w: w, j: j, ended: make(chan struct{}), dead: make(chan struct{}), crashAt: crashAt}
	opts.Jobs = max(opts.Jobs, 1)
	opts.Now, opts.Rand, opts.BootID, opts.Hook, opts.ProgressEvery = w.now, randReader{}, w.bootID, l.hook, time.Second
	booted := w.booted
	opts.Uptime = func() time.Duration { return time.Since(booted) }
	l.m = job.New(j, l.parts(), opts)
	w.mu.Lock()
	w.current = j
	clear(w.kept) // with the process before
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(w.t.Context())
	l.cancel = cancel
	ready := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		if err := l.m.Run(ctx, func() { close(ready) }); err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
	all.Go(func() { l.deliver(ctx) })
	go func() { all.Wait(); close(l.ended) }()
	select {
	case <-ready:
	case <-l.dead:
	}
	return l
}

// hook counts the crash points and kills the process at the chosen
// one. A dead process does nothing more.
func (l *life) hook(point string) {
	l.pmu.Lock()
	l.points = append(l.points, point)
	dies := len(l.points)-1 == l.crashAt || point == l.crashName
	l.pmu.Unlock()
	if dies {
		l.kill()
	}
	l.alive()
	if l.w.explode != nil && l.w.explode(point) {
		panic("at " + point)
	}
}

// dieAfter kills the process at the n-th crash point from now; 1 is the next.
func (l *life) dieAfter(n int) {
	l.pmu.Lock()
	defer l.pmu.Unlock()
	l.crashAt = len(l.points) + n - 1
}

// dieAt kills the process at the named crash point.
func (l *life) dieAt(point string) {
	l.pmu.Lock()
	defer l.pmu.Unlock()
	l.crashName = point
}

func (l *life) kill() { l.die.Do(func() { close(l.dead) }) }

// alive ends the calling goroutine if the process is dead.
func (l *life) alive() {
	select {
	case <-l.dead:
		runtime.Goexit()
	default:
	}
}

// stop ends the process, in order unless it is dead.
func (l *life) stop() {
	l.cancel()
	<-l.ended
	if len(l.w.kept) > 0 && !l.isDead() {
		l.w.t.Errorf("the engine was not told that jobs are over: %v", l.w.kept)
	}
	if err := l.j.Close(); err != nil {
		l.w.t.Error(err)
	}
}

func (l *life) isDead() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// accept sends a command; it may be the end of the process.
func (l *life) accept(id string, instances ...string) (t *model.Task, err error) {
	return l.send(job.Request{ID: id, Digest: [32]byte{byte(len(instances))}, Tenant: "acme", Instances: instances})
}

func (l *life) send(r job.Request) (t *model.Task, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t, err = l.m.Accept(r)
	}()
	<-done
	return t, err
}

// deliver is the outbox's other side.
func (l *life) deliver(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		progress, err := l.m.TakeProgress(1000, nil)
		if err != nil {
			return
		}
		heads, err := l.m.Heads(1000, nil)
		if err != nil {
			return
		}
		for _, e := range progress {
			if !slices.ContainsFunc(heads, func(h model.Event) bool { return h.Instance == e.Instance }) {
				heads = append(heads, e)
			}
		}
		settled := false
		for _, e := range heads {
			l.alive()
			l.w.mu.Lock()
			answer := l.w.answer
			l.w.mu.Unlock()
			refusal := ""
			if l.w.broken == "acknowledgement" {
				if err := l.m.Acknowledge(e.Seq); err != nil {
					return
				}
				settled = settled || e.Seq != 0
				continue
			}
			if answer != nil {
				if refusal, err = answer(e); err != nil {
					continue
				}
			}
			if refusal == "" {
				l.w.mu.Lock()
				l.w.events = append(l.w.events, e)
				l.w.mu.Unlock()
				err = l.m.Acknowledge(e.Seq)
			} else {
				err = l.m.Refuse(e.Seq, refusal)
			}
			if err != nil {
				return
			}
			settled = settled || e.Seq != 0
		}
		if settled {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-l.dead:
			return
		case <-l.m.OutboxChanged():
		case <-tick.C:
		}
	}
}

// final waits until the job of the instance is over or the process is dead.
func (l *life) final(id string) *model.Job {
	for range 100_000 {
		if l.isDead() {
			return nil
		}
		j, err := l.j.Job(id)
		if err == nil && j.State.Final() {
			return j
		}
		time.Sleep(100 * time.Millisecond)
	}
	j, _ := l.j.Job(id)
	l.w.t.Fatalf("job does not end: %+v", j)
	return nil
}

func (l *life) until(id string, s model.State) {
	for range 100_000 {
		if j, err := l.j.Job(id); err == nil && j.State == s {
			return
		}
		if l.isDead() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	j, _ := l.j.Job(id)
	l.w.t.Fatalf("job does not become %s: %+v", s, j)
}

func (l *life) parts() job.Parts {
	w := l.w
	return job.Parts{
		Instance: func(id string) (job.Instance, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if p := w.instances[id]; p == nil || p.left {
				return job.Instance{}, model.ErrNotFound
			}
			return l.instance(id), nil
		},
		Recall: func(id string, kept json.RawMessage) (job.Instance, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if string(kept) != l.keep(id) {
				w.fault("%s is recalled by %s", id, kept)
			}
			return l.instance(id), nil
		},
		Store: fakeStore{l},
		Leftovers: func(context.Context) (refs []model.Ref, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for path := range w.snaps {
				refs = append(refs, model.Ref{Provider: "fake", Path: path})
			}
			return refs, nil
		},
		RemoveLeftover: func(_ context.Context, ref model.Ref) error {
			l.alive()
			w.mu.Lock()
			defer w.mu.Unlock()
			if err := w.failing("remove-leftover", ""); err != nil || w.broken == "removal" {
				return err
			}
			delete(w.snaps, ref.Path)
			return nil
		},
		Room: w.room, Marks: fakeMarks{l}, Backuper: fakeEngine{l}, Restorer: fakeRestorer{l}, Signer: fakeSigner{l}, Observer: quiet{w},
	}
}

// instance gives the parts of an instance. The lock is held.
func (l *life) instance(id string) job.Instance {
	p := l.w.instances[id]
	return job.Instance{
		ID: id, Tenant: cmp.Or(p.tenant, "acme"), Policy: p.policy, Mode: p.mode, Holds: !p.nobody, Runtime: &fakeRuntime{l, id, p, ""}, Snapshots: &fakeSnaps{l, id, p},
		Keep: json.RawMessage(l.keep(id)),
	}
}

// keep is the configuration of an instance. The lock is held.
func (l *life) keep(id string) string { return strconv.Quote(fmt.Sprint(id, l.w.instances[id].config)) }

// fakeStore tells whether the store of the world answers.
type fakeStore struct{ l *life }

func (s fakeStore) Reach(context.Context, string) error {
	s.l.alive()
	s.l.w.mu.Lock()
	defer s.l.w.mu.Unlock()
	s.l.w.asked++
	return s.l.w.away
}

func (s fakeStore) Silent() time.Duration {
	s.l.w.mu.Lock()
	defer s.l.w.mu.Unlock()
	return s.l.w.silent
}

// record is the journal's record of the instance's job right now. The world's lock is held.
func (l *life) record(instance string) *model.Job {
	active, _, err := l.j.ByInstance(instance)
	if err != nil || active == nil {
		return &model.Job{}
	}
	return active
}

// notReleased finds a job that lets an instance run which the
// control plane was told is released. The lock is held.
func (l *life) notReleased(instance string) {
	id := l.record(instance).ID
	if slices.ContainsFunc(l.w.events, func(e model.Event) bool { return e.Type == model.EventReleased && e.Job == id }) {
		l.w.fault("%s is started again after the report that it was released", instance)
	}
}

// had tells whether the store has a backup of the instance at that count, or
// lost the backup so late that the agent could not know. The lock is held.
func (w *world) had(instance string, count int) bool {
	at, lost := w.lost[instance][count]
	return slices.Contains(w.backups[instance], count) || lost && at.After(w.instances[instance].releasing.Add(-proofAge))
}

// proofAge is how old a look at the store may be at a power-down,
// with zero Options, and a little more.
const proofAge = 2*time.Minute + time.Second

type fakeSnaps struct {
	l  *life
	id string
	p  *phone
}

func (s *fakeSnaps) Plan(_ context.Context, id string) ([]model.Snapshot, error) {
	var planned []model.Snapshot
	for _, v := range []string{"data", "media"} {
		live := !s.p.pinned && !(s.p.warm && v == "media")
		planned = append(planned, model.Snapshot{
			Name: v, Ref: model.Ref{Provider: "fake", Path: id + "-" + v, Volume: "/live " + v}, Live: live, Warm: s.p.warm && !live, Comparable: true,
		})
	}
	return planned, nil
}

func (s *fakeSnaps) PlanRestored(_ context.Context, id string, places []model.Place) (planned []model.Snapshot, err error) {
	s.l.alive()
	for _, p := range places {
		if s.p.pinned && p.Volume == "media" {
			err = errors.New("the storage of media is out of order")
			continue
		}
		planned = append(planned, model.Snapshot{
			Name: p.Volume, Ref: model.Ref{Provider: "fake", Path: id + "-" + p.Volume}, Live: true, Comparable: true, At: p.Stage,
		})
	}
	return planned, err
}

func (s *fakeSnaps) Create(_ context.Context, _ string, planned model.Snapshot) (model.Snapshot, error) {
	s.l.alive()
	s.l.w.mu.Lock()
	defer s.l.w.mu.Unlock()
	if err := s.l.w.failing("snapshot", s.id); err != nil {
		return model.Snapshot{}, err
	}
	j := s.l.record(s.id)
	if !slices.ContainsFunc(j.Snapshots, func(p model.Snapshot) bool { return p.Ref == planned.Ref }) {
		s.l.w.fault("journal-first: snapshot %s is not in the journal", planned.Ref.Path)
	}
	if _, there := s.l.w.snaps[planned.Ref.Path]; there {
		return model.Snapshot{}, errors.New("exists")
	}
	s.l.w.snaps[planned.Ref.Path] = s.p.count
	s.l.w.creations++
	s.l.w.made[planned.Ref.Path] = fmt.Sprint(s.l.w.creations)
	if planned.At != "" {
		at := s.l.w.disks[planned.At]
		if j.State != model.Placing || at.tree != "tree of "+planned.At {
			s.l.w.fault("base of %q at %s while the journal says %s", at.tree, planned.At, j.State)
		}
		s.l.w.snaps[planned.Ref.Path], s.l.w.made[planned.Ref.Path] = at.count, catalogueOf(at.tree)
	}
	planned.Root = "/" + planned.Ref.Path
	return planned, nil
}

// Instead has a way where the world has one.
func (s *fakeSnaps) Instead(_ context.Context, _ string, failed model.Snapshot, why error) (model.Snapshot, string, bool) {
	if s.l.w.instead == nil {
		return model.Snapshot{}, "", false
	}
	other, ok := s.l.w.instead(failed)
	return other, "it takes longer: " + why.Error(), ok
}

func (s *fakeSnaps) Stands(_ context.Context, snap model.Snapshot) (bool, error) {
	s.l.w.mu.Lock()
	defer s.l.w.mu.Unlock()
	_, there := s.l.w.snaps[snap.Ref.Path]
	return there, nil
}

func (s *fakeSnaps) Remove(_ context.Context, ref model.Ref) error {
	s.l.alive()
	s.l.w.mu.Lock()
	defer s.l.w.mu.Unlock()
	if err := s.l.w.failing("remove-snapshot", s.id); err != nil {
		return err
	}
	delete(s.l.w.snaps, ref.Path)
	return nil
}

// fakeEngine sends three packs, each once unless Resume names it.
type fakeEngine struct{ l *life }

func (b fakeEngine) Look(_ context.Context, instance, _ string) error {
	b.l.alive()
	b.l.w.mu.Lock()
	defer b.l.w.mu.Unlock()
	if b.l.w.instances[instance].gone {
		return errors.New("the volume is not mounted")
	}
	return nil
}

func (b fakeEngine) Backup(ctx context.Context, r job.BackupRequest) (*model.Result, error) {
	w := b.l.w
	w.mu.Lock()
	w.kept[r.Job] = true
	w.mu.Unlock()
	held := -1
	for i, s := range r.Sources {
		w.mu.Lock()
		count, there := w.snaps[s.Root[1:]]
		if p := w.instances[r.Instance]; s.Root == "/live "+s.Volume { // in place
			count, there = p.count, true
			if !r.Precopy || s.Base != nil || s.Ref != (model.Ref{}) || !s.Taken.IsZero() {
				w.fault("read in place: %+v, in a round: %v", s, r.Precopy)
			}
		}
		if b := s.Base; b != nil {
			if _, stands := w.snaps[b.Ref.Path]; stands {
				w.based++
				if b.Catalogue != w.made[b.Ref.Path] || b.Ref.Path == s.Ref.Path || b.Volume != s.Volume {
					w.fault("base %+v of %+v, of which %s tells", *b, s, w.made[b.Ref.Path])
				}
			}
		}
		w.mu.Unlock()
		if !there || i > 0 && count != held && !r.Precopy {
			return nil, fmt.Errorf("snapshot %s: there %v, count %d, others %d", s.Root, there, count, held)
		}
		held = count
	}
	w.mu.Lock()
	if p := w.instances[r.Instance]; p.gone {
		w.mu.Unlock()
		return nil, errors.New("the volume is not mounted")
	} else if r.Precopy && p.state == model.IsFrozen && !p.owner {
		w.fault("a round of pre-copy while the instance is %s", p.state)
	}
	w.mu.Unlock()
	for i := range 3 {
		pack := fmt.Sprintf("%s-pack-%d-of-%d", r.Job, i, held)
		w.mu.Lock()
		stored := w.packs[pack] > 0
		w.mu.Unlock()
		if stored && slices.Contains(r.Resume, pack) {
			continue
		}
		if err := r.PackIntent(pack); err != nil {
			return nil, err
		}
		b.l.alive()
		if w.backup != nil {
			if err := w.backup(ctx, r); err != nil {
				return nil, err
			}
		}
		w.mu.Lock()
		w.packs[pack]++
		w.mu.Unlock()
		r.Progress(model.Progress{BytesSent: uint64(i)})
	}
	b.l.alive()
	if r.Accept != nil {
		if err := r.Accept(ctx); err != nil {
			return nil, err
		}
	}
	id := fmt.Sprint("b", held)
	if !r.Precopy {
		if err := r.BackupIntent(id); err != nil {
			return nil, err
		}
	}
	b.l.alive()
	w.mu.Lock()
	defer w.mu.Unlock()
	catalogues := map[string]string{}
	for _, s := range r.Sources {
		catalogues[s.Volume] = w.made[s.Root[1:]]
	}
	if r.Precopy {
		w.rounds[r.Job]++
		return &model.Result{BytesRead: 1 << (30 - w.rounds[r.Job]), Catalogues: catalogues}, nil
	}
	if w.broken != "engine" {
		w.backups[r.Instance] = append(w.backups[r.Instance], held)
	}
	return &model.Result{Fork: w.forks, Parent: r.Content.Backup, BackupID: id, Seq: uint64(len(w.backups[r.Instance])), Object: "v/backups/" + id, ManifestSHA256: "00ff", Verified: time.Now(), Catalogues: catalogues}, nil
}

// Alone fails where the world says that the host is a copy.
func (b fakeEngine) Alone(ctx context.Context, j *model.Job) error {
	b.l.alive()
	w := b.l.w
	w.mu.Lock()
	w.alone++
	look, err := w.lookForCopies, w.failing("alone", j.Instance)
	w.mu.Unlock()
	if look == nil || err != nil {
		return err
	}
	return look(ctx)
}

// Present tells whether the world has the job's backup.
func (b fakeEngine) Present(ctx context.Context, j *model.Job) error {
	// the one who waits is no goroutine of this call, so it can't be ended here
	dead := func() error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if b.l.isDead() {
		return dead()
	}
	w := b.l.w
	w.mu.Lock()
	present := w.present
	w.mu.Unlock()
	if present != nil {
		if err := present(ctx, j); err != nil {
			return err
		}
	}
	if b.l.isDead() {
		return dead()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken == "proof" || w.broken == "engine" {
		return nil
	}
	if !slices.ContainsFunc(w.backups[j.Instance], func(count int) bool { return fmt.Sprint("b", count) == j.Result.BackupID }) {
		return fmt.Errorf("%w: the manifest is missing", job.ErrBackupGone)
	}
	return nil
}

// AcceptFork stores a decision in the world's vault; the first one counts.
func (b fakeEngine) AcceptFork(_ context.Context, j *model.Job, d model.ForkDecision) (model.ForkDecision, error) {
	b.l.alive()
	w := b.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing("decide", j.Instance); err != nil {
		return d, err
	}
	if n := len(w.decisions); n > 0 && w.decisions[n-1].Backup != d.Backup && !d.Again {
		return w.decisions[n-1], nil
	}
	w.decisions = append(w.decisions, d)
	return d, nil
}

// Decided returns the decision in the world's vault.
func (b fakeEngine) Decided(_ context.Context, j *model.Job) (model.ForkDecision, error) {
	b.l.alive()
	w := b.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing("decided", j.Instance); err != nil || len(w.decisions) == 0 {
		return model.ForkDecision{}, err
	}
	return w.decisions[len(w.decisions)-1], nil
}

// Over notes that the engine may forget the rounds of a job.
func (b fakeEngine) Over(_ context.Context, id string) {
	w := b.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.kept, id)
}

type fakeMarks struct{ l *life }

func (f fakeMarks) Set(instance string, note []byte) error {
	f.l.alive()
	f.l.w.mu.Lock()
	defer f.l.w.mu.Unlock()
	if err := f.l.w.failing("note", instance); err != nil {
		return err
	}
	if f.l.w.broken != "notes" {
		f.l.w.marks[instance] = note
	}
	return nil
}

func (f fakeMarks) Clear(instance string) error {
	f.l.alive()
	f.l.w.mu.Lock()
	defer f.l.w.mu.Unlock()
	if err := f.l.w.failing("clear", instance); err != nil {
		return err
	}
	if p := f.l.w.instances[instance]; p.state == model.IsFrozen && !p.owner {
		f.l.w.fault("the note of %s is removed while it is frozen", instance)
	}
	delete(f.l.w.marks, instance)
	return nil
}

func (f fakeMarks) List() (map[string][]byte, error) {
	f.l.w.mu.Lock()
	defer f.l.w.mu.Unlock()
	return maps.Clone(f.l.w.marks), nil
}

type fakeSigner struct{ l *life }

func (s fakeSigner) Receipt(_ context.Context, j *model.Job) (json.RawMessage, error) {
	s.l.w.mu.Lock()
	defer s.l.w.mu.Unlock()
	if err := s.l.w.failing("sign", j.Instance); err != nil {
		return nil, err
	}
	return json.RawMessage(`{"signed":true}`), nil
}

type quiet struct{ w *world }

func (q quiet) Changed(j *model.Job, _ model.State) {
	if q.w.observe != nil {
		q.w.observe(j)
	}
}
func (quiet) Progressed(*model.Job, model.Progress) {}

func (q quiet) Trouble(_, _, _ string, err error) {
	if contain.Of(err) != nil {
		q.w.mu.Lock()
		defer q.w.mu.Unlock()
		q.w.panics++
	}
}

func (q quiet) Lacked(_, _, doing string, err error) {
	q.w.mu.Lock()
	defer q.w.mu.Unlock()
	if contain.Of(err) != nil {
		q.w.panics++
	}
	q.w.lacked = append(q.w.lacked, doing+": "+err.Error())
}

// randReader gives ids; they need not be secret here.
type randReader struct{}

func (randReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return len(p), nil
}

var _ io.Reader = randReader{}

// lose takes the journal away, between two lives.
func (w *world) lose() {
	w.t.Helper()
	if err := os.Remove(w.journal); err != nil {
		w.t.Error(err)
	}
}
