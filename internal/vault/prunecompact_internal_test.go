package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
)

// sparseScene is a vault with packs of eight chunks, of which backups need few.
type sparseScene struct {
	*scene
	made map[string][]int // backups, instance/id: numbers of the chunks of its files
}

const sparseChunk = 7_500 // bytes

func sparseContent(i int) []byte {
	b := make([]byte, sparseChunk)
	_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(b) // never fails
	return b
}

func newSparseScene(t *testing.T, st obs.Store) *sparseScene {
	t.Helper()
	id, err := ParseIdentity([]byte(fuzzIdentity))
	if err != nil {
		t.Fatal(err)
	}
	params := Params{Chunk: chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10}, Pack: 64 << 10}
	v, err := CreateWith(t.Context(), st, "sparse", nil, nil, id, params)
	if err != nil {
		t.Fatal(err)
	}
	other := *v
	p := &scene{T: t, st: &hooked{Store: v.st}, v: v}
	other.st, other.ledger, other.moves = p.st, newLedger(), newMovedCache()
	p.paused = &other
	return &sparseScene{p, map[string][]int{}}
}

// sparseOptions rewrite packs of which backups need a half or less.
func sparseOptions() PruneOptions {
	o := pruneNow()
	o.Sparse = 50
	return o
}

// backup makes a backup of files of these chunks.
func (p *sparseScene) backup(instance string, chunks ...int) *Manifest {
	p.Helper()
	s := p.begin(p.v)
	w, err := p.v.NewWriter(p.Context(), WriterOptions{Without: s.Condemned()})
	p.must(err)
	packs := w.NamePacks(p.Context(), nil)
	rec, err := w.NewRecipe(packs)
	p.must(err)
	namer := p.v.Namer()
	for _, i := range chunks {
		b := sparseContent(i)
		name := namer.Name(b)
		loc, ok := w.Known(name)
		if !ok {
			stored, err := w.Add(name, seal.Raw, b, len(b))
			p.must(err)
			loc = stored.Loc
		}
		p.must(rec.Add(Item{
			Entry:   tree.Entry{Kind: tree.File, Path: fmt.Sprintf("f%06d", i), Size: sparseChunk},
			Extents: []Extent{{Chunk: loc, Len: loc.Raw}},
		}))
	}
	lists, err := rec.Finish()
	p.must(err)
	_, err = w.Finish(p.Context())
	p.must(err)
	refs, err := packs.Refs(p.Context())
	p.must(err)
	p.seq++
	m := &Manifest{
		Instance: instance, Seq: p.seq, ID: modelID(int(p.seq)), Parent: modelParent(int(p.seq)), Packs: refs,
		Volumes: []Volume{{Name: "v", Kind: KindTree, Lists: lists, Entries: uint64(len(chunks))}},
	}
	p.must(s.WriteManifest(p.Context(), m))
	p.must(s.End(p.Context()))
	p.made[fullName(referTo(m))] = chunks
	return m
}

// dormant makes a vault in which the only backup of an instance needs two chunks of each pack.
func (p *sparseScene) dormant() *Manifest {
	p.Helper()
	all := make([]int, 32)
	for i := range all {
		all[i] = i
	}
	old := p.backup("gone", all...)
	m := p.backup("dormant", 0, 1, 8, 9, 16, 17, 24, 25)
	p.must(p.v.st.Delete(p.Context(), p.v.manifestKey(old.Instance, old.ID)))
	delete(p.made, fullName(referTo(old)))
	return m
}

