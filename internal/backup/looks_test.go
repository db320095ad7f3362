package backup_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/vault"
)

// far is a store that is a round trip away, and counts requests by kind.
type far struct {
	obs.Store
	trip time.Duration

	mu       sync.Mutex
	requests map[string]int
	gather   string        // requests of this kind wait until eight of them are under way
	waiting  int           // of those
	gathered chan struct{} // closed then
}

// patience is after which a request gives up waiting for seven others.
const patience = time.Minute

func (s *far) ask(op, key string) {
	if strings.Contains(key, "/packs/") {
		op += " pack"
	}
	s.mu.Lock()
	s.requests[op]++
	var wait chan struct{}
	if op == s.gather {
		wait = s.gathered
		if s.waiting++; s.waiting == 8 {
			close(wait)
		}
	}
	s.mu.Unlock()
	time.Sleep(s.trip)
	if wait != nil {
		select {
		case <-wait:
		case <-time.After(patience):
		}
	}
}

// reset returns the counts, and begins anew. From now on requests
// of the kind gather wait until eight of them are under way.
func (s *far) reset(gather string) (requests map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests = s.requests
	s.requests, s.gather, s.waiting, s.gathered = map[string]int{}, gather, 0, make(chan struct{})
	return requests
}

// together tells whether eight requests of the kind were under way at once.
func (s *far) together() bool {
	select {
	case <-s.gathered:
		return true
	default:
		return false
	}
}

func (s *far) Stat(ctx context.Context, key string) (obs.Info, error) {
	s.ask("stat", key)
	return s.Store.Stat(ctx, key)
}

func (s *far) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	s.ask("read", key)
	return s.Store.ReadAt(ctx, key, p, off)
}

func (s *far) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	s.ask("list", prefix)
	return s.Store.List(ctx, prefix)
}

// manyPacks makes a vault of small packs, and a file whose content takes that many of them.
func manyPacks(t *testing.T, st obs.Store, packs int) (v *vault.Vault, file string) {
	t.Helper()
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	p := vault.Params{Chunk: chunk.Params{Min: 256, Avg: 512, Max: 1024}, Pack: 4096}
	if v, err = vault.CreateWith(t.Context(), st, "tenant", nil, nil, id, p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	file = filepath.Join(t.TempDir(), "large")
	fill(t, file, 0, int64(packs)*3600, 9)
	return v, file
}

// TestLooksWhileFrozenAreFew: of 10,000 packs that a backup needs, the rounds of pre-copy look
// at all with as few requests as listing takes, and the backup, while the instance stands
// still, at none that a round named. Without rounds it lists too, many requests at a time.
func TestLooksWhileFrozenAreFew(t *testing.T) {
	const packs = 10_000
	mem := obs.NewMemory()
	st := &far{Store: mem, requests: map[string]int{}}
	v, file := manyPacks(t, st, packs)
	o := backup.Options{
		Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: filepath.Dir(file)}}, Now: inAnHour,
		CatalogueDir: t.TempDir(), IndexDir: t.TempDir(), Pool: backup.NewPool(backup.PoolOptions{Pack: 4096}),
	}
	first, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.Packs < packs {
		t.Fatalf("the backup has %d packs, the test is about %d", first.Packs, packs)
	}
	looks := func() int {
		requests := st.reset("")
		return requests["stat pack"] + requests["list pack"]
	}
	looks()
	st.trip = time.Millisecond

	o.Job = o.Pool.BeginJob()
	o.Precopy = true
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	// One request for each of the folders, and as many one by one before that was worth its while.
	if n := looks(); n < 256 || n > 700 {
		t.Errorf("the round takes %d looks", n)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "new"), []byte("written after the round"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := writerSessions(t.Context(), v); err != nil || len(all) != 1 {
		t.Errorf("%d sessions between the runs of a job, %v", len(all), err)
	}
	looks()
	o.Precopy = false
	res, err := backup.Run(t.Context(), o)
	if err != nil || res.Packs < packs {
		t.Fatalf("%+v, %v", res, err)
	}
	if n := looks(); n > 2 {
		t.Errorf("while the instance stands still: %d looks", n)
	}
	if res.SampledReused == 0 || res.Sampled <= res.SampledReused {
		t.Errorf("the rounds' samples do not count: %d, of them %d reused", res.Sampled, res.SampledReused)
	}
	if err := o.Job.End(t.Context()); err != nil {
		t.Error(err)
	}
	if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%d sessions after the job, %v", len(all), err)
	}
	// Not in a job: many at a time.
	o.Job = nil
	st.reset("list pack")
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	together := st.together()
	if n := looks(); n > 700 || !together {
		t.Errorf("without rounds: %d looks, eight at once: %v", n, together)
	}
}

