package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/vault"
)

// wholeObject reads an object of a test.
func wholeObject(t testing.TB, st obs.Store, key string) []byte {
	t.Helper()
	info, err := st.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size)
	if _, err := st.ReadAt(t.Context(), key, b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

// packKeys lists the keys of the packs of a store.
func packKeys(t testing.TB, st obs.Store) (keys []string) {
	t.Helper()
	for in, err := range st.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(in.Key, "/packs/") {
			keys = append(keys, in.Key)
		}
	}
	return keys
}

// change puts other bytes in the place of an object; nil takes it away.
func change(t testing.TB, st obs.Store, key string, to func([]byte) []byte) {
	t.Helper()
	b := to(wholeObject(t, st, key))
	err := st.Delete(t.Context(), key)
	if err == nil && b != nil {
		err = st.Put(t.Context(), key, b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// coldStore says that objects are in an archive class: they are
// there, and nothing can be read of them.
type coldStore struct {
	obs.Store
	cold map[string]bool
}

func (s *coldStore) Stat(ctx context.Context, key string) (obs.Info, error) {
	in, err := s.Store.Stat(ctx, key)
	if s.cold[key] {
		in.Cold, in.Class = true, "GLACIER"
	}
	return in, err
}

func (s *coldStore) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if s.cold[key] {
		return 0, fmt.Errorf("read %s: %w", key, obs.ErrCold)
	}
	return s.Store.ReadAt(ctx, key, p, off)
}

// TestReusedPackThatCantBeUsed: whichever damage the packs of the vault
// have, a backup that finds its content in them stores it anew, raises
// the alarm, and can be restored; the next backup finds no fault.
func TestReusedPackThatCantBeUsed(t *testing.T) {
	for name, harm := range map[string]func(b []byte) []byte{
		"gone":        func([]byte) []byte { return nil },
		"empty":       func([]byte) []byte { return []byte{} },
		"half":        func(b []byte) []byte { return b[:len(b)/2] },
		"a byte less": func(b []byte) []byte { return b[:len(b)-1] },
		"a byte more": func(b []byte) []byte { return append(b, 0) },
		"rotten":      func(b []byte) []byte { return append(bytes.Repeat([]byte{7}, len(b)-50000), b[len(b)-50000:]...) },
		"other end":   func(b []byte) []byte { return append(b[:len(b)-1], b[len(b)-1]^1) },
		"cold":        nil,
	} {
		for _, how := range []string{"read whole", "by the catalogue", "without index on disk"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				st := &coldStore{Store: obs.NewMemory(), cold: map[string]bool{}}
				v := newVault(t, st)
				dir, state := t.TempDir(), t.TempDir()
				want := makeTree(t, dir, 30, 20, 4)
				var told []vault.LostPack
				o := backup.Options{
					Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour,
					Damaged: func(p vault.LostPack) { told = append(told, p) },
				}
				if how != "without index on disk" {
					o.IndexDir = filepath.Join(state, "index")
				}
				if how == "by the catalogue" {
					o.CatalogueDir = filepath.Join(state, "catalogues")
				}
				if _, err := backup.Run(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				harmed := packKeys(t, st)[0]
				if harm == nil {
					st.cold[harmed] = true
				} else {
					change(t, st, harmed, harm)
				}
				for i := range 3 {
					res, err := backup.Run(t.Context(), o)
					if err != nil {
						t.Fatal(err)
					}
					compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
					// Rot within a pack is found when the sample falls on
					// it, which with so few packs is at once.
					if first := i == 0; len(res.Damaged) > 0 != first || len(told) != 1 || res.WarningCount > 0 != first {
						t.Errorf("backup %d: damaged %v, told %v, warnings %v", i, res.Damaged, told, res.Warnings)
					}
					report, err := v.Verify(t.Context(), vault.VerifyOptions{Instance: "i", Backup: res.BackupID, ReadDataPercent: 100})
					if err != nil || report.Findings() > 0 {
						t.Errorf("backup %d: verify %+v, %v", i, report, err)
					}
				}
				if told[0].Object != harmed || told[0].Reason == "" {
					t.Errorf("told %v, want %s", told, harmed)
				}
				// The other readers of the vault agree.
				if report, err := v.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100}); err != nil || len(report.Damaged) != 1 || report.Damaged[0].Object != harmed {
					t.Errorf("verify of all: %+v, %v", report, err)
				}
				if name == "rotten" { // its table is sound, and no other is read
					return
				}
				if _, err := v.RebuildIndex(t.Context(), vault.SessionOptions{Host: "h"}); err != nil {
					t.Fatal(err)
				}
				res, err := backup.Run(t.Context(), o)
				if err != nil || len(res.Damaged) > 0 || res.BytesNew > 0 {
					t.Errorf("after the index was made anew: %+v, %v", res, err)
				}
			})
		}
	}
}

