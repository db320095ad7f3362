package snapshottest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
)

const (
	treeFiles = 12
	fileLimit = 96 << 10 // bytes; a file that gets longer is emptied
	imageSize = 1 << 20
)

// Consistency takes views of all subjects, the volumes of one instance, again and again while
// the instance writes to them at random. In every round the instance is held once for all
// views, as an agent does, and the views must be the state of all volumes at that one point in
// its log. Then the Atomic ones are taken once more while it runs: each must be its volume's
// state at one point between the begin and the end of the call. Where the provider compares,
// the changes that it lists since the round before must make the new view out of the old one.
func Consistency(t *testing.T, seed uint64, rounds int, subjects ...Subject) {
	in := newInstance(t, seed, subjects)
	stop := in.run(t)
	defer stop()
	bases := make([]*snapshot.Snapshot, len(subjects))
	for round := range rounds {
		job := fmt.Sprint("held-", round)
		views, at := in.views(t, job)
		in.forget(at)
		for i, s := range subjects {
			got := contents(t, s, views[i])
			if _, ok := in.match(i, got, 0, 0); !ok {
				t.Fatalf("seed %d, round %d: the view of %s is not its state when it was held", seed, round, s.Volume)
			}
			if bases[i] != nil {
				checkChanges(t, s, bases[i], views[i])
				mustRemove(t, s, bases[i])
			}
			if bases[i] = views[i]; s.Provider.Costs(s.kind()).Changes == "" {
				mustRemove(t, s, views[i])
				bases[i] = nil
			}
			if s.Atomic {
				from := in.written()
				view := mustCreate(t, s, fmt.Sprint("running-", round))
				to := in.written() + 1
				if _, ok := in.match(i, contents(t, s, view), from, to); !ok {
					t.Fatalf("seed %d, round %d: the view of %s, which ran, is of no point in time", seed, round, s.Volume)
				}
				mustRemove(t, s, view)
			}
		}
	}
	for i, s := range subjects {
		if bases[i] != nil {
			mustRemove(t, s, bases[i])
		}
	}
	// A test of the check itself: content that is read in two parts with writes in
	// between must not pass.
	for i, s := range subjects {
		torn, from := in.live(t, i)
		in.waitTouched(t, i, from)
		late, to := in.live(t, i)
		for name, content := range torn {
			torn[name] = append(bytes.Clone(content[:len(content)/2]), late[name][min(len(content)/2, len(late[name])):]...)
		}
		if n, ok := in.match(i, torn, from, to); ok {
			t.Errorf("seed %d: a torn view of %s passes as the state after write %d", seed, s.Volume, n)
		}
		if _, ok := in.match(i, late, from, to); !ok {
			t.Errorf("seed %d: what was read of %s while held does not pass", seed, s.Volume)
		}
	}
}

func mustCreate(t *testing.T, s Subject, job string) *snapshot.Snapshot {
	t.Helper()
	snap, err := s.Provider.Create(t.Context(), s.request(job))
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func mustRemove(t *testing.T, s Subject, snap *snapshot.Snapshot) {
	t.Helper()
	if err := s.Provider.Remove(t.Context(), snap.Ref); err != nil {
		t.Fatal(err)
	}
}

// instance writes to its volumes and keeps a log of it.
type instance struct {
	subjects []Subject
	rnd      *rand.Rand
	hold     sync.Mutex // the instance stands still while somebody else has it

	mu     sync.Mutex          // guards log
	log    []record            // the writes since states, the last perhaps not yet done
	states []map[string][]byte // of each subject, by name of the file; "" for an image
}

// record is one write, in one call of the kernel.
type record struct {
	subject int
	name    string
	offset  int64
	data    []byte // nil: the file is emptied
}

func newInstance(t *testing.T, seed uint64, subjects []Subject) *instance {
	in := &instance{subjects: subjects, rnd: rand.New(rand.NewPCG(seed, 0))}
	for _, s := range subjects {
		state := map[string][]byte{}
		if s.Image {
			state[""] = make([]byte, imageSize)
		} else {
			for i := range treeFiles {
				state[fmt.Sprint("file-", i)] = []byte{}
			}
		}
		for name := range state {
			if !s.Image {
				write(t, filepath.Join(s.Volume, name), "")
			}
		}
		in.states = append(in.states, state)
	}
	return in
}

// run starts the writes; stop ends them.
func (in *instance) run(t *testing.T) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		sizes := map[string]int64{}
		for n := 0; ; n++ {
			select {
			case <-end:
				return
			default:
			}
			in.hold.Lock()
			err := in.step(sizes)
			in.hold.Unlock()
			if err != nil {
				t.Errorf("writer: %v", err)
				return
			}
			if n%4 == 0 {
				time.Sleep(time.Millisecond) // else most of the test is the flush of these writes
			}
		}
	})
	return sync.OnceFunc(func() { close(end); wg.Wait() })
}

