package backup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// smallPacks is a vault of which a small tree fills many packs.
func smallPacks(t *testing.T, st obs.Store) *vault.Vault {
	t.Helper()
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	p := vault.DefaultParams()
	p.Pack = 4 * p.Chunk.Max
	v, err := vault.CreateWith(t.Context(), st, "tenant", nil, nil, id, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// someFiles makes a folder with bundles and large files whose content does not compress.
func someFiles(t *testing.T, seed byte) string {
	t.Helper()
	dir, r := t.TempDir(), rand.NewChaCha8([32]byte{seed})
	for i := range 60 {
		b := make([]byte, 20<<10)
		if i%12 == 0 {
			b = make([]byte, 3<<20)
		}
		_, _ = r.Read(b) // never fails
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestComesOnWhileOthersHaveAllWorkers: a Run needs only its own worker,
// also for units that its other workers took before they had memory.
func TestComesOnWhileOthersHaveAllWorkers(t *testing.T) {
	h := NewPool(PoolOptions{Runs: 2, Workers: 4, Budget: 256 << 20})
	for range h.lendable { // as a huge backup may for hours
		s, err := borrow[*unit](t.Context(), h, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer h.giveBack(s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it hung
	defer cancel()
	o := Options{Vault: smallPacks(t, obs.NewMemory()), Instance: "i", Sources: []Source{{Volume: "data", Root: someFiles(t, 1)}}, Pool: h}
	if _, err := Run(ctx, o); err != nil {
		t.Error(err)
	}
}

// countsSessions counts how many there are at a time, with one name of an instance for each.
type countsSessions struct {
	obs.Store
	now, most *atomic.Int64
}

func (s countsSessions) Put(ctx context.Context, key string, body []byte) error {
	err := s.Store.Put(ctx, key, body)
	if err == nil && strings.Contains(key, "/sessions/") {
		n := s.now.Add(1)
		for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
		}
	}
	return err
}

func (s countsSessions) Delete(ctx context.Context, keys ...string) error {
	if strings.Contains(strings.Join(keys, " "), "/sessions/") {
		s.now.Add(-1)
	}
	return s.Store.Delete(ctx, keys...)
}

// TestNoMoreRunsThanHaveMemory: with more of them than the memory
// was divided for, each could fill a pack and none be left.
func TestNoMoreRunsThanHaveMemory(t *testing.T) {
	const runs = 2
	h := NewPool(PoolOptions{Runs: runs, Workers: 2, Budget: 1})
	dir := someFiles(t, 2)
	var now, most atomic.Int64
	var all sync.WaitGroup
	for i := range 3 * runs {
		v := smallPacks(t, countsSessions{obs.NewMemory(), &now, &most})
		all.Go(func() {
			if _, err := Run(t.Context(), Options{Vault: v, Instance: fmt.Sprint(i), Sources: []Source{{Volume: "data", Root: dir}}, Pool: h}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := most.Load(); n < 2 || n > 2*2*runs { // as many may finish
		t.Errorf("%d at once, want %d at most", n, 2*2*runs)
	}
	for range runs {
		h.runs <- struct{}{}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the test ends it")
	cancel(cause)
	if _, err := Run(ctx, Options{Vault: smallPacks(t, obs.NewMemory()), Instance: "i", Sources: []Source{{Volume: "data", Root: dir}}, Pool: h}); !errors.Is(err, cause) {
		t.Errorf("one that waited: %v", err)
	}
}

// slowManifest holds up each manifest until it is let go.
type slowManifest struct {
	obs.Store
	at  chan string // keys that are held up
	let chan struct{}
}

func (s slowManifest) Put(ctx context.Context, key string, body []byte) error {
	if strings.Contains(key, "/backups/") {
		s.at <- key
		<-s.let
	}
	return s.Store.Put(ctx, key, body)
}

// TestAnotherBeginsWhileOneFinishes: a Run that has nothing to store
// any more gives its place to the next, as long as few finish.
func TestAnotherBeginsWhileOneFinishes(t *testing.T) {
	h := NewPool(PoolOptions{Runs: 1})
	st := slowManifest{obs.NewMemory(), make(chan string, 3), make(chan struct{})}
	v := smallPacks(t, st)
	dir := someFiles(t, 5)
	sent := make(chan int, 3)
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			o := Options{Vault: v, Instance: fmt.Sprint(i), Sources: []Source{{Volume: "data", Root: dir}}, Pool: h, Sent: func() { sent <- i }}
			if _, err := Run(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	<-st.at // the first finishes
	<-sent
	for len(h.runs) == 0 { // the second has its place
		time.Sleep(time.Millisecond)
	}
	if n, m := len(sent), len(h.finishing); n != 0 || m != 1 {
		t.Errorf("%d more were sent, %d finish, of which one may", n, m)
	}
	close(st.let)
	all.Wait()
	if n := len(h.runs) + len(h.finishing); n != 0 || len(sent) != 2 {
		t.Errorf("%d places are taken in the end, %d were sent after the first", n, len(sent))
	}
}

// TestMadeAgainGoesBefore: a Run that has to be made again, and
// may hold an instance, does not wait behind Runs that begin.
func TestMadeAgainGoesBefore(t *testing.T) {
	h := NewPool(PoolOptions{Runs: 2, Budget: 1})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var turns []*slot
	for range 2 {
		one, err := h.admit(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, one)
	}
	if _, err := h.admit(ended, true); err == nil {
		t.Error("a third began")
	}
	one, err := h.admit(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.admit(ended, false); err == nil {
		t.Error("two are made again besides")
	}
	for _, one := range append(turns, one) {
		if err := one.finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		one.leave()
		one.leave()
	}
	if len(h.runs)+len(h.again)+len(h.finishing) != 0 {
		t.Errorf("left: %d, %d, %d", len(h.runs), len(h.again), len(h.finishing))
	}
}

// TestRunsEndAnywhere ends Runs that share a host at many moments, some by their
// context and some by their store: all other Runs return too, and the host is whole.
func TestRunsEndAnywhere(t *testing.T) {
	const runs = 6
	h := NewPool(PoolOptions{Runs: runs, Workers: 4, Budget: 1})
	dirs := []string{someFiles(t, 3), someFiles(t, 4)}
	errStore := errors.New("the store failed")
	for i := range 25 {
		vaults := []*vault.Vault{smallPacks(t, obs.NewMemory()), smallPacks(t, obs.NewMemory()), smallPacks(t, obs.NewMemory())}
		var all sync.WaitGroup
		for k := range runs {
			all.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var begun atomic.Int64
				o := Options{
					Vault: vaults[k%3], Instance: fmt.Sprint(k), Sources: []Source{{Volume: "data", Root: dirs[k%2]}}, Pool: h, Precopy: k == 0,
					PackIntent: func(string) error {
						if k == 1 && begun.Add(1) > int64(i/2) {
							return errStore
						}
						return nil
					},
				}
				if k > 2 {
					stop := time.AfterFunc(time.Duration(i*k)*2*time.Millisecond, cancel)
					defer stop.Stop()
				}
				_, err := Run(ctx, o)
				ended := k > 2 && errors.Is(err, context.Canceled) || k == 1 && errors.Is(err, errStore)
				if err != nil && !ended {
					t.Errorf("moment %d, run %d: %v", i, k, err)
				}
			})
		}
		all.Wait()
		if len(h.free) != h.lendable || len(h.runs) != 0 {
			t.Fatalf("moment %d: %d of %d workers are back, %d runs are left", i, len(h.free), h.lendable, len(h.runs))
		}
	}
}

// background counts the threads that have the nice value and the
// class of I/O of one in the background.
func background(t *testing.T) (n int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Error(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/stat")
		if err != nil {
			continue // it ended
		}
		var tid int
		_, after, _ := strings.Cut(string(b), ") ")
		if _, err := fmt.Sscan(task.Name(), &tid); err != nil || len(strings.Fields(after)) < 17 {
			t.Errorf("stat of task %s: %q", task.Name(), b)
			continue
		}
		if tid == os.Getpid() {
			continue // the Go runtime never ends its first thread: it parks it, as a round left it
		}
		class, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(tid), 0)
		// proc_pid_stat(5): (19) nice
		if strings.Fields(after)[16] == "10" && errno == 0 && class == 3<<13 {
			n++
		}
	}
	return n
}

// TestRoundsAreInTheBackground looks at the threads of this process while packs are stored.
func TestRoundsAreInTheBackground(t *testing.T) {
	dir := someFiles(t, 5)
	for _, precopy := range []bool{false, true} {
		for range 10_000 { // threads of rounds before end soon
			if background(t) == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		var most atomic.Int64
		o := Options{
			Vault: smallPacks(t, obs.NewMemory()), Instance: "i", Sources: []Source{{Volume: "data", Root: dir}}, Precopy: precopy, Workers: 3,
			PackIntent: func(string) error {
				most.Store(max(most.Load(), int64(background(t))))
				return nil
			},
		}
		if _, err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if n := most.Load(); precopy && n == 0 || !precopy && n > 0 {
			t.Errorf("precopy %v: %d threads are in the background", precopy, n)
		}
	}
}
