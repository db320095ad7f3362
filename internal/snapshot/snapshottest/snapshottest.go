// Package snapshottest is the contract of snapshot.Provider as tests: every provider passes Run.
package snapshottest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
)

// Subject is a provider and a volume that it can serve: an empty
// folder, or an image of zeros of at least 4 MiB.
type Subject struct {
	Provider snapshot.Provider
	Volume   string
	Dir      string // for Request.Dir
	Image    bool   // Volume is a file or block device
	Atomic   bool   // a view is of one instant also while its volume is written to
	Slow     bool   // a snapshot takes so long that fewer rounds have to do
}

func (s Subject) rounds(n int) int {
	if s.Slow {
		return max(n/10, 1)
	}
	return n
}

func (s Subject) request(job string) snapshot.Request {
	return snapshot.Request{Volume: s.Volume, Host: "host-1", Job: job, Name: "data", Dir: s.Dir}
}

func (s Subject) kind() snapshot.Kind {
	if s.Image {
		return snapshot.Image
	}
	return snapshot.Tree
}

// put writes content to the volume, without a flush: to a file of it, or to the begin of the image.
func (s Subject) put(t *testing.T, content string) {
	t.Helper()
	if !s.Image {
		write(t, filepath.Join(s.Volume, "dir", "file"), content)
		return
	}
	f, err := os.OpenFile(s.Volume, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
}

// get reads from a view as many bytes as put has written.
func (s Subject) get(t *testing.T, snap *snapshot.Snapshot, n int) string {
	t.Helper()
	path := snap.Image
	if !s.Image {
		path = filepath.Join(snap.Root, "dir", "file")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// log is the file of the volume that the writer of records uses, and of a view of it.
func (s Subject) log(root string) string {
	if s.Image {
		return root
	}
	return filepath.Join(root, "log")
}

// of gives the path of a view, or of the volume for nil.
func (s Subject) of(snap *snapshot.Snapshot) string {
	switch {
	case snap == nil:
		return s.Volume
	case s.Image:
		return snap.Image
	}
	return snap.Root
}

// Run checks one provider. fresh makes a subject that the test it is given owns.
func Run(t *testing.T, fresh func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"plan makes nothing and names what create makes", planFirst},
		{"holds what was written before, synced or not", holdsWritten},
		{"does not change while the volume does", pointInTime},
		{"volume is as it was after create and remove", volumeUntouched},
		{"remove is idempotent", removeIdempotent},
		{"leftovers are found by host and removed", leftovers},
		{"bad requests are refused", badRequests},
		{"ended context makes nothing", endedContext},
		{"many at once", manyAtOnce},
		{"two beside each other", func(t *testing.T, s Subject) { TwoBeside(t, s, 15) }},
		{"says what changed, or that it can't", saysChanged},
		{"sees that an image is another file", seesAnotherImage},
		{"says what it costs and what room there is", saysCosts},
		{"what is mounted on it is flushed", flushesStacked},
		{"subvolumes inside are content", holdsNested},
		{"subvolumes come and go", churnsNested},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

func create(t *testing.T, s Subject, job string) *snapshot.Snapshot {
	t.Helper()
	snap, err := s.Provider.Create(t.Context(), s.request(job))
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Provider.Remove(context.Background(), snap.Ref); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return snap
}

func planFirst(t *testing.T, s Subject) {
	before := names(t, filepath.Dir(s.Volume))
	ref, err := s.Provider.Plan(t.Context(), s.request("job-1"))
	if err != nil {
		t.Fatal(err)
	}
	if after := names(t, filepath.Dir(s.Volume)); !slices.Equal(before, after) {
		t.Errorf("plan changed the disk: %q, then %q", before, after)
	}
	if ref.Provider != s.Provider.Name() || ref.Volume != s.Volume {
		t.Errorf("plan gave %+v", ref)
	}
	if got := create(t, s, "job-1"); got.Ref != ref {
		t.Errorf("created %+v, planned %+v", got.Ref, ref)
	}
}

func holdsWritten(t *testing.T, s Subject) {
	s.put(t, "not synced")
	snap := create(t, s, "job-1")
	if got := s.get(t, snap, len("not synced")); got != "not synced" {
		t.Errorf("snapshot holds %q", got)
	}
	if snap.Kind != s.kind() || (snap.Root == "") != s.Image || (snap.Image == "") == s.Image {
		t.Errorf("a view of kind %s with root %q and image %q", snap.Kind, snap.Root, snap.Image)
	}
	if snap.NeedsHold != s.Provider.InPlace() {
		t.Errorf("needs hold: %v, in place: %v", snap.NeedsHold, s.Provider.InPlace())
	}
}

// pointInTime writes numbered records while snapshots are made. A view that is not read
// in place holds a run of records without gap, at least the records that were synced
// before, and stays unchanged.
func pointInTime(t *testing.T, s Subject) {
	if create(t, s, "probe").NeedsHold {
		t.Log("read in place: a point in time only while the instance is held, which is not this package's work")
		return
	}
	w := startWriter(t, s.log(s.Volume), s.Image)
	for i := range s.rounds(10) {
		synced := w.synced()
		snap := create(t, s, "job-"+string(rune('a'+i)))
		first := readLog(t, s.log(s.of(snap)))
		n := checkRecords(t, first)
		if n < synced {
			t.Errorf("round %d: %d records in the snapshot, %d were synced before", i, n, synced)
		}
		w.waitBeyond(t, uint64(n))
		if later := readLog(t, s.log(s.of(snap))); later != first {
			t.Errorf("round %d: the snapshot changed while the volume did", i)
		}
		if s.Image {
			continue // the super user may write to any file
		}
		if err := os.WriteFile(filepath.Join(snap.Root, "new"), nil, 0o600); err == nil {
			t.Errorf("round %d: the snapshot can be written", i)
		}
	}
}

func volumeUntouched(t *testing.T, s Subject) {
	s.put(t, "x")
	before := s.names(t, nil)
	snap, err := s.Provider.Create(t.Context(), s.request("job-1"))
	if err != nil {
		t.Fatal(err)
	}
	if during := s.names(t, nil); !slices.Equal(before, during) {
		t.Errorf("volume held %q, and %q after create", before, during)
	}
	if in := s.names(t, snap); !slices.Equal(before, in) {
		t.Errorf("volume holds %q, snapshot %q", before, in)
	}
	if err := s.Provider.Remove(t.Context(), snap.Ref); err != nil {
		t.Fatal(err)
	}
	if after := s.names(t, nil); !slices.Equal(before, after) {
		t.Errorf("volume held %q, and %q after remove", before, after)
	}
	if beside := names(t, filepath.Dir(s.Volume)); slices.Contains(beside, snapshot.SnapshotFolder) {
		t.Errorf("the empty snapshot folder was left: %q", beside)
	}
}

func removeIdempotent(t *testing.T, s Subject) {
	ref, err := s.Provider.Plan(t.Context(), s.request("job-1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Provider.Remove(t.Context(), ref); err != nil {
		t.Errorf("planned, never made: %v", err)
	}
	made := create(t, s, "job-1")
	stands(t, s, ref, true)
	for i := range 2 {
		if err := s.Provider.Remove(t.Context(), ref); err != nil {
			t.Errorf("time %d: %v", i+1, err)
		}
	}
	stands(t, s, ref, made.Ref.Path == "")
	if err := s.Provider.Remove(t.Context(), snapshot.Ref{Provider: "other", Path: ref.Path, Volume: ref.Volume}); !errors.Is(err, snapshot.ErrUsage) {
		t.Errorf("reference of another provider: %v", err)
	}
}

func stands(t *testing.T, s Subject, ref snapshot.Ref, want bool) {
	t.Helper()
	if ok, err := s.Provider.Stands(t.Context(), ref); ok != want || err != nil {
		t.Errorf("stands: %v, %v; want %v", ok, err, want)
	}
}

func leftovers(t *testing.T, s Subject) {
	if create(t, s, "job-0").Ref.Path == "" {
		if refs, err := s.Provider.Leftovers(t.Context(), s.request("x")); err != nil || len(refs) != 0 {
			t.Errorf("nothing is made, leftovers gave %v, %v", refs, err)
		}
		return
	}
	create(t, s, "job.1")
	other := s.request("job-1")
	other.Host = "host-1.b"
	snap, err := s.Provider.Create(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := s.Provider.Leftovers(t.Context(), snapshot.Request{Volume: s.Volume, Host: "host-1", Dir: s.Dir})
	if err != nil {
		t.Fatal(err)
	}
	var jobs []string
	for _, r := range refs {
		host, job, volume, ok := r.Owner()
		if !ok || host != "host-1" || volume != "data" {
			t.Errorf("%s: owner %q %q %v", r.Path, host, volume, ok)
		}
		jobs = append(jobs, job)
		if err := s.Provider.Remove(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(jobs)
	if want := []string{"job-0", "job.1"}; !slices.Equal(jobs, want) {
		t.Errorf("leftovers of %q, want %q", jobs, want)
	}
	if refs, err := s.Provider.Leftovers(t.Context(), s.request("x")); err != nil || len(refs) != 0 {
		t.Errorf("after removal: %v, %v", refs, err)
	}
	if _, err := os.Lstat(snap.Ref.Path); err != nil {
		t.Errorf("the other host's snapshot: %v", err)
	}
	if err := s.Provider.Remove(t.Context(), snap.Ref); err != nil {
		t.Error(err)
	}
}

func badRequests(t *testing.T, s Subject) {
	good := s.request("job-1")
	for name, change := range map[string]func(*snapshot.Request){
		"empty job":       func(r *snapshot.Request) { r.Job = "" },
		"slash":           func(r *snapshot.Request) { r.Job = "../x" },
		"plus":            func(r *snapshot.Request) { r.Host = "a+b" },
		"newline":         func(r *snapshot.Request) { r.Name = "a\nb" },
		"nul":             func(r *snapshot.Request) { r.Name = "a\x00b" },
		"not ascii":       func(r *snapshot.Request) { r.Name = "dätä" },
		"long":            func(r *snapshot.Request) { r.Job = strings.Repeat("x", 65) },
		"relative volume": func(r *snapshot.Request) { r.Volume = "volume" },
	} {
		req := good
		change(&req)
		if _, err := s.Provider.Plan(t.Context(), req); !errors.Is(err, snapshot.ErrUsage) {
			t.Errorf("%s: plan: %v", name, err)
		}
		if _, err := s.Provider.Create(t.Context(), req); !errors.Is(err, snapshot.ErrUsage) {
			t.Errorf("%s: create: %v", name, err)
		}
	}
	missing := good
	missing.Volume += "-missing"
	if _, err := s.Provider.Create(t.Context(), missing); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing.Volume) {
		t.Errorf("missing volume: %v", err)
	}
}

func endedContext(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("deadline of the job")
	cancel(cause)
	if _, err := s.Provider.Create(ctx, s.request("job-1")); !errors.Is(err, cause) {
		t.Errorf("create: %v", err)
	}
	if beside := names(t, filepath.Dir(s.Volume)); slices.Contains(beside, snapshot.SnapshotFolder) {
		t.Errorf("create left %q", beside)
	}
}

// manyAtOnce has jobs come and go that share one snapshot folder,
// which is made and removed by turns.
func manyAtOnce(t *testing.T, s Subject) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			req := s.request("job-" + string(rune('a'+i)))
			for range s.rounds(10) {
				snap, err := s.Provider.Create(t.Context(), req)
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				if err := s.Provider.Remove(t.Context(), snap.Ref); err != nil {
					t.Errorf("remove: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if beside := names(t, filepath.Dir(s.Volume)); slices.Contains(beside, snapshot.SnapshotFolder) {
		t.Errorf("left behind: %q", beside)
	}
}

// saysChanged checks that a provider that compares finds a change, and that every other provider
// answers ErrBase. The tests of each provider check the changes that it finds in each case.
func saysChanged(t *testing.T, s Subject) {
	s.put(t, "before")
	base := create(t, s, "base")
	if s.Provider.InPlace() { // nobody writes while the view stands
		if _, err := s.Provider.Changed(t.Context(), base.Base(), base); !errors.Is(err, snapshot.ErrBase) {
			t.Errorf("a provider that keeps no base: %v", err)
		}
		return
	}
	s.put(t, "after!")
	now := create(t, s, "now")
	changes, err := s.Provider.Changed(t.Context(), base.Base(), now)
	if s.Provider.Costs(s.kind()).Changes == "" {
		if !errors.Is(err, snapshot.ErrBase) {
			t.Errorf("a provider that says it can't compare: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var ranges []snapshot.Range
	if s.Image {
		ranges, _ = changes.Image()
	} else {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(now.Root, "dir", "file"), &st); err != nil {
			t.Fatal(err)
		}
		if !changes.Inode(st.Ino) {
			t.Error("the file that was written is said to be as before")
		}
		if ranges, _, err = changes.File(st.Ino, st.Size); err != nil {
			t.Error(err)
		}
	}
	if len(ranges) != 1 || ranges[0].Offset != 0 || ranges[0].Length < int64(len("after!")) || ranges[0].Length > 1<<20 {
		t.Errorf("changed ranges: %v", ranges)
	}
	for range 2 {
		if err := changes.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Provider.Remove(t.Context(), base.Ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Provider.Changed(t.Context(), base.Base(), now); !errors.Is(err, snapshot.ErrBase) {
		t.Errorf("a base that is gone: %v", err)
	}
	foreign := base.Ref
	foreign.Provider = "other"
	if _, err := s.Provider.Changed(t.Context(), snapshot.Base{Ref: foreign}, now); !errors.Is(err, snapshot.ErrUsage) {
		t.Errorf("reference of another provider: %v", err)
	}
}

// seesAnotherImage puts an older file in the place of an image. No part of the older
// file has changed since the base, and all of it differs from the content of the base.
func seesAnotherImage(t *testing.T, s Subject) {
	info, err := os.Stat(s.Volume)
	if err != nil {
		t.Fatal(err)
	}
	if !info.Mode().IsRegular() || s.Provider.InPlace() || s.Provider.Costs(s.kind()).Changes == "" {
		return
	}
	other := s.Volume + ".other"
	if err := os.WriteFile(other, bytes.Repeat([]byte("other"), int(info.Size()+4)/5)[:info.Size()], 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(other) // it is gone already when all is well
	base := create(t, s, "base")
	if err := os.Rename(other, s.Volume); err != nil {
		t.Fatal(err)
	}
	now := create(t, s, "now")
	changes, err := s.Provider.Changed(t.Context(), base.Base(), now)
	if errors.Is(err, snapshot.ErrBase) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Close() // only read
	var total int64
	ranges, _ := changes.Image()
	for _, r := range ranges {
		total += r.Length
	}
	if total < info.Size() {
		t.Errorf("%d bytes are said to differ of another file of %d", total, info.Size())
	}
}

func saysCosts(t *testing.T, s Subject) {
	reason, err := s.Provider.Fits(t.Context(), s.request("job-1"))
	if err != nil || reason == "" || strings.Contains(reason, "\n") {
		t.Errorf("fits: %q, %v", reason, err)
	}
	if c := s.Provider.Costs(s.kind()); c.Hold == "" || c.Space == "" {
		t.Errorf("costs: %+v", c)
	}
	free, total, err := s.Provider.Room(t.Context(), s.request("job-1"))
	if err != nil || free < 0 || free > total {
		t.Errorf("room: %d of %d, %v", free, total, err)
	}
	if p, _, err := snapshot.Detect(t.Context(), s.request("job-1"), s.Provider.Name()); err != nil || p.Name() != s.Provider.Name() {
		t.Errorf("detect by name: %v, %v", p, err)
	}
}

// writer writes 8-byte numbers from 1 one after the other to a
// file, synced every 16, until the test ends.
type writer struct {
	mu            sync.Mutex
	written, safe uint64
}

// startWriter begins a new file, or the first records of an image that is there.
func startWriter(t *testing.T, path string, image bool) *writer {
	t.Helper()
	flags := os.O_WRONLY
	if !image {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer f.Close()
		for n := uint64(0); ctx.Err() == nil; n++ {
			if _, err := f.Write(binary.BigEndian.AppendUint64(nil, n+1)); err != nil {
				t.Errorf("writer: %v", err)
				return
			}
			sync := n%16 == 15
			if sync {
				if err := f.Sync(); err != nil {
					t.Errorf("writer: %v", err)
					return
				}
			}
			w.mu.Lock()
			if w.written = n + 1; sync {
				w.safe = n + 1
			}
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

func (w *writer) synced() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int(w.safe)
}

// waitBeyond returns when the writer has synced a record after the first n.
func (w *writer) waitBeyond(t *testing.T, n uint64) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); uint64(w.synced()) <= n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the writer does not get on")
		}
	}
}

// checkRecords counts whole records up to the first zero and fails
// on the first that is not the next number.
func checkRecords(t *testing.T, log string) int {
	t.Helper()
	n := len(log) / 8
	for i := range n {
		switch got := binary.BigEndian.Uint64([]byte(log[8*i:])); {
		case got == 0:
			if strings.Trim(log[8*i:], "\x00") != "" {
				t.Fatalf("something follows after the last record, %d", i)
			}
			return i
		case got != uint64(i+1):
			t.Fatalf("record %d of %d holds %d", i, n, got)
		}
	}
	return n
}

// readLog reads as much as a writer may have written in a test.
func readLog(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names lists the entries of a tree; for an image it is its first bytes.
func (s Subject) names(t *testing.T, snap *snapshot.Snapshot) []string {
	t.Helper()
	if s.Image {
		return []string{readLog(t, s.of(snap))}
	}
	return names(t, s.of(snap))
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
