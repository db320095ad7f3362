package janitor_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent/janitor"
	"holdfast/internal/hostid"
	"holdfast/internal/obs"
	"holdfast/internal/retention"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

const (
	tenant = "acme"
	day    = 24 * time.Hour
)

// store is a store in memory that refuses deletes, or has a wrong clock, as a test wants it.
type store struct {
	obs.Store
	mu      sync.Mutex
	deny    bool
	ahead   time.Duration // of the clock of the store
	deletes int
}

func (s *store) set(change func(*store)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *store) Delete(ctx context.Context, keys ...string) error {
	s.mu.Lock()
	deny := s.deny
	s.deletes++
	s.mu.Unlock()
	if deny {
		return fmt.Errorf("delete: %w", obs.ErrAccess)
	}
	return s.Store.Delete(ctx, keys...)
}

func (s *store) Stat(ctx context.Context, key string) (obs.Info, error) {
	info, err := s.Store.Stat(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	info.Modified = info.Modified.Add(s.ahead)
	return info, err
}

// world is a vault of one tenant, with the hosts that use it.
type world struct {
	*testing.T
	st  *store
	key *vault.Identity
	v   *vault.Vault
	seq map[string]uint64 // of the last backup, by instance
	ids map[string][]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// The clock of a test begins in 2000, when no clock of a host can be right.
	if begin := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC); time.Now().Before(begin) {
		time.Sleep(time.Until(begin))
	}
	w := &world{T: t, st: &store{Store: obs.NewMemory()}, seq: map[string]uint64{}, ids: map[string][]string{}}
	var err error
	w.key, err = vault.GenerateIdentity()
	w.must(err)
	w.v, err = vault.Create(t.Context(), w.st, tenant, nil, nil, w.key)
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// backup makes a backup of an instance with a pack of its own, at that time by the clock of its
// host, and returns its name.
func (w *world) backup(instance string, at time.Time) string {
	w.Helper()
	s, err := w.v.BeginSession(w.Context(), vault.SessionOptions{Host: "writer", Instance: instance})
	w.must(err)
	var pack vault.PackID
	_, _ = rand.Read(pack[:])
	key := w.packKey(pack)
	w.must(w.st.Put(w.Context(), key, make([]byte, 1000)))
	refs, err := w.v.Backups(w.Context(), instance)
	w.must(err)
	w.seq[instance]++
	parent := ""
	if all := w.ids[instance]; len(all) > 0 {
		parent = all[len(all)-1]
	}
	id := vault.LineageOf(refs).NewID(w.seq[instance], at, parent, false)
	w.must(s.WriteManifest(w.Context(), &vault.Manifest{
		Instance: instance, Seq: w.seq[instance], ID: id, Parent: parent, Created: at, Packs: []vault.PackRef{{ID: pack, Size: 1000}},
	}))
	w.must(s.End(w.Context()))
	w.ids[instance] = append(w.ids[instance], id)
	return instance + "/" + id
}

func (w *world) packKey(pack vault.PackID) string {
	id := pack.String()
	return w.v.Info().ID + "/packs/" + id[:2] + "/" + id
}

// days makes a backup of an instance on each of that many days, the last one now.
func (w *world) days(instance string, n int) (names []string) {
	w.Helper()
	for i := range n {
		names = append(names, w.backup(instance, time.Now().Add(-time.Duration(n-1-i)*day)))
	}
	return names
}

// left counts the objects in a folder of the vault.
func (w *world) left(folder string) (n int) {
	w.Helper()
	for _, err := range w.st.List(w.Context(), w.v.Info().ID+"/"+folder+"/") {
		w.must(err)
		n++
	}
	return n
}

// backups are the names of the backups that are there, and of these the forgotten ones.
func (w *world) backups() (there, forgotten []string) {
	w.Helper()
	refs, err := w.v.Backups(w.Context(), "")
	w.must(err)
	marks, err := w.v.ForgottenBackups(w.Context())
	w.must(err)
	for _, r := range refs {
		there = append(there, r.Instance+"/"+r.ID)
	}
	return there, slices.Sorted(maps.Keys(marks))
}

// whole fails the test where a backup names a pack that is not there.
func (w *world) whole() {
	w.Helper()
	refs, err := w.v.Backups(w.Context(), "")
	w.must(err)
	for _, r := range refs {
		m, err := w.v.Manifest(w.Context(), r)
		w.must(err)
		for _, p := range m.Packs {
			if _, err := w.st.Stat(w.Context(), w.packKey(p.ID)); err != nil {
				w.Errorf("backup %s/%s: %v", r.Instance, r.ID, err)
			}
		}
	}
}

// host is a janitor.Host whose answers a test sets.
type host struct {
	w       *world
	name    string
	o       janitor.Options
	j       *janitor.Janitor
	stopped func()

	mu     sync.Mutex
	needs  map[string]string
	work   string
	halted error
	unable error // to tell
	told   []string
	last   janitor.Run
	seen   map[string]bool // sentences of Run.Step and Report.Waits
}

// host makes a host with rules that keep 3 daily backups.
func (w *world) host(name string, change func(*janitor.Options)) *host {
	w.Helper()
	h := &host{w: w, name: name, seen: map[string]bool{}, o: janitor.Options{
		Host: name, Identity: hostid.Identity{ID: "identity of " + name}, Mode: janitor.ModeCommand, Tenants: []string{tenant},
		Policy: func(string, string) retention.Policy { return retention.Policy{Daily: 3} },
		Every:  7 * day, Grace: day, Wait: time.Hour, MaxShare: 100, IndexDir: w.TempDir(), File: filepath.Join(w.TempDir(), "prunes.json"),
	}}
	if change != nil {
		change(&h.o)
	}
	h.open()
	return h
}

// open makes the janitor anew, as after a start of the agent.
func (h *host) open() {
	h.w.Helper()
	j, aside, err := janitor.New(h, h.o)
	h.w.must(err)
	h.w.must(aside)
	h.j = j
}

// start runs the janitor until stop.
func (h *host) start() {
	ctx, cancel := context.WithCancel(h.w.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.j.Run(ctx) }()
	h.stopped = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			h.w.Errorf("run of %s: %v", h.name, err)
		}
	})
}

