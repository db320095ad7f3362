package vault_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func identity(t testing.TB) *vault.Identity {
	t.Helper()
	id, err := vault.GenerateIdentity()
	must(t, err)
	return id
}

func read(t testing.TB, st obs.Store, key string) []byte {
	t.Helper()
	info, err := st.Stat(t.Context(), key)
	must(t, err)
	b := make([]byte, info.Size)
	if _, err := st.ReadAt(t.Context(), key, b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

func replace(t testing.TB, st obs.Store, key string, b []byte) {
	t.Helper()
	must(t, st.Delete(t.Context(), key))
	must(t, st.Put(t.Context(), key, b))
}

func keys(t testing.TB, st obs.Store) (out []string) {
	t.Helper()
	for i, err := range st.List(t.Context(), "") {
		must(t, err)
		out = append(out, i.Key)
	}
	return out
}

func TestKeys(t *testing.T) {
	st := obs.NewMemory()
	host, recovery, stranger := identity(t), identity(t), identity(t)
	made, err := vault.Create(t.Context(), st, "tenant-1", nil, []string{recovery.Recipient()}, host)
	must(t, err)
	if len(made.Info().Recipients) != 2 {
		t.Errorf("recipients: %v", made.Info().Recipients)
	}
	for _, id := range []*vault.Identity{host, recovery} {
		v, err := vault.Open(t.Context(), st, "tenant-1", nil, id)
		must(t, err)
		if v.Namer().Name([]byte("x")) != made.Namer().Name([]byte("x")) {
			t.Error("two recipients have two keys")
		}
	}
	if _, err := vault.Open(t.Context(), st, "tenant-1", nil, stranger); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("stranger: %v", err)
	}
	if _, err := vault.Open(t.Context(), st, "tenant-2", nil, host); !errors.Is(err, vault.ErrNoVault) {
		t.Errorf("no vault: %v", err)
	}
	if _, err := vault.Open(t.Context(), st, "tenant-1", []byte("name key"), host); !errors.Is(err, vault.ErrNoVault) {
		t.Errorf("other name key: %v", err)
	}
	if _, err := vault.Create(t.Context(), st, "tenant-1", nil, nil, stranger); !errors.Is(err, vault.ErrVaultExists) {
		t.Errorf("create again: %v", err)
	}
	if _, err := vault.Create(t.Context(), st, "tenant-3", nil, []string{"age1nonsense"}, host); err == nil {
		t.Error("a recipient of no sense was taken")
	}
	text, err := host.MarshalText()
	must(t, err)
	again, err := vault.ParseIdentity(text)
	if err != nil || again.Recipient() != host.Recipient() {
		t.Errorf("identity read again: %v, %v", again, err)
	}
	if _, err := vault.ParseIdentity([]byte("AGE-SECRET-KEY-1NOT\n")); err == nil || strings.Contains(err.Error(), "1NOT") {
		t.Errorf("bad identity: %v", err)
	}
	if s := fmt.Sprintf("%v %+v", host, host); strings.Contains(s, "SECRET") {
		t.Error("printing an identity shows its secret")
	}
}

func TestHeaderThatWasChanged(t *testing.T) {
	st := obs.NewMemory()
	id := identity(t)
	_, err := vault.Create(t.Context(), st, "a", nil, nil, id)
	must(t, err)
	_, err = vault.Create(t.Context(), st, "b", nil, nil, id)
	must(t, err)
	ka, kb := vault.ID("a", nil)+"/vault.json", vault.ID("b", nil)+"/vault.json"
	good := read(t, st, ka)
	for name, b := range map[string][]byte{
		"parameters":    bytes.Replace(good, []byte(`"avg":65536`), []byte(`"avg":32768`), 1),
		"another vault": read(t, st, kb),
		"cut off":       good[:len(good)/2],
		"empty":         {},
		"no json":       []byte("hello"),
		"mac":           bytes.Replace(good, []byte(`"mac":"`), []byte(`"mac":"0`), 1),
	} {
		if bytes.Equal(b, good) {
			t.Fatalf("%s: changes nothing", name)
		}
		replace(t, st, ka, b)
		if _, err := vault.Open(t.Context(), st, "a", nil, id); !errors.Is(err, vault.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	replace(t, st, ka, bytes.Replace(good, []byte(`"format":1`), []byte(`"format":2`), 1))
	if _, err := vault.Open(t.Context(), st, "a", nil, id); !errors.Is(err, vault.ErrNewer) {
		t.Errorf("format 2: %v", err)
	}
}

func newVault(t testing.TB) (*vault.Vault, obs.Store) {
	t.Helper()
	st := obs.NewMemory()
	p := vault.DefaultParams()
	p.Pack = 2 << 20
	v, err := vault.CreateWith(t.Context(), st, "tenant", nil, nil, identity(t), p)
	must(t, err)
	return v, st
}

// TestWriterFromManyGoroutines adds chunks, many of them twice, and reads each back.
func TestWriterFromManyGoroutines(t *testing.T) {
	v, st := newVault(t)
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	const goroutines, chunks = 8, 300
	locs := make([][]vault.Loc, goroutines)
	content := func(i int) []byte {
		b := make([]byte, 1000+i*300)
		_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(b)
		if i%3 == 0 {
			clear(b)
			copy(b, fmt.Sprint(i))
		}
		return b
	}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			namer := v.Namer()
			comp, err := seal.NewCompressor(seal.Fastest, v.Params().Chunk.Max)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range chunks {
				b := content(i)
				m, payload := comp.Compress(b)
				s, err := addTo(w, namer.Name(b), m, payload, len(b))
				if err != nil {
					t.Error(err)
					return
				}
				locs[g] = append(locs[g], s.Loc)
			}
		})
	}
	wg.Wait()
	packs, err := w.Finish(t.Context())
	must(t, err)
	for i := range chunks {
		for g := range goroutines {
			if locs[g][i] != locs[0][i] {
				t.Fatalf("chunk %d is stored twice", i)
			}
		}
		b, err := v.ReadChunk(t.Context(), vault.Content, locs[0][i])
		must(t, err)
		if !bytes.Equal(b, content(i)) {
			t.Errorf("chunk %d reads back as other bytes", i)
		}
	}
	for _, p := range packs {
		if p.Size > int64(v.Params().Pack) {
			t.Errorf("pack %s has %d bytes, more than %d", p.ID, p.Size, v.Params().Pack)
		}
	}
	// Another writer knows them all, from the index alone.
	w2, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	defer func() { _ = w2.Abort(errors.New("test ends")) }()
	for i := range chunks {
		if loc, ok := w2.Known(v.Namer().Name(content(i))); !ok || loc != locs[0][i] {
			t.Errorf("chunk %d: index says %v, %v", i, loc, ok)
		}
	}
	_ = st
}