// TestStoreThatKeepsOtherBytes: a store that confirms a pack and gives back something else
// is found out before there is a manifest. Is it so once, the content is stored again;
// does it stay so, the backup fails, and no later one takes those packs for content.
func TestStoreThatKeepsOtherBytes(t *testing.T) {
	for _, times := range []int{1, 1000} {
		mem := obs.NewMemory()
		liar := &rottenPuts{Store: mem, left: times}
		calm, lied := twoViews(t, mem, liar)
		dir := t.TempDir()
		want := makeTree(t, dir, 31, 20, 0)
		o := backup.Options{Vault: lied, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, IndexDir: t.TempDir()}
		res, err := backup.Run(t.Context(), o)
		if times == 1 {
			if err != nil || len(res.Damaged) != 1 {
				t.Fatalf("once: %+v, %v", res, err)
			}
		} else {
			if !errors.Is(err, vault.ErrCorrupt) || !strings.Contains(err.Error(), "does not give back what it confirmed") {
				t.Fatalf("always: %v", err)
			}
			o.Vault = calm
			if res, err = backup.Run(t.Context(), o); err != nil || len(res.Damaged) > 0 || res.BytesNew == 0 {
				t.Fatalf("afterwards: %+v, %v", res, err)
			}
		}
		compare(t, contents(t, calm, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
		if report, err := calm.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100}); err != nil || report.Findings() > 0 {
			t.Errorf("verify: %+v, %v", report, err)
		}
	}
}

// rottenPuts changes the chunks of packs that are put.
type rottenPuts struct {
	obs.Store
	left int
}

func (s *rottenPuts) Put(ctx context.Context, key string, body []byte) error {
	if strings.Contains(key, "/packs/") && s.left > 0 {
		s.left--
		body = bytes.Clone(body)
		for i := 8; i < len(body)-20000; i++ {
			body[i] ^= 1
		}
	}
	return s.Store.Put(ctx, key, body)
}

// TestBytesThatChangeOnTheWay: what opens when it is read once more is no damage.
func TestBytesThatChangeOnTheWay(t *testing.T) {
	st := obstest.NewFaulty(obs.NewMemory())
	v := newVault(t, st)
	dir := t.TempDir()
	makeTree(t, dir, 32, 20, 0)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Workers: 1}
	for i := range 2 {
		st.Heal()
		st.Inject(obstest.Fault{
			Op: obstest.Read, Times: 1, Key: func(key string) bool { return strings.Contains(key, "/packs/") },
			Corrupt: func(p []byte, _ int64) { p[len(p)/2] ^= 1 },
		})
		res, err := backup.Run(t.Context(), o)
		if err != nil || len(res.Damaged) > 0 || res.WarningCount > 0 {
			t.Errorf("backup %d: %+v, %v", i, res, err)
		}
	}
}

// TestCheckOfRottenContent: the comparison of a file with the vault
// does not take content that does not open for a change of the file.
func TestCheckOfRottenContent(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := map[string][]byte{}
	for i := range 40 { // several to a chunk, so that their names tell nothing
		name := fmt.Sprint("f", i)
		want[name] = bytes.Repeat([]byte{byte(i)}, 700+i)
		if err := os.WriteFile(filepath.Join(dir, name), want[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Now: inAnHour, CatalogueDir: t.TempDir(),
	}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	change(t, st, packKeys(t, st)[0], func(b []byte) []byte { b[30] ^= 1; return b })
	var told []vault.LostPack
	o.Damaged = func(p vault.LostPack) { told = append(told, p) }
	res, err := backup.Run(t.Context(), o)
	if err != nil || len(res.Damaged) != 1 || len(told) != 1 || len(res.Drifts) > 0 {
		t.Fatalf("%+v, %v; told %v", res, err, told)
	}
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
}

// TestSampleTakesTurns: with few chunks a backup, all packs of a vault are
// read back within as many backups as it takes, and none twice before.
func TestSampleTakesTurns(t *testing.T) {
	st := obstest.NewFaulty(obs.NewMemory())
	v := newVault(t, st)
	dir := t.TempDir()
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, IndexDir: t.TempDir(), Sample: -1}
	for i := range 10 {
		// too large to share chunks with others
		fill(t, filepath.Join(dir, fmt.Sprint(i)), 0, 600<<10, uint64(40+i))
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	packs := packKeys(t, st)
	o.Sample = 2
	seen := map[string]int{}
	before := len(st.Calls())
	for range 5 {
		res, err := backup.Run(t.Context(), o)
		if err != nil || res.Sampled != 2 || res.SampledReused != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	for _, c := range st.Calls()[before:] {
		if c.Op == obstest.Read && strings.Contains(c.Key, "/packs/") {
			seen[c.Key]++
		}
	}
	if len(packs) != 10 || len(seen) != 10 {
		t.Errorf("%d of %d packs were read back: %v", len(seen), len(packs), seen)
	}
}

// TestReadsThatAreDenied: a pack that these credentials may not read, of a key that was
// disabled, say, can't be used; when they may read nothing, the backup fails with that.
func TestReadsThatAreDenied(t *testing.T) {
	st := obstest.NewFaulty(obs.NewMemory())
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 33, 20, 0)
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, IndexDir: t.TempDir()}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	denied := packKeys(t, st)[0]
	st.Inject(obstest.Fault{Op: obstest.Read, Key: func(key string) bool { return key == denied }, Err: fmt.Errorf("its key is disabled: %w", obs.ErrAccess)})
	res, err := backup.Run(t.Context(), o)
	if err != nil || len(res.Damaged) != 1 || res.Damaged[0].Object != denied {
		t.Fatalf("%+v, %v", res, err)
	}
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
	st.Inject(obstest.Fault{Op: obstest.Read, Key: func(key string) bool { return strings.Contains(key, "/packs/") }, Err: obs.ErrAccess})
	if err := os.WriteFile(filepath.Join(dir, "more"), []byte("of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Run(t.Context(), o); !errors.Is(err, obs.ErrAccess) || !strings.Contains(err.Error(), "read back") {
		t.Errorf("without the right to read: %v", err)
	}
}