// lives starts the janitor, and puts the looks of the host as an agent does, until stop.
func (h *host) lives() {
	h.start()
	ctx, cancel := context.WithCancel(h.w.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var before []string
		for ctx.Err() == nil {
			name := h.w.v.LookName(h.o.Identity.ID)
			if h.w.v.PutLook(ctx, vault.Look{Name: name, Host: h.name}) == nil && h.w.v.DeleteLooks(ctx, before...) == nil {
				before = []string{name}
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Minute):
			}
		}
	}()
	stopped := h.stopped
	h.stopped = sync.OnceFunc(func() { cancel(); <-ended; stopped() })
}

func (h *host) set(change func(*host)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func (h *host) Open(ctx context.Context, of string) (*vault.Vault, func(), error) {
	if of != tenant {
		return nil, nil, vault.ErrNoVault
	}
	v, err := vault.Open(ctx, janitor.Paced(ctx, h.w.st, janitor.Pace{}), of, nil, h.w.key)
	if err != nil {
		return nil, nil, err
	}
	return v, v.Close, nil
}

func (h *host) Needs(string) (map[string]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	needs := map[string]string{}
	maps.Copy(needs, h.needs)
	return needs, nil
}

func (h *host) AtWork(string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.work
}

func (h *host) Halted() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.halted
}

func (h *host) Tell(kind string, r janitor.Run) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unable != nil {
		return h.unable
	}
	h.told = append(h.told, strings.TrimPrefix(kind, "holdfast.prune.")+" "+string(r.Problem))
	return nil
}

func (h *host) Changed(r janitor.Run) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = r
	h.seen[r.Step] = true
	for _, w := range r.Report.Waits {
		h.seen[w] = true
	}
}

func (h *host) Warn(_ string, err error) { h.w.Errorf("a prune warns: %v", err) }

// saw tells whether a run showed a sentence with that text.
func (h *host) saw(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.seen {
		if strings.Contains(s, text) {
			return true
		}
	}
	return false
}

// events are the events that left, each with the problem.
func (h *host) events() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.told)
}

// command commands a prune.
func (h *host) command(c janitor.Command) string {
	h.w.Helper()
	r, err := h.j.Accept(janitor.Request{Tenant: tenant, ID: fmt.Sprint("r", time.Now().UnixNano()), By: "a test", Command: c})
	h.w.must(err)
	return r.ID
}

// end waits for the end of a run.
func (h *host) end(id string) janitor.Run {
	h.w.Helper()
	var r janitor.Run
	h.until("the end of "+id, func() bool {
		var err error
		r, err = h.j.Find(id)
		h.w.must(err)
		return r.State.Over() && r.Told
	})
	return r
}

// run commands a prune and waits for its end.
func (h *host) run(c janitor.Command) janitor.Run {
	h.w.Helper()
	return h.end(h.command(c))
}

// until waits, by the time of the test, until f is true.
func (h *host) until(what string, f func() bool) {
	h.w.Helper()
	for range 60 * 24 * 60 {
		if f() {
			return
		}
		time.Sleep(time.Minute)
	}
	h.w.Fatalf("in vain: %s", what)
}

var errHalted = errors.New("the host drains")
