package index

import (
	"flag"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

var indexRows = flag.Int("index.rows", 500_000, "chunks of TestMemoryOfIndex")

// TestMemoryOfIndex builds an index of very many chunks as backups and merges
// do, and holds it to what each may cost: 12 bytes of resident memory, 64 on
// disk. It prints times, which depend on the machine, and does not judge them.
func TestMemoryOfIndex(t *testing.T) {
	v, dir, n := newPlace(t), t.TempDir(), *indexRows
	st, err := obs.Open(t.Context(), "file://"+t.TempDir(), obs.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	v.Store = st
	begin := time.Now()
	x := openIndex(t, v, dir)
	for i := range n {
		x.Add(nameOf(i), locOf(i))
		if i%250 == 249 {
			if spill := x.Freeze(); spill != nil {
				spill()
			}
		}
	}
	building := testbed.ResidentMemory(t)
	if err := x.Store(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.Close()
	t.Logf("added %d chunks in %v; memory at the end: %s", n, time.Since(begin), building)
	begin = time.Now()
	for {
		before, err := v.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Merge(t.Context(), dir, nil, nil, func(err error) { t.Error(err) }); err != nil {
			t.Fatal(err)
		}
		after, err := v.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(after) == len(before) {
			break
		}
	}
	t.Logf("merged in %v", time.Since(begin))

	before := testbed.ResidentMemory(t)
	begin = time.Now()
	x = openIndex(t, v, dir)
	opening := time.Since(begin)
	opened := testbed.ResidentMemory(t)
	var disk int64
	for _, f := range segmentFiles(t, v, dir) {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		disk += info.Size()
	}
	lookups := min(n, 500_000)
	names := make([]chunk.Name, lookups)
	times := map[bool]time.Duration{}
	for _, hit := range []bool{true, false} {
		for i := range names {
			if hit {
				names[i] = nameOf(rand.IntN(n))
			} else {
				names[i] = nameOf(1<<40 + rand.IntN(n))
			}
		}
		begin = time.Now()
		for _, name := range names {
			if _, ok := x.Find(name); ok != hit {
				t.Fatalf("name is found: %v, want %v", ok, hit)
			}
		}
		times[hit] = time.Since(begin) / time.Duration(lookups)
	}
	perChunk := float64(opened.Anon-before.Anon) / float64(n)
	onDisk := float64(disk) / float64(n)
	var heads int
	for _, s := range x.view.Load().segs {
		heads += len(s.open)
	}
	t.Logf("%d chunks in %d segments: opened in %v; resident %.2f bytes a chunk (heads %.2f), on disk %.2f; hit %v, miss %v",
		n, len(x.view.Load().segs), opening, perChunk, float64(heads)/float64(n), onDisk, times[true], times[false])
	t.Logf("memory before %s, opened %s, after lookups %s", before, opened, testbed.ResidentMemory(t))
	if perChunk > 12 || float64(heads)/float64(n) > 12 {
		t.Errorf("%.2f bytes of resident memory a chunk: more than 12", perChunk)
	}
	if onDisk > 64 {
		t.Errorf("%.2f bytes on disk a chunk: more than 64", onDisk)
	}
}