// addTo adds a chunk unless the writer knows it.
func addTo(w *vault.Writer, name chunk.Name, m seal.Method, payload []byte, raw int) (vault.Stored, error) {
	if loc, ok := w.Known(name); ok {
		return vault.Stored{Loc: loc}, nil
	}
	return w.Add(name, m, payload, raw)
}

// namePacks returns the packs that the recipes of a test name.
func namePacks(t testing.TB, w *vault.Writer) *vault.NamedPacks {
	t.Helper()
	packs := w.NamePacks(t.Context(), nil)
	t.Cleanup(packs.Stop)
	return packs
}

// TestPackThatWasChanged flips every byte's bit of a small pack in turn: all must be noticed.
func TestPackThatWasChanged(t *testing.T) {
	v, st := newVault(t)
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	b := []byte("the content of a chunk")
	s, err := addTo(w, v.Namer().Name(b), seal.Raw, b, len(b))
	must(t, err)
	packs, err := w.Finish(t.Context())
	must(t, err)
	key := ""
	for _, k := range keys(t, st) {
		if strings.Contains(k, "/packs/") {
			key = k
		}
	}
	good := read(t, st, key)
	for i := 8; i < len(good); i++ { // the magic before is for people
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		replace(t, st, key, bad)
		_, _, terr := v.PackTable(t.Context(), packs[0].ID)
		_, cerr := v.ReadChunk(t.Context(), vault.Content, s.Loc)
		if !errors.Is(errors.Join(terr, cerr), vault.ErrCorrupt) {
			t.Fatalf("byte %d of %d: %v, %v", i, len(good), terr, cerr)
		}
	}
	for n := range good {
		replace(t, st, key, good[:n])
		if _, _, err := v.PackTable(t.Context(), packs[0].ID); !errors.Is(err, vault.ErrCorrupt) {
			t.Fatalf("cut off at %d: %v", n, err)
		}
	}
	replace(t, st, key, append(slices.Clone(good), good...))
	if _, _, err := v.PackTable(t.Context(), packs[0].ID); !errors.Is(err, vault.ErrCorrupt) {
		t.Errorf("twice as long: %v", err)
	}
	must(t, st.Delete(t.Context(), key))
	if _, err := v.ReadChunk(t.Context(), vault.Content, s.Loc); !errors.Is(err, vault.ErrCorrupt) {
		t.Errorf("missing: %v", err)
	}
}