// whole wants every backup to restore to the byte, one chunk at a time and in runs, and to verify.
func (p *sparseScene) whole(v *Vault) {
	p.Helper()
	fresh := *v
	fresh.moves = newMovedCache() // as another process
	for name, chunks := range p.made {
		ref, _ := refOfName(name)
		m, err := fresh.Manifest(p.Context(), ref)
		p.must(err)
		p.must(fresh.Present(p.Context(), ref, m.Digest, nil))
		var got []Item
		p.must(fresh.Items(p.Context(), &m.Volumes[0], func(items []Item) error { got = append(got, items...); return nil }))
		if len(got) != len(chunks) {
			p.Fatalf("%s has %d files, want %d", name, len(got), len(chunks))
		}
		for i, it := range got {
			b, err := fresh.ReadChunk(p.Context(), Content, it.Extents[0].Chunk)
			if err != nil || !bytes.Equal(b, sparseContent(chunks[i])) {
				p.Fatalf("%s: %s differs: %v", name, it.Path, err)
			}
		}
	}
	r, err := fresh.Verify(p.Context(), VerifyOptions{ReadDataPercent: 100})
	if err != nil || r.Findings() > 0 || r.Backups != len(p.made) {
		p.Fatalf("verify: %+v, %v", r, err)
	}
	s, err := fresh.Stats(p.Context(), time.Time{})
	if err != nil || s.Missing > 0 {
		p.Fatalf("stats: %+v, %v", s, err)
	}
}

func (p *sparseScene) compact() PruneReport {
	p.Helper()
	o := sparseOptions()
	o.Warn = func(err error) { p.Errorf("warned: %v", err) }
	r, err := p.v.Prune(p.Context(), o)
	p.must(err)
	return r
}

