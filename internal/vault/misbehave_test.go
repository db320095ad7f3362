package vault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/obs/proxytest"
	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// getenv has credentials for servers that ask nobody.
func getenv(name string) string {
	if strings.HasSuffix(name, "_ID") || strings.HasSuffix(name, "_KEY") {
		return "somebody"
	}
	return ""
}

// atServer opens a store at a bucket behind what misbehaves.
func atServer(t *testing.T, b *proxytest.Bucket, m *proxytest.Misbehaviour) obs.Store {
	t.Helper()
	server := httptest.NewUnstartedServer(b)
	if m != nil {
		server.Config.Handler = m.Handler(b)
	}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	o := obs.Options{Getenv: getenv, Retry: &obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 6, MaxElapsed: time.Minute}}
	if m != nil && m.Late {
		o.Stall = 250 * time.Millisecond
	}
	st, err := obs.Open(t.Context(), "s3://"+proxytest.BucketName+"/v?region=r&endpoint="+server.URL, o)
	must(t, err)
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// TestNothingIsMadeOverAVault: with any answer of a server, an existing vault
// keeps its header, and an unreadable header does not count as a missing one.
func TestNothingIsMadeOverAVault(t *testing.T) {
	id := identity(t)
	for _, m := range proxytest.Misbehaviours() {
		t.Run(m.Name(), func(t *testing.T) {
			t.Parallel()
			b := proxytest.NewBucket()
			b.PageSize = 2
			sound, err := vault.Create(t.Context(), atServer(t, b, nil), "tenant", nil, nil, id)
			must(t, err)
			base := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			for i := range 5 {
				refs, err := sound.Backups(t.Context(), "i")
				must(t, err)
				seq, parent, err := sound.NextSeq("i", refs)
				must(t, err)
				if seq != uint64(i+1) {
					t.Fatalf("backup %d has number %d", i+1, seq)
				}
				id := vault.LineageOf(refs).NewID(seq, base, parent, false)
				must(t, sound.WriteManifest(t.Context(), &vault.Manifest{Instance: "i", Seq: seq, Parent: parent, ID: id, Created: base}))
			}
			header := "v/" + vault.ID("tenant", nil) + "/vault.json"
			before, _ := b.Object(header)
			st := atServer(t, b, &m)
			if _, err := vault.Create(t.Context(), st, "tenant", nil, nil, id); err == nil {
				t.Error("a vault was made where there is one")
			}
			if after, _ := b.Object(header); string(after) != string(before) {
				t.Fatal("the header of the vault was replaced")
			}
			found, err := vault.List(t.Context(), st, id)
			if err == nil && len(found) != 1 || m.Works && err != nil {
				t.Errorf("List found %d vaults, %v", len(found), err)
			}
			v, err := vault.Open(t.Context(), st, "tenant", nil, id)
			if errors.Is(err, vault.ErrNoVault) || errors.Is(err, vault.ErrWrongKey) || m.Works && err != nil {
				t.Errorf("Open: %v", err)
			}
			if err != nil {
				return
			}
			if refs, err := v.Backups(t.Context(), ""); err == nil && len(refs) != 5 || m.Works && err != nil {
				t.Errorf("%d backups, %v, want 5 or an error", len(refs), err)
			}
			if report, err := v.Verify(t.Context(), vault.VerifyOptions{}); err == nil && report.Backups+len(report.Damaged)+len(report.Unread) < 5 || m.Works && err != nil {
				t.Errorf("verified %d backups, %v, want 5 or an error", report.Backups, err)
			}
		})
	}
}

// blind is a store whose lists are empty.
type blind struct{ obs.Store }

func (blind) List(context.Context, string) iter.Seq2[obs.Info, error] {
	return func(func(obs.Info, error) bool) {}
}

// TestNothingIsMadeBesideObjects: objects below an id keep a vault
// from being made there, and so does a header that no list shows.
func TestNothingIsMadeBesideObjects(t *testing.T) {
	st, id := obs.NewMemory(), identity(t)
	vid := vault.ID("tenant", nil)
	must(t, st.Put(t.Context(), vid+"/packs/00/left", []byte("x")))
	if _, err := vault.Create(t.Context(), st, "tenant", nil, nil, id); !errors.Is(err, vault.ErrCorrupt) || !strings.Contains(err.Error(), "header is missing") {
		t.Errorf("Create beside a pack: %v", err)
	}
	if got := keys(t, st); len(got) != 1 {
		t.Errorf("Create left %q", got)
	}
	must(t, st.Delete(t.Context(), vid+"/packs/00/left"))
	_, err := vault.Create(t.Context(), st, "tenant", nil, nil, id)
	must(t, err)
	before := read(t, st, vid+"/vault.json")
	if _, err := vault.Create(t.Context(), blind{st}, "tenant", nil, nil, id); !errors.Is(err, vault.ErrVaultExists) {
		t.Errorf("Create where lists are empty: %v", err)
	}
	if string(read(t, st, vid+"/vault.json")) != string(before) {
		t.Error("the header was replaced")
	}
}