// TestRecipeRoundTrip writes items of every shape and reads them back.
func TestRecipeRoundTrip(t *testing.T) {
	v, _ := newVault(t)
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	packs := namePacks(t, w)
	rec, err := w.NewRecipe(packs)
	must(t, err)
	data := bytes.Repeat([]byte("z"), 60000)
	s, err := addTo(w, v.Namer().Name(data), seal.Raw, data, len(data))
	must(t, err)
	want := []vault.Item{{Entry: tree.Entry{Kind: tree.Dir, Mode: 0o755}}}
	for i := range 5000 {
		it := vault.Item{Entry: tree.Entry{
			Path: fmt.Sprintf("dir/%05d\xff\n", i), Kind: tree.File, Mode: 0o4755, UID: 1 << 31, GID: 7,
			Mtime: tree.Time{Sec: -5, Nsec: 999999999}, Size: 1 << 40,
		}}
		switch i % 5 {
		case 0:
			it.Extents = []vault.Extent{{Off: int64(i), Chunk: s.Loc, In: 3, Len: 50000}, {Off: 1 << 39, Chunk: s.Loc, Len: 60000}}
		case 1:
			it.Kind, it.Size, it.Target = tree.Symlink, 0, "a\xfe"
		case 2:
			it.Kind, it.Size, it.Major, it.Minor = tree.CharDevice, 0, 4095, 1<<20-1
		case 3:
			it.Xattrs = []tree.Xattr{{Name: "user.a", Value: []byte{0}}, {Name: "user.b", Value: []byte{}}}
		case 4:
			it.Size, it.LinkTo, it.HasLinkTo = 0, "dir/00000\xff\n", true
		}
		want = append(want, it)
	}
	for _, it := range want {
		must(t, rec.Add(it))
	}
	lists, err := rec.Finish()
	must(t, err)
	_, err = w.Finish(t.Context())
	must(t, err)
	var got []vault.Item
	must(t, v.Items(t.Context(), &vault.Volume{Name: "v", Lists: lists}, func(items []vault.Item) error {
		got = append(got, items...)
		return nil
	}))
	if len(got) != len(want) {
		t.Fatalf("%d items, want %d", len(got), len(want))
	}
	for i := range got {
		if g, w := fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", want[i]); g != w {
			t.Fatalf("item %d:\n got %s\nwant %s", i, g, w)
		}
	}
	refs, err := packs.Refs(t.Context())
	must(t, err)
	if !slices.ContainsFunc(refs, func(p vault.PackRef) bool { return p.ID == s.Loc.Pack }) {
		t.Error("the pack that the items name was not noted")
	}
}

// TestVaultsShareNothing: equal content of two vaults has other names, other cuts and other bytes.
func TestInvariantTenantWallsInVaults(t *testing.T) {
	a, _ := newVault(t)
	b, _ := newVault(t)
	p := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	if a.Namer().Name(p) == b.Namer().Name(p) {
		t.Error("two vaults give one name")
	}
	cuts := func(c *chunk.Cutter) (out []int) {
		for at := 0; at < len(p); {
			at += c.Cut(p[at:])
			out = append(out, at)
		}
		return out
	}
	if slices.Equal(cuts(a.Cutter()), cuts(b.Cutter())) {
		t.Error("two vaults cut alike")
	}
}

