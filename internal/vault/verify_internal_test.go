package vault

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/seal"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault/format"
)

var verifyRefs = flag.Int("verify.refs", 5_000_000, "references of TestMemoryOfVerify")

// TestRefsAgainstMap: whatever comes in whatever order, however
// little memory there is, each reference is given once, in order.
func TestRefsAgainstMap(t *testing.T) {
	for _, c := range []struct{ budget, refs, distinct int }{
		{2 * refSize, 500, 100},
		{10 * refSize, 5000, 100},
		{10 * refSize, 5000, 4000},
		{100 * refSize, 20000, 20000},
		{1000 * refSize, 20000, 20},
		{verifyBudget, 1000, 500},
		{10 * refSize, 0, 1},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(c.refs), uint64(c.distinct)))
			s := newRefSorter(c.budget)
			defer s.close()
			want := map[chunkRef]bool{}
			for range c.refs {
				n := rng.Uint32N(uint32(c.distinct))
				r := chunkRef{n % 7, n / 7 % 11, n % 3, n}
				want[r] = true
				if err := s.add(r); err != nil {
					t.Fatal(err)
				}
				if len(s.buf) > s.most {
					t.Fatalf("%d references in memory, of at most %d", len(s.buf), s.most)
				}
				if limit := 2*int64(c.distinct) + 5*int64(s.most); s.stored > limit {
					t.Fatalf("%d references in files of %d different ones", s.stored, c.distinct)
				}
			}
			var got []chunkRef
			if err := s.each(func(r chunkRef) error { got = append(got, r); return nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.IsSortedFunc(got, compareRefs) || len(got) != len(want) {
				t.Errorf("%d references, want %d, in order: %v", len(got), len(want), slices.IsSortedFunc(got, compareRefs))
			}
			for _, r := range got {
				if !want[r] {
					t.Fatalf("%v was not added", r)
				}
			}
		})
	}
}