// TestTwoCreatorsWithoutCondition: on a server that ignores the
// condition, CreatesOnce says so, and vaults are made by plain puts.
func TestTwoCreatorsWithoutCondition(t *testing.T) {
	for _, m := range proxytest.Misbehaviours() {
		if m.Op != proxytest.OpPut || !strings.HasPrefix(m.Fault, "the condition is") {
			continue
		}
		b := proxytest.NewBucket()
		st := atServer(t, b, &m)
		once, err := vault.CreatesOnce(t.Context(), st, "tenant", nil)
		if err != nil || once || st.Capabilities().ConditionalPut || st.Capabilities().Proved.ConditionalPut != obs.Fails {
			t.Errorf("%s: CreatesOnce %v, %v, capabilities %+v", m.Fault, once, err, st.Capabilities())
		}
		if _, err := vault.Create(t.Context(), st, "tenant", nil, nil, identity(t)); err != nil {
			t.Errorf("%s: Create: %v", m.Fault, err)
		}
		if got := b.Keys(); len(got) != 2 { // signpost and header
			t.Errorf("%s: %q", m.Fault, got)
		}
	}
	st := atServer(t, proxytest.NewBucket(), nil)
	if once, err := vault.CreatesOnce(t.Context(), st, "tenant", nil); err != nil || !once || st.Capabilities().Proved.ConditionalPut != obs.Holds {
		t.Errorf("a sound server: CreatesOnce %v, %v, capabilities %+v", once, err, st.Capabilities())
	}
}

// TestABitThatFlipsOnItsWay: one damaged answer to any read is
// no damage of the object, and does not count as a wrong key.
func TestABitThatFlipsOnItsWay(t *testing.T) {
	inner, id := obs.NewMemory(), identity(t)
	v, err := vault.Create(t.Context(), inner, "tenant", nil, nil, id)
	must(t, err)
	packs := packsOf(t, v, 20, 3)
	_, m := func() (vault.BackupRef, *vault.Manifest) {
		m := &vault.Manifest{Instance: "i", Seq: 1, ID: vault.NewBackupID(1, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), false), Created: time.Now()}
		must(t, v.WriteManifest(t.Context(), m))
		return vault.BackupRef{}, m
	}()
	ref, err := v.Find(t.Context(), "i", m.ID)
	must(t, err)
	// everything reads each kind of object.
	everything := func(st obs.Store) error {
		v, err := vault.Open(t.Context(), st, "tenant", nil, id)
		if err != nil {
			return err
		}
		if _, err := v.Manifest(t.Context(), ref); err != nil {
			return err
		}
		for _, p := range packs {
			rows, _, err := v.PackTable(t.Context(), p.ID)
			if err != nil {
				return err
			}
			loc := vault.Loc{Pack: p.ID, Off: rows[0].Off, Len: rows[0].Len, Raw: rows[0].Raw}
			if _, err := v.ReadChunk(t.Context(), vault.Content, loc); err != nil {
				return err
			}
		}
		if _, err := v.Sample(t.Context(), packs, 23); err != nil {
			return err
		}
		_, err = v.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100})
		return err
	}
	f := obstest.NewFaulty(inner)
	must(t, everything(f))
	reads := f.Count(obstest.Read, "")
	for n := 1; n <= reads; n++ {
		for _, at := range []float64{0, 0.5, 0.999} {
			f := obstest.NewFaulty(inner)
			f.Inject(obstest.Fault{Op: obstest.Read, Nth: n, Times: 1, Corrupt: func(p []byte, _ int64) {
				if len(p) > 0 {
					p[int(at*float64(len(p)))] ^= 1
				}
			}})
			if err := everything(f); err != nil {
				t.Errorf("read %d of %d damaged at %v: %v", n, reads, at, err)
			}
		}
	}
	// An object that is damaged in the store stays damaged.
	f = obstest.NewFaulty(inner)
	f.Inject(obstest.Fault{Op: obstest.Read, Corrupt: func(p []byte, _ int64) {
		if len(p) > 0 {
			p[len(p)/2] ^= 1
		}
	}})
	if err := everything(f); !errors.Is(err, vault.ErrCorrupt) && !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("every read damaged: %v", err)
	}
}

// TestDamageOnTheWayIsTold: the observer hears of it.
func TestDamageOnTheWayIsTold(t *testing.T) {
	b, id := proxytest.NewBucket(), identity(t)
	v, err := vault.Create(t.Context(), atServer(t, b, nil), "tenant", nil, nil, id)
	must(t, err)
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	content := []byte("content")
	s, err := w.Add(v.Namer().Name(content), seal.Raw, content, len(content))
	must(t, err)
	_, err = w.Finish(t.Context())
	must(t, err)
	all := proxytest.Misbehaviours()
	i := slices.IndexFunc(all, func(m proxytest.Misbehaviour) bool { return m.Damages })
	server := httptest.NewServer(all[i].Handler(b))
	defer server.Close()
	var told []string
	st, err := obs.Open(t.Context(), "s3://"+proxytest.BucketName+"/v?region=r&endpoint="+server.URL, obs.Options{Getenv: getenv, Observe: func(e obs.Event) {
		if e.Err != nil {
			told = append(told, fmt.Sprint(obs.Kind(e.Err), " ", e.Key))
		}
	}})
	must(t, err)
	defer func() { _ = st.Close() }()
	opened, err := vault.Open(t.Context(), st, "tenant", nil, id)
	must(t, err)
	if _, err := opened.ReadChunk(t.Context(), vault.Content, s.Loc); err != nil {
		t.Error(err)
	}
	if want := []string{"damaged_on_way " + vault.ID("tenant", nil) + "/vault.json"}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
}