// TestSessionForgottenBetweenRounds: facts that a round found
// out about packs do not count when its session is gone.
func TestSessionForgottenBetweenRounds(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 50, 20, 2)
	o := backup.Options{
		Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour,
		CatalogueDir: t.TempDir(), IndexDir: t.TempDir(), Pool: backup.NewPool(backup.PoolOptions{}), Precopy: true,
	}
	o.Job = o.Pool.BeginJob()
	defer func() {
		if err := o.Job.End(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	// Somebody takes the host for dead, and a collector deletes what no manifest names.
	all, err := writerSessions(t.Context(), v)
	if err != nil || len(all) != 1 {
		t.Fatalf("sessions %v, %v", all, err)
	}
	if err := st.Delete(t.Context(), v.Info().ID+"/sessions/"+all[0].ID); err != nil {
		t.Fatal(err)
	}
	for _, key := range packKeys(t, st) {
		if err := st.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	o.Precopy = false
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
}

// TestResumeAsksOnce: packs of an earlier try that the index lists
// take no request, and each of the others takes one, many at a time.
func TestResumeAsksOnce(t *testing.T) {
	const packs = 60
	st := &far{Store: obs.NewMemory(), requests: map[string]int{}}
	v, file := manyPacks(t, st, packs)
	var mu sync.Mutex
	var sent []string
	o := backup.Options{
		Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: filepath.Dir(file)}}, IndexDir: t.TempDir(), Sample: -1,
		PackIntent: func(pack string) error {
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, pack)
			return nil
		},
		Accept: func(context.Context, *backup.Result) error { return errors.New("not now") },
	}
	if _, err := backup.Run(t.Context(), o); err == nil {
		t.Fatal("the try succeeds")
	}
	if len(sent) < packs {
		t.Fatalf("%d packs were sent", len(sent))
	}
	tries := o
	tries.Resume, tries.Accept = sent, nil
	st.trip = time.Millisecond
	st.reset("")
	res, err := backup.Run(t.Context(), tries)
	if requests := st.reset(""); err != nil || res.BytesNew > 0 || requests["read pack"] > 0 {
		t.Errorf("packs that the index lists: %v, %+v, %v", requests, res, err)
	}
	// A process that died left no index.
	for in, err := range st.Store.List(t.Context(), v.Info().ID+"/index/") {
		if err == nil {
			err = st.Delete(t.Context(), in.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tries.IndexDir = t.TempDir()
	st.reset("read pack")
	res, err = backup.Run(t.Context(), tries)
	if err != nil || res.BytesNew > 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	together := st.together()
	if requests := st.reset(""); requests["read pack"] != len(sent) || !together {
		t.Errorf("%d packs take %v, eight at once: %v", len(sent), requests, together)
	}
}

// TestLooksFail: a store that does not answer a look fails the
// backup, and is no reason to take packs for lost.
func TestLooksFail(t *testing.T) {
	st := obstest.NewFaulty(obs.NewMemory())
	v := newVault(t, st)
	dir := t.TempDir()
	makeTree(t, dir, 51, 20, 2)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	st.Inject(obstest.Fault{Op: obstest.Stat, Key: func(key string) bool { return strings.Contains(key, "/packs/") }})
	if _, err := backup.Run(t.Context(), o); !errors.Is(err, obs.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
	st.Heal()
	if res, err := backup.Run(t.Context(), o); err != nil || res.BytesNew > 0 || len(res.Damaged) > 0 {
		t.Errorf("%+v, %v", res, err)
	}
}