// TestMemoryOfVerify: what recipes name takes no more memory than there is for it.
func TestMemoryOfVerify(t *testing.T) {
	s := newRefSorter(verifyBudget)
	defer s.close()
	before, begin := testbed.ResidentMemory(t), time.Now()
	for i := range *verifyRefs {
		h := uint32(i) * 2654435761 // each once, in no order
		if err := s.add(chunkRef{h >> 8, h, 70_000, 65_536}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := s.each(func(chunkRef) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	after := testbed.ResidentMemory(t)
	t.Logf("%d references in %v: memory %s, before %s", n, time.Since(begin), after, before)
	if n != *verifyRefs {
		t.Errorf("%d of %d references", n, *verifyRefs)
	}
	if took := after.Anon - before.Anon; took > verifyBudget+verifyBudget/4 {
		t.Errorf("%d bytes of memory, of which %d are for references", took, verifyBudget)
	}
}

// verifyVault makes a vault of small packs with some backups that share content.
func verifyVault(t *testing.T, st obs.Store, backups int) *Vault {
	t.Helper()
	id, err := ParseIdentity([]byte(fuzzIdentity))
	if err != nil {
		t.Fatal(err)
	}
	p := DefaultParams()
	p.Pack = 4 * p.Chunk.Max
	v, err := CreateWith(t.Context(), st, "verify", nil, nil, id, p)
	if err != nil {
		t.Fatal(err)
	}
	for i := range backups {
		backupOf(t, v, fmt.Sprint("i", i%2), i/2+1, i*20, i*20+60)
	}
	return v
}

// backupOf makes a backup with files of the chunks from first to before end.
func backupOf(t *testing.T, v *Vault, instance string, seq, first, end int) {
	t.Helper()
	w, err := v.NewWriter(t.Context(), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	packs := w.NamePacks(t.Context(), nil)
	rec, err := w.NewRecipe(packs)
	if err != nil {
		t.Fatal(err)
	}
	namer := v.Namer()
	for i := first; i < end; i++ {
		b := make([]byte, 30_000)
		_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(b) // never fails
		name := namer.Name(b)
		loc, ok := w.Known(name)
		if !ok {
			s, err := w.Add(name, seal.Raw, b, len(b))
			if err != nil {
				t.Fatal(err)
			}
			loc = s.Loc
		}
		it := Item{Entry: tree.Entry{Kind: tree.File, Path: fmt.Sprintf("f%06d", i), Size: int64(len(b))}, Extents: []Extent{{Chunk: loc, Len: loc.Raw}}}
		if err := rec.Add(it); err != nil {
			t.Fatal(err)
		}
	}
	lists, err := rec.Finish()
	if err == nil {
		_, err = w.Finish(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	refs, err := packs.Refs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{
		Instance: instance, Seq: uint64(seq), ID: NewBackupID(uint64(seq), time.Now(), false), Packs: refs,
		Volumes: []Volume{{Name: "v", Kind: KindTree, Lists: lists, Entries: uint64(end - first)}},
	}
	if err := v.WriteManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func keysOf(t *testing.T, st obs.Store, folder string) (keys []string) {
	t.Helper()
	for in, err := range st.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(in.Key, folder) {
			keys = append(keys, in.Key)
		}
	}
	return keys
}

// TestVerifyWithLittleMemory: damage of every sort is found with
// hardly any memory as with much, and names the same backups.
func TestVerifyWithLittleMemory(t *testing.T) {
	st := obs.NewMemory()
	v := verifyVault(t, st, 8)
	packs := keysOf(t, st, "/packs/")
	harm := func(key string, to func([]byte) []byte) {
		t.Helper()
		b, err := readAll(t.Context(), st, key, format.MaxPack)
		if err != nil {
			t.Fatal(err)
		}
		if err = st.Delete(t.Context(), key); err == nil && to != nil {
			err = st.Put(t.Context(), key, to(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	look := func(budget int) VerifyReport {
		t.Helper()
		report, err := v.verify(t.Context(), VerifyOptions{ReadDataPercent: 100}, budget)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	same := func(when string, damaged int) {
		t.Helper()
		much, little := look(verifyBudget), look(3*refSize)
		if !reflect.DeepEqual(much, little) {
			t.Errorf("%s:\n%+v\n%+v", when, much, little)
		}
		if len(much.Damaged) != damaged {
			t.Errorf("%s: %+v", when, much.Damaged)
		}
		for _, d := range much.Damaged {
			if len(d.Backups) == 0 {
				t.Errorf("%s: %s touches no backup", when, d.Object)
			}
		}
	}
	same("as it is", 0)
	if report := look(verifyBudget); report.Backups != 8 || report.Items != 8*60 || report.Packs != len(packs) || report.Chunks < 200 {
		t.Errorf("%+v", report)
	}
	harm(packs[0], func(b []byte) []byte { return b[:len(b)/2] })
	harm(packs[1], nil)
	harm(packs[2], func(b []byte) []byte { b[500] ^= 1; return b })
	much := look(verifyBudget)
	// A pack with a recipe in it shows twice: the manifest's recipe can't be read.
	same("with three packs harmed", len(much.Damaged))
	for _, key := range packs[:3] {
		if !slices.ContainsFunc(much.Damaged, func(d Damage) bool { return d.Object == key }) {
			t.Errorf("%s is not reported", key)
		}
	}
}

// TestVerifyFindsWrongReferences: each chunk that a
// recipe names has to be in the table of its pack.
func TestVerifyFindsWrongReferences(t *testing.T) {
	for name, wrong := range map[string]func(*Loc){
		"offset": func(l *Loc) { l.Off++ }, "length": func(l *Loc) { l.Len++ }, "plain length": func(l *Loc) { l.Raw++ },
		"behind the pack": func(l *Loc) { l.Off = 1 << 29 },
	} {
		st := obs.NewMemory()
		v := verifyVault(t, st, 0)
		w, err := v.NewWriter(t.Context(), WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		packs := w.NamePacks(t.Context(), nil)
		rec, err := w.NewRecipe(packs)
		if err != nil {
			t.Fatal(err)
		}
		b := []byte("content")
		s, err := w.Add(v.Namer().Name(b), seal.Raw, b, len(b))
		if err != nil {
			t.Fatal(err)
		}
		loc := s.Loc
		wrong(&loc)
		if err := rec.Add(Item{Entry: tree.Entry{Kind: tree.File, Path: "f", Size: 7}, Extents: []Extent{{Chunk: loc, Len: 7}}}); err != nil {
			t.Fatal(err)
		}
		lists, err := rec.Finish()
		if err == nil {
			_, err = w.Finish(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		refs, err := packs.Refs(t.Context())
		if name == "behind the pack" || name == "length" {
			// The writer itself finds out when the pack is too small for it.
			if missing := (*MissingPacksError)(nil); name == "behind the pack" && (!errors.As(err, &missing) || missing.Packs[0].ID != loc.Pack) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err != nil {
			packs.Stop()
			continue
		}
		m := &Manifest{Instance: "i", Seq: 1, ID: NewBackupID(1, time.Now(), false), Packs: refs, Volumes: []Volume{{Name: "v", Kind: KindTree, Lists: lists, Entries: 1}}}
		if err := v.WriteManifest(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		report, err := v.Verify(t.Context(), VerifyOptions{})
		if err != nil || len(report.Damaged) != 1 || report.Damaged[0].Object != v.packKey(loc.Pack) || !slices.Equal(report.Damaged[0].Backups, []string{"i/" + m.ID}) {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
}

// TestVerifyGoesOn: a manifest that is damaged, can't be read, was made by
// a newer version, or is listed and not found, is reported, and everything
// else is looked at; a manifest that was deleted meanwhile is not reported.
func TestVerifyGoesOn(t *testing.T) {
	mem := obs.NewMemory()
	st := obstest.NewFaulty(mem)
	v := verifyVault(t, st, 8)
	manifests := keysOf(t, mem, "/backups/")
	change := func(key string, to func([]byte) []byte) {
		t.Helper()
		b, err := readAll(t.Context(), mem, key, maxManifest)
		if err == nil {
			err = errors.Join(mem.Delete(t.Context(), key), mem.Put(t.Context(), key, to(b)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(manifests[0], func(b []byte) []byte { b[20] ^= 1; return b })
	change(manifests[1], func(b []byte) []byte { b[7] = 9; return b })
	only := func(key string) func(string) bool { return func(k string) bool { return k == key } }
	st.Inject(obstest.Fault{Op: obstest.Stat, Key: only(manifests[2]), Err: fmt.Errorf("not you: %w", obs.ErrAccess)})
	st.Inject(obstest.Fault{Op: obstest.Stat, Key: only(manifests[3]), Err: fmt.Errorf("gone: %w", obs.ErrNotFound)})
	deleted := false
	st.Inject(obstest.Fault{Op: obstest.Stat, Key: func(k string) bool {
		if k == manifests[4] && !deleted { // by somebody else, after it was listed
			deleted = true
			if err := mem.Delete(t.Context(), k); err != nil {
				t.Error(err)
			}
		}
		return false
	}})
	report, err := v.Verify(t.Context(), VerifyOptions{ReadDataPercent: 100})
	if err != nil {
		t.Fatal(err)
	}
	objects := func(list []Damage) (all []string) {
		for _, d := range list {
			all = append(all, d.Object)
			if len(d.Backups) != 1 {
				t.Errorf("%s touches %v", d.Object, d.Backups)
			}
		}
		return all
	}
	if got := objects(report.Damaged); !slices.Equal(got, []string{manifests[0], manifests[3]}) {
		t.Errorf("damaged: %+v", report.Damaged)
	}
	if got := objects(report.Unread); !slices.Equal(got, manifests[1:3]) {
		t.Errorf("unread: %+v", report.Unread)
	}
	if report.Backups != 3 || report.Findings() != 4 || report.Chunks == 0 {
		t.Errorf("%+v", report)
	}
	// A store that does not answer is no finding.
	st.Inject(obstest.Fault{Op: obstest.Read, Key: only(manifests[7])})
	if _, err := v.Verify(t.Context(), VerifyOptions{}); !errors.Is(err, obs.ErrUnavailable) {
		t.Errorf("a store that is down: %v", err)
	}
	// And no backup is something else than a damaged one.
	if _, err := v.Verify(t.Context(), VerifyOptions{Instance: "none"}); !errors.Is(err, ErrNoBackup) {
		t.Errorf("an instance without backup: %v", err)
	}
}

// TestVerifyWithoutRoom: a full temporary disk is named, with what to do.
func TestVerifyWithoutRoom(t *testing.T) {
	st := obs.NewMemory()
	v := verifyVault(t, st, 4)
	dir := testbed.Tmpfs(t, "size=4k")
	t.Setenv("TMPDIR", dir)
	_, err := v.verify(t.Context(), VerifyOptions{}, 100*refSize)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("error is %v", err)
	}
}
