package index

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// newPlace returns an index without a segment, in a store of its own.
func newPlace(testing.TB) *Place {
	key := sha256.Sum256([]byte("the key of a test"))
	return &Place{
		Store: obs.NewMemory(), Prefix: "vault/index/", Folder: "feedfeedfeedfeed",
		AEAD: func(id SegmentID) cipher.AEAD { return seal.NewAEAD(format.Subkey(key, "index", id[:])) },
	}
}

// nameOf returns the i-th of a sequence of names that look like hashes.
func nameOf(i int) chunk.Name {
	return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
}

// locOf returns a place that belongs to the i-th name: packs of 250 chunks.
func locOf(i int) format.Loc {
	p := nameOf(-1 - i/250)
	return format.Loc{Pack: format.PackID(p[:16]), Off: uint32(8 + i%250*1000), Len: 900 + uint32(i%100), Raw: 4096}
}

// put stores a segment of the names from first to before end.
func put(t testing.TB, v *Place, first, end int) {
	t.Helper()
	x := &Index{in: *v}
	table := newRowTable()
	for i := first; i < end; i++ {
		table.add(nameOf(i), locOf(i))
	}
	if err := x.storeTable(t.Context(), table); err != nil {
		t.Fatal(err)
	}
}

func openIndex(t testing.TB, v *Place, dir string) *Index {
	t.Helper()
	x, err := v.Open(t.Context(), dir, nil, func(err error) { t.Errorf("told: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	return x
}

// holds fails unless the index finds the names from first to before
// end, where they are, and none of as many others.
func holds(t testing.TB, x *Index, first, end int) {
	t.Helper()
	for i := first; i < end; i++ {
		if loc, ok := x.Find(nameOf(i)); !ok || loc != locOf(i) {
			t.Fatalf("name %d: %v, %v", i, loc, ok)
		}
		if _, ok := x.Find(nameOf(1<<40 + i)); ok {
			t.Fatalf("finds name %d, which nobody added", 1<<40+i)
		}
	}
}

func segmentFiles(t testing.TB, v *Place, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, v.Folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == stampName })
}

func TestSegmentsOfEverySize(t *testing.T) {
	v := newPlace(t)
	at := 0
	for _, n := range []int{1, 2, blockRows - 1, blockRows, blockRows + 1, 2 * blockRows, 1000, 30000} {
		put(t, v, at, at+n)
		at += n
	}
	x := openIndex(t, v, t.TempDir())
	holds(t, x, 0, at)
	for _, s := range x.view.Load().segs {
		if err := s.check(); err != nil {
			t.Errorf("segment of %d rows: %v", s.rows, err)
		}
	}
}

// TestFilterPassesFew: a lookup of an absent name hardly ever opens a block.
func TestFilterPassesFew(t *testing.T) {
	const n = 100000
	f := make(filter, filterLine*filterLines(n))
	for i := range n {
		name := nameOf(i)
		f.add(&name)
	}
	passed := 0
	for i := range n {
		name := nameOf(i)
		if !f.mayHold(&name) {
			t.Fatalf("name %d does not pass", i)
		}
		name = nameOf(n + i)
		if f.mayHold(&name) {
			passed++
		}
	}
	if passed > n/100 {
		t.Errorf("%d of %d absent names pass", passed, n)
	}
}

// TestRowTable compares with a map while it grows.
func TestRowTable(t *testing.T) {
	table := newRowTable()
	const n = 20000
	for i := range n {
		name := nameOf(i)
		if _, ok := table.find(&name); ok {
			t.Fatalf("name %d is there before it was added", i)
		}
		table.add(name, locOf(i))
	}
	for i := range n {
		name := nameOf(i)
		if loc, ok := table.find(&name); !ok || loc != locOf(i) {
			t.Fatalf("name %d: %v, %v", i, loc, ok)
		}
	}
}

// TestMergeAgainstMap merges random segments with names in common,
// and compares with the rule that says which place counts.
func TestMergeAgainstMap(t *testing.T) {
	v := newPlace(t)
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[chunk.Name]format.Loc{}
	gone := format.PackID{3}
	for range 20 {
		table := newRowTable()
		seen := map[int]bool{}
		for pack := range byte(5) {
			for range 1 + rng.IntN(40) {
				i := rng.IntN(2000)
				if seen[i] {
					continue
				}
				seen[i] = true
				loc := format.Loc{Pack: format.PackID{pack}, Off: rng.Uint32N(100), Len: 20, Raw: 3}
				table.add(nameOf(i), loc)
				if old, ok := want[nameOf(i)]; pack != gone[0] && (!ok || compareLoc(loc, old) < 0) {
					want[nameOf(i)] = loc
				}
			}
		}
		if err := (&Index{in: *v}).storeTable(t.Context(), table); err != nil {
			t.Fatal(err)
		}
	}
	compare := func(when string) {
		x, err := v.Open(t.Context(), "", []format.PackID{gone}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		for i := range 2000 {
			loc, ok := x.Find(nameOf(i))
			if w, wok := want[nameOf(i)]; ok != wok || loc != w {
				t.Fatalf("%s, name %d: %v %v, want %v %v", when, i, loc, ok, w, wok)
			}
		}
	}
	compare("before")
	if err := v.Merge(t.Context(), "", map[format.PackID]bool{gone: true}, nil, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	compare("merged")
	listed, err := v.List(t.Context())
	if err != nil || len(listed) != 1 {
		t.Errorf("%d segments after the merge: %v", len(listed), err)
	}
	set, err := v.Check(t.Context())
	if err != nil || len(set.damaged) != 0 {
		t.Errorf("damaged after the merge: %v, %v", set.damaged, err)
	}
	set.Close()
}

// TestMergesStayFew: however many backups add however little, the
// segments stay few, and none is lost.
func TestMergesStayFew(t *testing.T) {
	v := newPlace(t)
	dir := t.TempDir()
	const backups, each = 200, 40
	for i := range backups {
		put(t, v, i*each, (i+1)*each)
		if err := v.Merge(t.Context(), dir, nil, nil, func(err error) { t.Error(err) }); err != nil {
			t.Fatal(err)
		}
	}
	listed, err := v.List(t.Context())
	if err != nil || len(listed) > 2*mergeAt {
		t.Errorf("%d segments: %v", len(listed), err)
	}
	holds(t, openIndex(t, v, dir), 0, backups*each)
	if files := segmentFiles(t, v, dir); len(files) != len(listed) {
		t.Errorf("%d files for %d segments", len(files), len(listed))
	}
}

// TestMergeLeavesDamagedOnesAlone: a segment with a damaged block
// is told, and keeps nobody from merging the others.
func TestMergeLeavesDamagedOnesAlone(t *testing.T) {
	v := newPlace(t)
	const each = 100
	for i := range mergeAt {
		put(t, v, i*each, (i+1)*each)
	}
	listed, err := v.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var bad SegmentID
	for bad = range listed {
		break
	}
	object := make([]byte, listed[bad])
	if _, err := v.Store.ReadAt(t.Context(), v.Key(bad), object, 0); err != nil {
		t.Fatal(err)
	}
	object[1500] ^= 1
	if err := errors.Join(v.Store.Delete(t.Context(), v.Key(bad)), v.Store.Put(t.Context(), v.Key(bad), object)); err != nil {
		t.Fatal(err)
	}
	var told []error
	if err := v.Merge(t.Context(), "", nil, nil, func(err error) { told = append(told, err) }); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || !errors.Is(told[0], format.ErrCorrupt) || !strings.Contains(told[0].Error(), bad.String()) {
		t.Errorf("told %v", told)
	}
	if listed, err = v.List(t.Context()); err != nil || len(listed) != 2 {
		t.Errorf("%d segments after the merge: %v", len(listed), err)
	}
	x, err := v.Open(t.Context(), "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	found := 0
	for i := range mergeAt * each {
		if loc, ok := x.Find(nameOf(i)); ok && loc == locOf(i) {
			found++
		}
	}
	if found < (mergeAt-1)*each || found == mergeAt*each {
		t.Errorf("%d of %d names are found", found, mergeAt*each)
	}
}

// TestMergeFetchesWhatIsDamagedHere: of a cached file that is damaged
// the merge does not say that the store's is, and the next has it.
func TestMergeFetchesWhatIsDamagedHere(t *testing.T) {
	v, dir := newPlace(t), t.TempDir()
	const each = 100
	for i := range mergeAt {
		put(t, v, i*each, (i+1)*each)
	}
	openIndex(t, v, dir) // fetches all
	bad := segmentFiles(t, v, dir)[0]
	if err := zero(bad, 1500); err != nil {
		t.Fatal(err)
	}
	var told []error
	if err := v.Merge(t.Context(), dir, nil, nil, func(err error) { told = append(told, err) }); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || errors.Is(told[0], format.ErrCorrupt) || !strings.Contains(told[0].Error(), "cached") {
		t.Errorf("told %v", told)
	}
	holds(t, openIndex(t, v, dir), 0, mergeAt*each)
	set, err := v.Check(t.Context())
	if err != nil || len(set.Damaged()) > 0 {
		t.Fatalf("%v, %v", set.Damaged(), err)
	}
	set.Close()
}

// TestReplacedSegmentsThatStay: a store that deletes nothing does
// not make readers use, or merge, replaced segments again.
func TestReplacedSegmentsThatStay(t *testing.T) {
	v := newPlace(t)
	st := &noDelete{Store: v.Store}
	v.Store = st
	for i := range mergeAt {
		put(t, v, i*10, i*10+10)
	}
	if err := v.Merge(t.Context(), "", nil, nil, func(err error) { t.Error(err) }); !errors.Is(err, errNoDelete) {
		t.Fatalf("error is %v", err)
	}
	dir := t.TempDir()
	x := openIndex(t, v, dir)
	if n := len(x.view.Load().segs); n != 1 || x.classes.due() {
		t.Errorf("%d segments in use, merge due: %v", n, x.classes.due())
	}
	holds(t, x, 0, mergeAt*10)
	if n := len(segmentFiles(t, v, dir)); n != 1 {
		t.Errorf("%d files are kept", n)
	}
	v.Store = st.Store // deletes again: the next merge takes those away that were left
	for i := range mergeAt {
		put(t, v, 1000+i*10, 1010+i*10)
	}
	if err := v.Merge(t.Context(), dir, nil, nil, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	listed, err := v.List(t.Context())
	if err != nil || len(listed) != 1 {
		t.Errorf("%d segments are left: %v", len(listed), err)
	}
}

// TestSpill: the rows of a long backup move to the local disk, are
// found all the while by others, and end in the store.
func TestSpill(t *testing.T) {
	v := newPlace(t)
	dir := t.TempDir()
	x := openIndex(t, v, dir)
	const n = 3*tableRows + 1000
	var spills, lookups sync.WaitGroup
	var added sync.Map
	stop := make(chan struct{})
	for range 2 {
		lookups.Go(func() {
			for i := 0; ; i = (i + 7919) % n {
				select {
				case <-stop:
					return
				default:
				}
				if _, known := added.Load(i / 250); known {
					if loc, ok := x.Find(nameOf(i)); !ok || loc != locOf(i) {
						t.Errorf("name %d: %v, %v", i, loc, ok)
						return
					}
				}
			}
		})
	}
	for i := range n {
		x.Add(nameOf(i), locOf(i))
		if i%250 == 249 {
			added.Store(i/250, true)
			if spill := x.Freeze(); spill != nil {
				spills.Go(spill)
			}
		}
	}
	spills.Wait()
	close(stop)
	lookups.Wait()
	view := x.view.Load()
	if len(view.segs) != 3 || len(view.frozen) != 0 {
		t.Errorf("%d segments, %d frozen tables", len(view.segs), len(view.frozen))
	}
	if err := x.Store(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.Close()
	// No pack is in two segments.
	set, err := v.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	seen := map[format.PackID]bool{}
	for _, s := range set.open {
		for i := range s.packs {
			if seen[s.pack(i)] {
				t.Fatalf("pack %s is in two segments", s.pack(i))
			}
			seen[s.pack(i)] = true
		}
	}
	if len(set.open) != 4 || len(set.damaged) != 0 {
		t.Errorf("%d segments, damaged: %v", len(set.open), set.damaged)
	}
	if files := segmentFiles(t, v, dir); len(files) != 4 || slices.ContainsFunc(files, func(f string) bool { return strings.Contains(f, Unfinished) }) {
		t.Errorf("files %v", files)
	}
	holds(t, openIndex(t, v, dir), 0, n)
}

// TestSpillWithoutRoom: when the local disk takes nothing, the rows
// stay in memory and reach the store all the same.
func TestSpillWithoutRoom(t *testing.T) {
	v := newPlace(t)
	told := 0
	x, err := v.Open(t.Context(), t.TempDir(), nil, func(error) { told++ })
	if err != nil {
		t.Fatal(err)
	}
	x.dir.path = filepath.Join(x.dir.path, "gone")
	const n = tableRows + 10
	for i := range n {
		x.Add(nameOf(i), locOf(i))
		if spill := x.Freeze(); spill != nil {
			spill()
		}
	}
	if err := x.Store(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.Close()
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	holds(t, openIndex(t, v, ""), 0, n)
}

// TestReadersBesideMergers: hosts that merge, write and read at
// once see every name that was stored before they opened.
func TestReadersBesideMergers(t *testing.T) {
	v := newPlace(t)
	const hosts, rounds, each = 4, 12, 50
	var wg sync.WaitGroup
	var next struct {
		sync.Mutex
		n int
	}
	stored := func() int { next.Lock(); defer next.Unlock(); return next.n }
	for range hosts {
		dir := t.TempDir()
		wg.Go(func() {
			for range rounds {
				next.Lock() // so that exactly the names before n are stored
				put(t, v, next.n, next.n+each)
				next.n += each
				next.Unlock()
				if err := v.Merge(t.Context(), dir, nil, nil, func(err error) { t.Errorf("merge: told %v", err) }); err != nil {
					t.Errorf("merge: %v", err)
				}
				n := stored()
				x, err := v.Open(t.Context(), dir, nil, func(err error) { t.Errorf("told %v", err) })
				if err != nil {
					t.Error(err)
					return
				}
				for i := range n {
					if loc, ok := x.Find(nameOf(i)); !ok || loc != locOf(i) {
						t.Errorf("name %d of %d: %v, %v", i, n, loc, ok)
						break
					}
				}
				x.Close()
			}
		})
	}
	wg.Wait()
}

// TestReplacedWhileReading: the chunks of a segment that is gone
// when it is fetched are found in the segment that replaced it.
func TestReplacedWhileReading(t *testing.T) {
	v := newPlace(t)
	for i := range mergeAt {
		put(t, v, i*10, i*10+10)
	}
	st := &onFirstRead{Store: v.Store}
	other := *v
	st.do = func() {
		if err := other.Merge(t.Context(), "", nil, nil, func(err error) { t.Error(err) }); err != nil {
			t.Error(err)
		}
	}
	v.Store = st
	holds(t, openIndex(t, v, ""), 0, mergeAt*10)
}

func TestTrailerLimits(t *testing.T) {
	good := shape{rows: 5, packs: 2, replaced: 1, lines: 1}
	if s, err := parseTrailer(good.trailer(), int64(good.size())); err != nil || s != good {
		t.Errorf("%+v, %v", s, err)
	}
	for _, s := range []shape{
		{},
		{rows: 1, packs: 1},
		{rows: 1, lines: 1},
		{packs: 1, lines: 1},
		{rows: maxIndexRows + 1, packs: 1, lines: 1},
		{rows: 1, packs: maxIndexRows + 1, lines: 1},
		{rows: 1, packs: 1, replaced: maxReplaced + 1, lines: 1},
		{rows: 1, packs: 1, lines: filterLines(maxIndexRows) + 1},
		{rows: 1<<32 - 1, packs: 1<<32 - 1, replaced: 1<<32 - 1, lines: 1<<32 - 1},
	} {
		if _, err := parseTrailer(s.trailer(), int64(s.size())); err == nil {
			t.Errorf("%+v passes", s)
		}
	}
	newer := bytes.Replace(good.trailer(), []byte("HFINDX\x00\x01"), []byte("HFINDX\x00\x02"), 1)
	if _, err := parseTrailer(newer, int64(good.size())); !errors.Is(err, format.ErrNewer) {
		t.Errorf("newer: %v", err)
	}
	biggest := shape{rows: maxIndexRows, packs: maxIndexRows, replaced: maxReplaced, lines: filterLines(maxIndexRows)}
	if int64(biggest.size()) > maxIndexObject {
		t.Errorf("the largest segment has %d bytes, more than %d", biggest.size(), maxIndexObject)
	}
}

// noDelete is a store that deletes nothing.
type noDelete struct{ obs.Store }

var errNoDelete = errors.New("nothing may be deleted")

func (noDelete) Delete(context.Context, ...string) error { return errNoDelete }

// onFirstRead does something before the first read.
type onFirstRead struct {
	obs.Store
	once sync.Once
	do   func()
}

func (o *onFirstRead) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	o.once.Do(o.do)
	return o.Store.ReadAt(ctx, key, p, off)
}

// TestIndexKnowsSizes: of every pack, whether its rows are in
// memory, on the local disk, stored or merged.
func TestIndexKnowsSizes(t *testing.T) {
	v, dir := newPlace(t), t.TempDir()
	x := openIndex(t, v, dir)
	const packs = tableRows/250 + 20
	size := func(i int) int64 { return 1000 + int64(i) }
	want := map[format.PackID]int64{}
	for i := range packs * 250 {
		x.Add(nameOf(i), locOf(i))
		if i%250 == 249 {
			p := format.PackRef{ID: locOf(i).Pack, Size: size(i / 250)}
			want[p.ID] = p.Size
			x.SizePack(p)
			if spill := x.Freeze(); spill != nil {
				spill()
			}
		}
	}
	same := func(when string, x *Index) {
		t.Helper()
		got := map[format.PackID]int64{}
		x.Packs(func(p format.PackRef) { got[p.ID] = p.Size })
		if len(got) != len(want) {
			t.Errorf("%s: %d packs, want %d", when, len(got), len(want))
		}
		for id, n := range want {
			if got[id] != n {
				t.Fatalf("%s: pack %s has %d bytes, want %d", when, id, got[id], n)
			}
		}
	}
	same("added", x)
	if err := x.Store(t.Context()); err != nil {
		t.Fatal(err)
	}
	same("stored", openIndex(t, v, dir))
	for i := range mergeAt { // small ones, which are merged
		table := newRowTable()
		id := format.PackID{9, byte(i)}
		table.add(nameOf(1<<30+i), format.Loc{Pack: id, Off: 8, Len: 20, Raw: 3})
		table.sizePack(format.PackRef{ID: id, Size: 77 + int64(i)})
		want[id] = 77 + int64(i)
		if err := (&Index{in: *v}).storeTable(t.Context(), table); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Merge(t.Context(), dir, nil, nil, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	same("merged", openIndex(t, v, dir))
	forgotten := map[format.PackID]bool{{9, 3}: true, locOf(0).Pack: true}
	if err := v.Merge(t.Context(), dir, forgotten, slices.Collect(maps.Keys(forgotten)), func(error) {}); err != nil {
		t.Fatal(err)
	}
	delete(want, format.PackID{9, 3})
	delete(want, locOf(0).Pack)
	same("forgotten", openIndex(t, v, dir))
}

// TestAddLooksAtWhatIsNew: Add does not repeat Known's lookups in the stored
// segments, and finds chunks that others added since, in memory or on the local disk.
func TestAddLooksAtWhatIsNew(t *testing.T) {
	v := newPlace(t)
	put(t, v, 0, 250)
	x := openIndex(t, v, t.TempDir())
	if _, ok := x.Find(nameOf(1)); !ok {
		t.Fatal("a stored chunk is not known")
	}
	if _, ok := x.FindAdded(nameOf(1)); ok {
		t.Error("the stored segments are searched again")
	}
	for i := 250; i < 250+tableRows+250; i++ {
		x.Add(nameOf(i), locOf(i))
		if i%250 == 249 {
			if spill := x.Freeze(); spill != nil {
				if loc, ok := x.FindAdded(nameOf(250)); !ok || loc != locOf(250) {
					t.Errorf("while it is being written: %v, %v", loc, ok)
				}
				spill()
			}
		}
	}
	if len(x.view.Load().spilled) != 1 {
		t.Fatalf("%d segments on the local disk", len(x.view.Load().spilled))
	}
	for _, i := range []int{250, 250 + tableRows, 250 + tableRows + 249} {
		if loc, ok := x.FindAdded(nameOf(i)); !ok || loc != locOf(i) {
			t.Errorf("name %d: %v, %v", i, loc, ok)
		}
	}
}
