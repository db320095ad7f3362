package fear_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// How long the processes are disturbed and with which seed, unless the environment says otherwise.
// The time is short because the tests of the whole repository take as long as CI allows; "make
// soak" disturbs for half an hour.
const (
	usualTime = 15 * time.Second
	usualSeed = 5
)

// The parts of a stage.
const (
	hostCount     = 4
	instanceCount = 6
)

// grace is for how long a forgotten backup stays. All prunes but the last one are told so.
const grace = 6 * time.Second

// patience bounds the time that a command takes when nothing disturbs it, and the time until some
// of each kind of work has happened; the machine may be slow.
const patience = 10 * time.Minute

// program is the command line, built once.
var program struct {
	sync.Once
	path string
	err  error
}

func build(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("HOLDFAST_FEAR_PROGRAM"); path != "" {
		return path
	}
	program.Do(func() {
		var dir string
		if dir, program.err = testbed.SharedDir(); program.err != nil {
			return
		}
		program.path = filepath.Join(dir, "holdfast")
		program.err = testbed.Build(program.path, "holdfast/cmd/holdfast")
	})
	must(t, program.err)
	return program.path
}

// stage is one store, with hosts that use one vault in it.
type stage struct {
	t       *testing.T
	seed    uint64
	time    time.Duration // in which the processes are disturbed
	dir     string
	program string
	key     string          // age identity of all hosts
	minio   *testbed.S3     // nil: the store is a folder
	bucket  string          // of MinIO
	objects *objects        // that the gates saw; of MinIO
	hosts   []*host         // that back up, read and prune
	desk    *host           // of the operator; it makes no backups
	ledger  *ledger         // of backups
	trail   *trail          // of acts
	free    chan *instance  // instances that nobody backs up
	asleep  chan *host      // whose process sleeps, so that somebody may declare it dead
	going   context.Context //nolint:containedctx // ends with the disturbances
	end     context.CancelFunc

	mu     sync.Mutex
	pruned time.Time // begin of the last prune that ended well
}

// prunedSince tells whether a prune that began after that time has ended.
func (s *stage) prunedSince(begun time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pruned.After(begun)
}

// TestFear is the whole, on each kind of store.
func TestFear(t *testing.T) {
	testbed.Need(t, "root", "minio")
	for _, kind := range []string{"minio", "file"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, kind)
			t.Logf("HOLDFAST_SEED=%d, disturbed for %s", s.seed, s.time)
			s.disturb()
			if t.Failed() {
				return
			}
			if !s.workDone() {
				t.Fatalf("some of the work that the test is for did not happen in %s", patience)
			}
			s.settle()
			s.trail.report()
		})
	}
}

func newStage(t *testing.T, kind string) *stage {
	t.Helper()
	s := &stage{t: t, seed: usualSeed, time: usualTime, dir: testbed.Dir(t), program: build(t), asleep: make(chan *host, hostCount), going: t.Context(), end: func() {}}
	if text := os.Getenv("HOLDFAST_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		must(t, err)
		s.seed = n
	}
	if text := os.Getenv("HOLDFAST_FEAR_TIME"); text != "" {
		d, err := time.ParseDuration(text)
		must(t, err)
		s.time = d
	}
	s.trail = newTrail(t, kind)
	s.ledger = &ledger{backups: map[string]*backup{}}
	if kind == "minio" {
		s.minio = testbed.StartMinIO(t)
		s.bucket = s.minio.Bucket(t)
		s.objects = newObjects()
		t.Cleanup(way.CloseIdleConnections)
	}
	s.key = filepath.Join(s.dir, "fleet.key")
	s.free = make(chan *instance, instanceCount)
	for n := range instanceCount {
		s.free <- newInstance(s, n)
	}
	for n := range hostCount {
		s.hosts = append(s.hosts, startHost(s, fmt.Sprintf("host-%d", n)))
	}
	s.desk = startHost(s, "desk")
	for _, args := range [][]string{{"key", "new", "--out", s.key}, {"vault", "create"}} {
		s.calm(s.desk, args...)
	}
	return s
}

// calm runs a command that nothing disturbs, and fails the test where the command fails.
func (s *stage) calm(h *host, args ...string) result {
	s.t.Helper()
	r := h.run(s.t.Context(), nil, args...)
	if r.code != 0 {
		s.found("holdfast %q failed with code %d, although nothing disturbed it: %s", args, r.code, r.errors)
	}
	return r
}

// found tells of something that must not be, and ends the disturbances.
func (s *stage) found(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.trail.note("FOUND: %s", text)
	s.t.Errorf("FOUND after %.1f s (HOLDFAST_SEED=%d): %s", time.Since(s.trail.began).Seconds(), s.seed, text)
	s.end()
}

// storeURL is the address of the store for a process whose gate listens there; "" for the store
// itself.
func (s *stage) storeURL(gate string) string {
	if s.minio == nil {
		return "file://" + filepath.Join(s.dir, "store")
	}
	if gate == "" {
		return s.minio.URL(s.bucket, prefix)
	}
	return s.minio.URLVia("http://"+gate, s.bucket, prefix)
}

// prefix begins the names of all objects in the bucket.
const prefix = "fear"

// open opens the vault in the process of the test.
func (s *stage) open(ctx context.Context) (obs.Store, *vault.Vault) {
	s.t.Helper()
	id, err := vault.LoadIdentity(s.key)
	must(s.t, err)
	getenv := func(string) string { return "" }
	if s.minio != nil {
		getenv = s.minio.Getenv
	}
	st, err := obs.Open(ctx, s.storeURL(""), obs.Options{Getenv: getenv})
	must(s.t, err)
	v, err := vault.Open(ctx, st, vaultName, nil, id)
	must(s.t, err)
	return st, v
}

const vaultName = "fear"