// TestOrderNeedsNoClock: sequence numbers order the backups of an instance, also where the
// clocks of their writers say the opposite, and an incomplete backup is never the newest.
func TestOrderNeedsNoClock(t *testing.T) {
	v, _ := newVault(t)
	base := time.Date(2031, 11, 23, 12, 0, 0, 0, time.UTC)
	follows := func(parent string, seq uint64, made time.Time, lost uint64) string {
		refs, err := v.Backups(t.Context(), "i")
		must(t, err)
		m := &vault.Manifest{Instance: "i", Seq: seq, Parent: parent, ID: vault.LineageOf(refs).NewID(seq, made, parent, lost > 0), Created: made, Lost: lost}
		must(t, v.WriteManifest(t.Context(), m))
		return m.ID
	}
	last := ""
	write := func(seq uint64, made time.Time, lost uint64) string {
		last = follows(last, seq, made, lost)
		return last
	}
	if _, err := v.Newest(t.Context(), "i"); !errors.Is(err, vault.ErrNoBackup) || errors.Is(err, vault.ErrOnlyIncomplete) {
		t.Errorf("no backup: %v", err)
	}
	part := write(1, base, 3)
	if _, err := v.Newest(t.Context(), "i"); !errors.Is(err, vault.ErrNoBackup) || !errors.Is(err, vault.ErrOnlyIncomplete) || !strings.Contains(err.Error(), part) {
		t.Errorf("only an incomplete one: %v", err)
	}
	var ids []string
	for i := range 5 {
		ids = append(ids, write(uint64(i+2), base.Add(-time.Duration(i)*24*time.Hour), 0))
	}
	later := write(7, base, 1)
	ref, err := v.Newest(t.Context(), "i")
	must(t, err)
	if ref.ID != ids[4] || ref.Seq != 6 || ref.Incomplete {
		t.Errorf("newest is %+v, want %s", ref, ids[4])
	}
	m, err := v.Manifest(t.Context(), ref)
	must(t, err)
	if !m.Created.Equal(base.AddDate(0, 0, -4)) || len(m.Digest) != 64 || m.Seq != 6 {
		t.Errorf("manifest %+v", m)
	}
	refs, err := v.Backups(t.Context(), "")
	must(t, err)
	if len(refs) != 7 || !slices.IsSortedFunc(refs, func(a, b vault.BackupRef) int { return cmp.Compare(a.Seq, b.Seq) }) {
		t.Errorf("list %+v", refs)
	}
	if ref, err := v.Find(t.Context(), "", later); err != nil || !ref.Incomplete || ref.Seq != 7 {
		t.Errorf("an incomplete one, asked for by id: %+v, %v", ref, err)
	}
	if seq, parent, err := v.NextSeq("i", refs); err != nil || seq != 8 || parent != later {
		t.Errorf("next is %d after %s, %v", seq, parent, err)
	}
	for _, id := range []string{"../../x", "", "00000000-20200101T000000Z-0123456789abcdef-0000000000000000-00000000", "20200101T000000.000Z-0123456789abcdef"} {
		if _, err := v.Find(t.Context(), "i", id); !errors.Is(err, vault.ErrNoBackup) {
			t.Errorf("id %q of no sense: %v", id, err)
		}
	}

	// Two hosts at once.
	other := follows(ids[3], 6, base, 0)
	var fork *vault.ForkError
	if _, err := v.Newest(t.Context(), "i"); !errors.As(err, &fork) || len(fork.Refs) != 2 ||
		!strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), ids[4]) {
		t.Errorf("a fork: %v", err)
	}
	// A name that only the owner of the bucket can have made is not
	// trusted beyond its place in the order.
	must(t, v.Store().Put(t.Context(), v.Info().ID+"/backups/i/99999999-20200101T000000Z-0123456789abcdef-0000000000000000-00000000", []byte("junk")))
	if refs, err = v.Backups(t.Context(), "i"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.NextSeq("i", refs); err == nil || !strings.Contains(err.Error(), "99999999-20200101T000000Z-0123456789abcdef-0000000000000000-00000000") {
		t.Errorf("after the last number: %v", err)
	}
}

// TestManifestFitsItsName: a manifest whose content says another sequence number, or another
// completeness, than its name is neither written nor read.
func TestManifestFitsItsName(t *testing.T) {
	v, _ := newVault(t)
	now := time.Now()
	for name, m := range map[string]*vault.Manifest{
		"another number":  {Seq: 2, ID: vault.NewBackupID(3, now, false)},
		"complete":        {Seq: 2, ID: vault.NewBackupID(2, now, false), Lost: 1},
		"incomplete":      {Seq: 2, ID: vault.NewBackupID(2, now, true)},
		"no number":       {Seq: 0, ID: vault.NewBackupID(0, now, false)},
		"no id of a form": {Seq: 1, ID: "newest"},
		"another parent":  {Seq: 2, ID: vault.NewBackupID(2, now, false), Parent: vault.NewBackupID(1, now, false)},
	} {
		m.Instance = "i"
		if err := v.WriteManifest(t.Context(), m); err == nil {
			t.Errorf("%s: was written", name)
		}
	}
}