// TestCompact: the needed chunks of sparse packs move, for dormant instances too. The manifests,
// and so the digests in receipts, stay as they are. When the backups go, nothing is left.
func TestCompact(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	m := p.dormant()
	o := sparseOptions()
	o.DryRun = true
	before := p.left("packs", "moved", "condemned", "sessions")
	dry, err := p.v.Prune(t.Context(), o)
	if err != nil || dry.Sparse != 4 || dry.SparseBytes < 4*5*sparseChunk {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	if now := p.left("packs", "moved", "condemned", "sessions"); !slices.Equal(now, before) {
		t.Errorf("a dry run changed %q to %q", before, now)
	}
	r := p.compact()
	if r.Moved != 4 || r.MovedBytes < 8*sparseChunk || r.MovedBytes > 9*sparseChunk {
		t.Errorf("%+v", r)
	}
	now, err := p.v.Manifest(t.Context(), referTo(m))
	if err != nil || now.Digest != m.Digest {
		t.Errorf("the manifest changed: %v", err)
	}
	p.whole(p.v)
	if r = p.compact(); r.Sparse != 0 || r.Garbage != 0 || r.Deleted != 0 || len(p.left("moved")) != 4 {
		t.Errorf("once more: %+v, relocations %q", r, p.left("moved"))
	}
	// Another backup finds the chunks in the new packs, and names no pack that is gone.
	packs := len(p.left("packs"))
	other := p.backup("active", 0, 1, 8, 9)
	if added := len(p.left("packs")) - packs; added != 1 {
		t.Errorf("a backup of moved chunks stored %d packs", added)
	}
	for _, ref := range other.Packs {
		if !p.has(ref) {
			t.Errorf("a backup names pack %s, which is gone", ref.ID)
		}
	}
	p.whole(p.v)
	p.must(p.v.st.Delete(t.Context(), p.v.manifestKey("dormant", m.ID), p.v.manifestKey("active", other.ID)))
	p.prune()
	p.prune()
	if left := p.left("packs", "moved", "condemned", "sessions"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestCompactAgain: moved chunks move once more, and the old manifests still find them.
func TestCompactAgain(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	p.dormant()
	p.compact()
	o := sparseOptions()
	o.Sparse = 100
	for range 3 {
		if r, err := p.v.Prune(t.Context(), o); err != nil || r.Moved == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		p.whole(p.v)
	}
	// A backup that needs a part of the moved chunks keeps the others from going.
	p.backup("dormant", 0, 8, 100)
	p.compact()
	p.whole(p.v)
}

// TestCompactMaxRewrite: the sparsest packs move first, until enough is stored anew.
func TestCompactMaxRewrite(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	p.dormant()
	o := sparseOptions()
	o.MaxRewrite = 5 * sparseChunk
	r, err := p.v.Prune(t.Context(), o)
	if err != nil || r.Moved != 2 || r.MovedBytes > 5*sparseChunk {
		t.Errorf("%+v, %v", r, err)
	}
	o.Sparse = 5 // no pack is that sparse
	if r, err = p.v.Prune(t.Context(), o); err != nil || r.Sparse != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	p.whole(p.v)
}

// TestCompactGoesOn: a prune that ends at any request, with or without a chance to take anything
// back, loses nothing, and the next ones leave nothing but the needed chunks.
func TestCompactGoesOn(t *testing.T) {
	for name, dies := range map[string]bool{"the store is gone": false, "the process dies": true} {
		for at, ended := 1, false; !ended; at++ {
			p := newSparseScene(t, obs.NewMemory())
			p.dormant()
			var n atomic.Int64
			p.st.before = func(op, key string) error {
				if op == "list" && strings.Contains(key, "/packs/") {
					return nil // 256 requests without an effect
				}
				if now := int(n.Add(1)); now == at || now > at && dies {
					return obs.ErrAccess
				}
				return nil
			}
			o := sparseOptions()
			o.Warn = func(error) {}
			_, _ = p.paused.Prune(t.Context(), o)
			ended = int(n.Load()) < at
			p.st.before = nil
			for _, key := range p.left("sessions") {
				running.Delete(key[strings.LastIndexByte(key, '/')+1:])
			}
			s := p.begin(p.paused) // removes the sessions of the dead prune
			p.must(s.End(t.Context()))
			p.whole(p.v)
			p.compact()
			if left := p.left("sessions"); len(left) > 0 {
				t.Errorf("%s at request %d: left: %q", name, at, left)
			}
			for full := range p.made {
				ref, _ := refOfName(full)
				p.must(p.v.st.Delete(t.Context(), p.v.manifestKey(ref.Instance, ref.ID)))
			}
			p.prune()
			p.prune()
			if left := p.left("packs", "condemned", "moved"); len(left) > 0 {
				t.Errorf("%s at request %d: left in the end: %q", name, at, left)
			}
		}
	}
}

// TestCompactBesideReader: a reader that has read the recipe goes on
// when the chunks move, also with runs of several chunks.
func TestCompactBesideReader(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	m := p.dormant()
	reader := *p.v
	reader.moves = newMovedCache()
	s, err := reader.BeginReading(t.Context(), SessionOptions{Host: "reader"}, fullName(referTo(m)))
	p.must(err)
	var items []Item
	p.must(reader.Items(t.Context(), &m.Volumes[0], func(some []Item) error { items = append(items, some...); return nil }))
	first, second := items[0].Extents[0].Chunk, items[1].Extents[0].Chunk
	run := func() []byte {
		b := make([]byte, second.Off+second.Len-first.Off)
		p.must(reader.ReadRun(t.Context(), first.Pack, b, first.Off))
		return b
	}
	before := run()
	p.compact()
	if p.has(PackRef{ID: first.Pack}) || !bytes.Equal(run(), before) {
		t.Error("the run differs")
	}
	// A manifest that goes while it is read keeps its chunks until the reader has ended.
	p.must(p.v.st.Delete(t.Context(), p.v.manifestKey(m.Instance, m.ID)))
	var waits *WaitsError
	if _, err := p.v.Prune(t.Context(), pruneNow()); !errors.As(err, &waits) || !bytes.Equal(run(), before) {
		t.Errorf("beside the reader: %v", err)
	}
	p.must(s.End(t.Context()))
}

// TestCompactWithoutSession: a prune whose writer's session was removed while
// it moved chunks leaves the old packs, and takes the relocations back.
func TestCompactWithoutSession(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	p.dormant()
	p.st.once("put", "moved", func() error {
		for _, key := range p.left("sessions") {
			if !strings.HasSuffix(key, pruneSuffix) {
				return p.v.st.Delete(t.Context(), key)
			}
		}
		return errors.New("the prune has no writer's session")
	})
	_, err := p.paused.Prune(t.Context(), sparseOptions())
	if !errors.Is(err, ErrSessionGone) {
		t.Errorf("says %v", err)
	}
	if left := p.left("moved"); len(left) > 0 {
		t.Errorf("relocations: %q", left)
	}
	p.whole(p.v)
	p.compact()
	p.whole(p.v)
}

// TestCompactFailsClosed: a pack stays as it is where nobody knows
// which chunks of it are needed, or where its chunks can't be read.
func TestCompactFailsClosed(t *testing.T) {
	for name, damage := range map[string]func(p *sparseScene, m *Manifest) PackID{
		"a recipe does not open": func(_ *sparseScene, m *Manifest) PackID { return m.Volumes[0].Lists[0].Pack },
		"a chunk does not open": func(p *sparseScene, m *Manifest) PackID {
			var items []Item
			p.must(p.v.Items(p.Context(), &m.Volumes[0], func(some []Item) error { items = append(items, some...); return nil }))
			return items[0].Extents[0].Chunk.Pack
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newSparseScene(t, obs.NewMemory())
			m := p.dormant()
			bad := p.v.packKey(damage(p, m))
			info, err := p.v.st.Stat(t.Context(), bad)
			p.must(err)
			body := make([]byte, info.Size)
			p.must(readFull(t.Context(), p.v.st, bad, body, 0))
			body[100] ^= 1 // in the first chunk
			if strings.Contains(name, "recipe") {
				at := m.Volumes[0].Lists[0]
				body[100] ^= 1
				body[at.Off+20] ^= 1
			}
			p.must(p.v.st.Delete(t.Context(), bad))
			p.must(p.v.st.Put(t.Context(), bad, body))
			before := p.left("packs")
			var warned []error
			o := sparseOptions()
			o.Warn = func(err error) { warned = append(warned, err) }
			_, err = p.v.Prune(t.Context(), o)
			if err != nil || len(warned) == 0 {
				t.Errorf("%v, warned of %v", err, warned)
			}
			if now := p.left("packs"); !slices.Contains(now, bad) || strings.Contains(name, "recipe") && !slices.Equal(now, before) {
				t.Errorf("%q of %q are left", now, before)
			}
		})
	}
	// A relocation that does not open ends every prune before it deletes.
	p := newSparseScene(t, obs.NewMemory())
	p.dormant()
	p.compact()
	key := p.left("moved")[0]
	p.must(p.v.st.Delete(t.Context(), key))
	p.must(p.v.st.Put(t.Context(), key, []byte("junk")))
	before := p.left("packs")
	if _, err := p.v.Prune(t.Context(), pruneNow()); !errors.Is(err, ErrCorrupt) || !slices.Equal(before, p.left("packs")) {
		t.Errorf("a relocation that does not open: %v", err)
	}
}

// TestCompactNewBackup: a backup that comes while the prune waits needs other chunks of a sparse
// pack, and keeps them.
func TestCompactNewBackup(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	p.dormant()
	c := newPrune(p.v, sparseOptions())
	c.o.Now, c.o.Warn = time.Now, func(err error) { t.Errorf("warned: %v", err) }
	p.steps(c, "condemns packs")
	_, err := c.next(t.Context())
	p.must(err)
	p.backupOfOld(2, 3, 10)
	p.must(c.run(t.Context()))
	if c.report.Moved == 0 {
		t.Error("nothing moved")
	}
	p.whole(p.v)
}

// backupOfOld makes a backup as a writer does that began before the condemnation.
func (p *sparseScene) backupOfOld(chunks ...int) {
	p.Helper()
	condemned := p.left("condemned")
	bodies := map[string][]byte{}
	for _, key := range condemned {
		info, err := p.v.st.Stat(p.Context(), key)
		p.must(err)
		bodies[key] = make([]byte, info.Size)
		p.must(readFull(p.Context(), p.v.st, key, bodies[key], 0))
	}
	p.must(p.v.st.Delete(p.Context(), condemned...))
	p.backup("active", chunks...)
	for key, body := range bodies {
		p.must(p.v.st.Put(p.Context(), key, body))
	}
}

// TestLongerLookAtMovedPack: a writer whose session is gone does not take a
// moved pack for present: the chunks that only its backup needs were not moved.
func TestLongerLookAtMovedPack(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	m := p.dormant()
	p.compact()
	gone := slices.DeleteFunc(slices.Clone(m.Packs), func(ref PackRef) bool { return p.has(ref) })
	if len(gone) == 0 {
		t.Fatal("no pack of the backup was moved")
	}
	p.must(p.v.st.Delete(t.Context(), p.left("condemned")...)) // the look must find out by itself
	if err := p.v.lookLonger(t.Context(), SessionOptions{Host: "h"}, gone); !errors.Is(err, ErrSessionGone) {
		t.Errorf("the longer look says %v", err)
	}
	p.must(p.v.packsPresent(t.Context(), gone, true))
}

// TestCompactLocked: packs that the store locks stay, and are told.
// So a locked manifest never names a pack that was moved.
func TestCompactLocked(t *testing.T) {
	p := newSparseScene(t, obs.NewLockedMemory(time.Hour, Retention))
	p.backup("i", 0, 1, 2, 3, 4, 5, 6, 7)
	o := sparseOptions()
	o.Sparse = 100
	r, err := p.v.Prune(t.Context(), o)
	if err != nil || r.Sparse != 0 || r.Locked == 0 || len(p.left("moved", "condemned")) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRelocationsOfNoSense: a relocation that no prune makes does not open.
func TestRelocationsOfNoSense(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	pack := PackRef{ID: PackID{1}, Size: 1000}
	row := func(off, sealed uint32, kind ChunkKind, n int, to uint32) []byte {
		return appendMoved(nil, off, sealed, kind, n, to)
	}
	for name, c := range map[string]struct {
		rows  []byte
		opens bool
	}{
		"good":                 {slices.Concat(row(8, 20, Content, 0, 8), row(28, 20, Meta, 0, 28)), true},
		"none":                 {nil, true},
		"half a row":           {row(8, 20, Content, 0, 8)[:9], false},
		"another order":        {slices.Concat(row(28, 20, Content, 0, 8), row(8, 20, Content, 0, 28)), false},
		"overlap":              {slices.Concat(row(8, 20, Content, 0, 8), row(27, 20, Content, 0, 28)), false},
		"too short":            {row(8, 16, Content, 0, 8), false},
		"no such pack":         {row(8, 20, Content, 1, 8), false},
		"no such kind":         {row(8, 20, 3, 0, 8), false},
		"in the old header":    {row(7, 20, Content, 0, 8), false},
		"in the new header":    {row(8, 20, Content, 0, 7), false},
		"behind all old packs": {row(1<<30, 20, Content, 0, 8), false},
		"behind all new packs": {row(8, 20, Content, 0, 1<<30+1), false},
	} {
		object := movedName(PackID{2})
		p.must(p.v.putMoved(t.Context(), object, &movedBody{Size: 500, Packs: []PackRef{pack}, Rows: c.rows}))
		var opened *relocation
		var bad error
		p.must(p.v.readMoved(t.Context(), object, isMovedName, func(r *relocation) { opened = r }, func(_ string, err error) { bad = err }))
		if c.opens != (opened != nil) || c.opens != (bad == nil) || bad != nil && !errors.Is(bad, ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, opened, bad)
		}
	}
}

// TestReadOfBrokenRelocation: a relocation whose packs are gone hides no other one.
func TestReadOfBrokenRelocation(t *testing.T) {
	p := newSparseScene(t, obs.NewMemory())
	p.dormant()
	p.compact()
	id, _ := packOfMoved(strings.TrimPrefix(p.left("moved")[0], p.v.movedPrefix()))
	whole, err := p.v.relocationsOf(context.Background(), id)
	p.must(err)
	broken := whole[0].movedBody
	broken.Packs = []PackRef{{ID: PackID{77}, Size: 1000}}
	p.must(p.v.putMoved(t.Context(), id.String()+"."+strings.Repeat("0", 32), &broken)) // the first by its name
	p.whole(p.v)
	if r, err := p.v.Prune(t.Context(), pruneNow()); err != nil || len(r.Unlisted) > 0 || r.Deleted > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