func (in *instance) step(sizes map[string]int64) error {
	r := record{subject: in.rnd.IntN(len(in.subjects))}
	s := in.subjects[r.subject]
	data := make([]byte, 1+in.rnd.IntN(6000))
	for i := range data {
		data[i] = byte(in.rnd.Uint32())
	}
	path := s.Volume
	if s.Image {
		r.offset = in.rnd.Int64N(imageSize - int64(len(data)))
	} else {
		r.name = fmt.Sprint("file-", in.rnd.IntN(treeFiles))
		path = filepath.Join(s.Volume, r.name)
		size := sizes[path]
		if r.offset = size; in.rnd.IntN(2) == 0 && size > 0 {
			r.offset = in.rnd.Int64N(size)
		}
		if sizes[path] = max(size, r.offset+int64(len(data))); size > fileLimit {
			r.offset, data, sizes[path] = 0, nil, 0
		}
	}
	r.data = data
	in.mu.Lock()
	in.log = append(in.log, r)
	in.mu.Unlock()
	if data == nil {
		return os.Truncate(path, 0)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, r.offset)
	return errors.Join(err, f.Close())
}

// views holds the instance and takes a view of each volume; at is how many records they hold.
func (in *instance) views(t *testing.T, job string) (views []*snapshot.Snapshot, at int) {
	t.Helper()
	in.hold.Lock()
	defer in.hold.Unlock()
	for _, s := range in.subjects {
		views = append(views, mustCreate(t, s, job))
	}
	return views, len(in.log)
}

// live holds the instance and reads a volume itself.
func (in *instance) live(t *testing.T, subject int) (got map[string][]byte, at int) {
	t.Helper()
	in.hold.Lock()
	defer in.hold.Unlock()
	return contents(t, in.subjects[subject], nil), len(in.log)
}

// written is how many records of the log are written for sure.
func (in *instance) written() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return max(len(in.log)-1, 0)
}

// forget puts the first n records of the log into the states.
func (in *instance) forget(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, r := range in.log[:n] {
		r.apply(in.states[r.subject])
	}
	in.log = slices.Clone(in.log[n:])
}

func (r record) apply(state map[string][]byte) {
	if r.data == nil {
		state[r.name] = nil
		return
	}
	b := state[r.name]
	if more := int(r.offset) + len(r.data) - len(b); more > 0 {
		b = append(b, make([]byte, more)...)
	}
	copy(b[r.offset:], r.data)
	state[r.name] = b
}

// match finds the first n from lo to hi for which got is the state
// of a subject after n records of the log.
func (in *instance) match(subject int, got map[string][]byte, lo, hi int) (n int, ok bool) {
	in.mu.Lock()
	log := in.log[:min(hi, len(in.log))]
	in.mu.Unlock()
	state := map[string][]byte{}
	for name, b := range in.states[subject] {
		state[name] = bytes.Clone(b)
	}
	for n = 0; ; n++ {
		// Only a record of this subject makes a new state.
		if n == lo || n > lo && log[n-1].subject == subject {
			if maps.EqualFunc(state, got, bytes.Equal) {
				return n, true
			}
		}
		if n >= len(log) {
			return n, false
		}
		if log[n].subject == subject {
			log[n].apply(state)
		}
	}
}

// waitTouched returns when both halves of something that a subject
// holds were written after record n.
func (in *instance) waitTouched(t *testing.T, subject, n int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		in.mu.Lock()
		writes := 0
		for _, r := range in.log[n:] {
			if r.subject == subject {
				writes++
			}
		}
		in.mu.Unlock()
		if writes > 200 {
			return
		}
	}
	t.Fatal("the writer does not get on")
}

// contents reads all that a view holds, or for nil the volume.
func contents(t *testing.T, s Subject, snap *snapshot.Snapshot) map[string][]byte {
	t.Helper()
	if s.Image {
		return map[string][]byte{"": []byte(readLog(t, s.of(snap)))[:imageSize]}
	}
	all := map[string][]byte{}
	for _, name := range names(t, s.of(snap)) {
		b, err := os.ReadFile(filepath.Join(s.of(snap), name))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = b
	}
	return all
}

// checkChanges makes the new view out of the old one and the changes, and compares.
func checkChanges(t *testing.T, s Subject, base, now *snapshot.Snapshot) {
	t.Helper()
	changes, err := s.Provider.Changed(t.Context(), base.Base(), now)
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Close()
	old, cur := contents(t, s, base), contents(t, s, now)
	for name, want := range cur {
		ranges := []snapshot.Range(nil)
		if s.Image {
			ranges, _ = changes.Image()
		} else {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(now.Root, name), &st); err != nil {
				t.Fatal(err)
			}
			if changes.Inode(st.Ino) {
				if ranges, _, err = changes.File(st.Ino, st.Size); err != nil {
					t.Fatal(err)
				}
			}
		}
		made := make([]byte, len(want))
		copy(made, old[name])
		for _, r := range ranges {
			if r.Offset < int64(len(want)) {
				copy(made[r.Offset:], want[r.Offset:min(r.End(), int64(len(want)))])
			}
		}
		if !bytes.Equal(made, want) {
			t.Fatalf("%s: something changed in %q outside of %v", now.Ref.Path, name, ranges)
		}
	}
}
