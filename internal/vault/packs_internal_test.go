package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/tree"
	"holdfast/internal/vault/format"
)

// TestTooManyPacks: a backup that names more packs than a manifest
// can list fails while it names them.
func TestTooManyPacks(t *testing.T) {
	v := fuzzVault(t)
	w, err := v.NewWriter(t.Context(), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	packs := w.NamePacks(t.Context(), func(PackID) bool { return true })
	defer packs.Stop()
	packs.most = 3
	rec, err := w.NewRecipe(packs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range byte(5) {
		x := Extent{Chunk: Loc{Pack: PackID{i % 4}, Off: 8, Len: 100, Raw: 1}, Len: 1}
		err := rec.Add(Item{Entry: tree.Entry{Kind: tree.File, Path: string('a' + i), Size: 1}, Extents: []Extent{x}})
		if errors.Is(err, ErrTooManyPacks) != (i == 3) {
			t.Errorf("pack %d: %v", i, err)
		}
	}
	if err := w.Abort(errors.New("the test ends")); err != nil {
		t.Error(err)
	}
}

// TestManifestOfManyPacks: as many packs as a backup may name fit into a manifest.
func TestManifestOfManyPacks(t *testing.T) {
	v := fuzzVault(t)
	m := &Manifest{Instance: "i", Seq: 1, ID: NewBackupID(1, time.Now(), false), Packs: make([]PackRef, MaxPacks)}
	for i := range m.Packs {
		m.Packs[i] = PackRef{ID: PackID{byte(i), byte(i >> 8), byte(i >> 16)}, Size: format.MaxPack}
	}
	if err := v.WriteManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got, err := v.Manifest(t.Context(), BackupRef{Instance: "i", ID: m.ID})
	if err != nil || !slices.Equal(got.Packs, m.Packs) {
		t.Errorf("%d packs, %v", len(got.Packs), err)
	}
	info, err := v.st.Stat(t.Context(), m.Object)
	if left := maxManifest - info.Size; err != nil || left < 16<<20 {
		t.Errorf("%d bytes are left for all else, %v", left, err)
	}
	m.Packs = append(m.Packs, PackRef{})
	if err := v.WriteManifest(t.Context(), m); err == nil {
		t.Error("one more is accepted")
	}
}

// TestTurns: packs that were never sampled come first, then those whose turn
// came longest ago; a file that is torn, forged or too large costs nothing else.
func TestTurns(t *testing.T) {
	v, dir := fuzzVault(t), t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, v.Fingerprint()), 0o700); err != nil {
		t.Fatal(err)
	}
	pack := func(i int) PackRef { return PackRef{ID: PackID{byte(i), byte(i >> 8), byte(i >> 16)}, Size: 1} }
	some := func(from, to int) (all []PackRef) {
		for i := from; i < to; i++ {
			all = append(all, pack(i))
		}
		return all
	}
	for i := range 6 {
		v.NoteSampled(dir, some(2*i, 2*i+2))
	}
	v.NoteSampled(dir, some(0, 1))
	order := v.LongestUnsampled(dir, some(0, 14), 14)
	// 12 and 13, then 1, then two at a time, then 0.
	for i := range 14 {
		at := slices.IndexFunc(order, func(o PackRef) bool { return o.ID == pack(i).ID })
		want := i/2 + 1
		switch i {
		case 0:
			want = 7
		case 12, 13:
			want = 0
		}
		if at < 2 && want == 0 || (at+1)/2 == want {
			continue
		}
		t.Errorf("pack %d is number %d: %v", i, at, order)
	}
	if got := v.LongestUnsampled("", some(0, 5), 3); len(got) != 3 {
		t.Errorf("without a folder: %v", got)
	}
	v.NoteSampled("", some(0, 5))
	v.NoteSampled(filepath.Join(dir, "not there"), some(0, 5))

	v.NoteSampled(dir, some(0, maxTurns+500))
	v.NoteSampled(dir, some(maxTurns+500, maxTurns+501))
	if turns, _ := v.readTurns(dir); len(turns) != maxTurns || turns[pack(maxTurns+500).ID] == 0 {
		t.Errorf("%d turns are kept", len(turns))
	}
	path := filepath.Join(dir, v.Fingerprint(), turnsFile)
	for _, b := range [][]byte{nil, []byte("x"), []byte(turnsMagic), []byte(turnsMagic + "0123456789abcdef\xff\xff\xff\xff"), []byte(turnsMagic + "torn")} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		v.NoteSampled(dir, some(0, 2))
		if turns, _ := v.readTurns(dir); turns[pack(1).ID] == 0 {
			t.Errorf("after %q: %v", b, turns)
		}
	}
}

// TestLooksAtColdPacks: a list does not tell whether a cold pack
// was restored, so it is asked for itself.
func TestLooksAtColdPacks(t *testing.T) {
	st := obstest.NewFaulty(obs.NewMemory())
	v := verifyVault(t, st, 2)
	cold := &classStore{Store: st, class: map[string]obs.Info{}}
	keys := keysOf(t, st, "/packs/")
	cold.class[keys[0]] = obs.Info{Cold: true, Class: "GLACIER"}
	v.st = cold
	looks := v.NewPackLooks()
	if err := looks.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(looks.seen) != len(keys)-1 {
		t.Errorf("the list tells of %d packs, there are %d, one of them cold", len(looks.seen), len(keys))
	}
	report, err := v.Verify(t.Context(), VerifyOptions{})
	if err != nil || len(report.Damaged) == 0 || !slices.ContainsFunc(report.Damaged, func(d Damage) bool { return d.Object == keys[0] }) {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// classStore says what class objects are of.
type classStore struct {
	obs.Store
	class map[string]obs.Info
}

func (s *classStore) with(in obs.Info) obs.Info {
	in.Cold, in.Class = s.class[in.Key].Cold, s.class[in.Key].Class
	return in
}

func (s *classStore) Stat(ctx context.Context, key string) (obs.Info, error) {
	in, err := s.Store.Stat(ctx, key)
	return s.with(in), err
}

func (s *classStore) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) {
		for in, err := range s.Store.List(ctx, prefix) {
			if !yield(s.with(in), err) {
				return
			}
		}
	}
}

func TestPackRefText(t *testing.T) {
	p := PackRef{ID: PackID{1, 0xfe}, Size: 4711}
	if got, err := ParsePackRef(p.String()); err != nil || got != p {
		t.Errorf("%s is read as %v, %v", p, got, err)
	}
	for _, bad := range []string{"", p.ID.String(), p.ID.String() + "-", p.ID.String() + "-0", p.ID.String() + "-x", "x-5", fmt.Sprintf("%s-%d", p.ID, format.MaxPack+1)} {
		if got, err := ParsePackRef(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}
