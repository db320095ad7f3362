package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/obs"
)

// alias is a second name of a store.
type alias struct{ obs.Store }

func (alias) String() string { return "memory:alias" }

// TestCopyToItself: one store under two names is found out.
func TestCopyToItself(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		before := keysOf(t, s.from, "")
		_, err := Copy(t.Context(), s.from, alias{s.from}, s.options(keyed))
		if !errors.Is(err, ErrSameStore) {
			t.Errorf("copy to the same store: %v", err)
		}
		if after := keysOf(t, s.from, ""); !slices.Equal(before, after) {
			t.Errorf("the store has %d objects after it, %d before", len(after), len(before))
		}
		// A copy by other means has the same objects, and is no such store.
		mirror(t, s.from, s.to)
		s.mustCopy(t, s.options(keyed))
	})
}

// TestCopyOntoAnotherVault: a destination that holds another vault stays as it is.
func TestCopyOntoAnotherVault(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		for name, make := range map[string]func(t *testing.T, s *copySides){
			"of the same name": func(t *testing.T, s *copySides) {
				verifyVault(t, s.to, 2)
			},
			"of the same name, rekeyed": func(t *testing.T, s *copySides) {
				v := verifyVault(t, s.to, 2)
				if _, err := v.Rekey(t.Context(), s.id, Change{Add: []string{newRecipient(t)}}); err != nil {
					t.Fatal(err)
				}
			},
			"of the same name, without a header": func(t *testing.T, s *copySides) {
				v := verifyVault(t, s.to, 2)
				if err := s.to.Delete(t.Context(), firstHeaderKey(v.info.ID)); err != nil {
					t.Fatal(err)
				}
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := newCopySides(t, 2)
				make(t, s)
				before := keysOf(t, s.to, "")
				if _, err := Copy(t.Context(), s.from, s.to, s.options(keyed)); !errors.Is(err, ErrOtherVault) {
					t.Errorf("copy onto another vault: %v", err)
				}
				if after := keysOf(t, s.to, ""); !slices.Equal(before, after) {
					t.Errorf("the destination has %q after it, %q before", after, before)
				}
			})
		}
	})
}

func newRecipient(t *testing.T) string {
	t.Helper()
	id, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id.Recipient()
}

// TestCopyOfNothing: a source without a header is no vault, and nothing in the copy goes.
func TestCopyOfNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		s.mustCopy(t, s.options(keyed))
		if err := s.from.Delete(t.Context(), firstHeaderKey(s.v.info.ID)); err != nil {
			t.Fatal(err)
		}
		if _, err := Copy(t.Context(), s.from, s.to, s.options(keyed)); !errors.Is(err, ErrNoVault) {
			t.Errorf("copy of a vault without a header: %v", err)
		}
		if got := s.sound(t, s.to); got != 2 {
			t.Errorf("the copy has %d backups", got)
		}
	})
}

// TestCopyFollowsRekey: recipients that the source has removed do not open the copy.
func TestCopyFollowsRekey(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		s.mustCopy(t, s.options(keyed))
		next, err := GenerateIdentity()
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.v.Rekey(t.Context(), s.id, Change{Add: []string{next.Recipient()}, Remove: s.v.info.Recipients, LockOut: true})
		if err != nil {
			t.Fatal(err)
		}
		r := s.mustCopy(t, s.options(keyed))
		if r.Headers.Copied != 1 || r.Headers.Removed != 1 {
			t.Errorf("headers: %+v", r.Headers)
		}
		if _, err := Open(t.Context(), s.to, "verify", nil, s.id); !errors.Is(err, ErrWrongKey) {
			t.Errorf("a recipient that was removed opens the copy: %v", err)
		}
		s.id = next
		if got := s.sound(t, s.to); got != 2 {
			t.Errorf("the copy has %d backups", got)
		}
		// A header that is newer in the copy stays.
		v, err := Open(t.Context(), s.to, "verify", nil, next)
		if err == nil {
			_, err = v.Rekey(t.Context(), next, Change{Add: []string{newRecipient(t)}})
		}
		if err != nil {
			t.Fatal(err)
		}
		var warned []error
		o := s.options(keyed)
		o.Warn = func(err error) { warned = append(warned, err) }
		s.mustCopy(t, o)
		if v, err = Open(t.Context(), s.to, "verify", nil, next); err != nil || v.info.Generation != 3 || len(warned) != 1 {
			t.Errorf("the copy's own header: %v, warnings %v", err, warned)
		}
	})
}

// TestCopyRemovesWhatWasForgotten: a backup goes from the destination only
// if a copy has put it and the source has no more, and nothing else.
func TestCopyRemovesWhatWasForgotten(t *testing.T) {
	s := newCopySides(t, 8)
	backupOf(t, s.v, "old", 1, 500, 540)
	o := s.options(true)
	s.mustCopy(t, o)
	old, err := s.v.Backups(t.Context(), "old")
	if err != nil {
		t.Fatal(err)
	}
	collect(t, s.v, old[0])
	r := s.mustCopy(t, o)
	if r.Backups.Extra != 1 || r.Packs.Extra == 0 || r.Backups.Removed != 0 {
		t.Fatalf("a copy that removes nothing: %+v", r)
	}
	o.DeleteExtra = true

	// Somebody backs up into the copy: its backup and its packs stay.
	copied, err := Open(t.Context(), s.to, "verify", nil, s.id)
	if err != nil {
		t.Fatal(err)
	}
	backupOf(t, copied, "stray", 1, 800, 830)
	session, err := copied.BeginSession(t.Context(), SessionOptions{Host: "h"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(t.Context(), s.from, s.to, o); !errors.Is(err, ErrInUse) {
		t.Errorf("remove beside a writer: %v", err)
	}
	if err := session.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	var warned []error
	o.Warn = func(err error) { warned = append(warned, err) }
	r = s.mustCopy(t, o)
	if r.Backups.Removed != 1 || r.Packs.Removed == 0 || len(warned) != 1 {
		t.Errorf("removed: %+v, warnings %v", r, warned)
	}
	if got := s.sound(t, s.to); got != 9 {
		t.Errorf("the copy has %d backups, want 8 and the stray one", got)
	}

	// A pack that the source has lost stays, since a backup names it.
	lost := ownPack(t, s.v)
	if err := s.from.Delete(t.Context(), s.v.packKey(lost)); err != nil {
		t.Fatal(err)
	}
	warned = nil
	if _, err := Copy(t.Context(), s.from, s.to, o); err != nil || !strings.Contains(fmt.Sprint(warned), "has lost 1 packs") {
		t.Errorf("copy of a vault that lost a pack: %v, warnings %v", err, warned)
	}
	if got := s.sound(t, s.to); got != 9 {
		t.Errorf("the copy has %d backups", got)
	}
}

// TestCopyOfAnEmptiedVault: a copy does not follow a source that somebody emptied.
func TestCopyOfAnEmptiedVault(t *testing.T) {
	s := newCopySides(t, 6)
	o := s.options(true)
	s.mustCopy(t, o)
	refs, err := s.v.Backups(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs[:4] {
		collect(t, s.v, ref)
	}
	o.DeleteExtra = true
	if _, err := Copy(t.Context(), s.from, s.to, o); !errors.Is(err, ErrEmptied) {
		t.Fatalf("copy of an emptied vault: %v", err)
	}
	if got := s.sound(t, s.to); got != 6 {
		t.Fatalf("the copy has %d backups", got)
	}
	o.AllowEmptied = true
	s.mustCopy(t, o)
	if got := s.sound(t, s.to); got != 2 {
		t.Errorf("the copy has %d backups", got)
	}
	left, err := s.v.in(s.to).packRefs(t.Context())
	all, aerr := s.v.packRefs(t.Context())
	if err = errors.Join(err, aerr); err != nil || !slices.Equal(left, all) {
		t.Errorf("the copy has %d packs, the source %d, %v", len(left), len(all), err)
	}
}

// TestCopyRemovesAtAnyInstant kills a copy that removes at each change, and wants every
// backup of the destination to be whole.
func TestCopyRemovesAtAnyInstant(t *testing.T) {
	s := newCopySides(t, 6)
	o := s.options(true)
	s.mustCopy(t, o)
	refs, err := s.v.Backups(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	collect(t, s.v, refs[0])
	collect(t, s.v, refs[3])
	backupOf(t, s.v, "i0", 9, 700, 720)
	first := s.to
	o.DeleteExtra = true
	for n := 1; ; n++ {
		to := obs.NewMemory()
		mirror(t, first, to)
		_, err := Copy(t.Context(), s.from, &dying{Store: to, left: n, effect: n%2 == 0}, o)
		if err != nil && !errors.Is(err, errPowerCut) {
			t.Fatalf("killed at change %d: %v", n, err)
		}
		s.sound(t, to)
		s.to = to
		s.mustCopy(t, o)
		if got := s.sound(t, to); got != 5 {
			t.Fatalf("after the copy that was killed at change %d: %d backups", n, got)
		}
		if err == nil {
			return
		}
	}
}

// TestCopyRecords: the records of many copies become
// one record of the backups that are still there.
func TestCopyRecords(t *testing.T) {
	s := newCopySides(t, 1)
	o := s.options(true)
	for i := range recordsKept + 1 {
		backupOf(t, s.v, "many", i+1, 0, 5)
		s.mustCopy(t, o)
	}
	if n := len(keysOf(t, s.to, "/copied/")); n != recordsKept+1 {
		t.Fatalf("%d records", n)
	}
	o.DeleteExtra = true
	backupOf(t, s.v, "many", 100, 0, 5)
	s.mustCopy(t, o)
	if n := len(keysOf(t, s.to, "/copied/")); n != 1 {
		t.Errorf("%d records are left", n)
	}
	refs, err := s.v.Backups(t.Context(), "many")
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs[:10] {
		collect(t, s.v, ref)
	}
	r := s.mustCopy(t, o)
	if r.Backups.Removed != 10 {
		t.Errorf("removed %d backups by the record that is left, want 10", r.Backups.Removed)
	}
}

// TestCopyRefusesWithoutKey: an option that needs the manifests needs the key.
func TestCopyRefusesWithoutKey(t *testing.T) {
	s := newCopySides(t, 1)
	for name, o := range map[string]CopyOptions{
		"instance":              {ID: s.v.info.ID, Instance: "i0"},
		"delete extra":          {ID: s.v.info.ID, DeleteExtra: true},
		"instance and removing": {ID: s.v.info.ID, Vault: s.v, Instance: "i0", DeleteExtra: true},
		"no id":                 {ID: "verify"},
	} {
		if _, err := Copy(t.Context(), s.from, s.to, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if all := keysOf(t, s.to, ""); len(all) > 0 {
		t.Errorf("the destination has %q", all)
	}
}

// TestCopyDryRun changes nothing and counts the missing objects.
func TestCopyDryRun(t *testing.T) {
	s := newCopySides(t, 3)
	o := s.options(false)
	o.DryRun = true
	r := s.mustCopy(t, o)
	if r.Packs.Missing == 0 || r.Backups.Missing != 3 || r.Headers.Missing != 1 || r.Packs.Copied != 0 {
		t.Errorf("dry run: %+v", r)
	}
	if all := keysOf(t, s.to, ""); len(all) > 0 {
		t.Errorf("the destination has %q", all)
	}
}

func TestLocate(t *testing.T) {
	s := newCopySides(t, 1)
	vid := s.v.info.ID
	for _, name := range []string{"verify", vid} {
		if got, err := Locate(t.Context(), s.from, name, nil); err != nil || got != vid {
			t.Errorf("Locate(%s): %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"other", strings.Repeat("0", 32), ""} {
		if got, err := Locate(t.Context(), s.from, name, nil); !errors.Is(err, ErrNoVault) {
			t.Errorf("Locate(%q): %q, %v", name, got, err)
		}
	}
	// A vault whose name is the id of another one.
	if _, err := Create(t.Context(), s.from, vid, nil, nil, s.id); err != nil {
		t.Fatal(err)
	}
	if got, err := Locate(t.Context(), s.from, vid, nil); err == nil {
		t.Errorf("a name that fits two vaults is %s", got)
	}
	// A signpost or an object alone is a vault of which something stands.
	empty := obs.NewMemory()
	for _, key := range []string{signpostKey(vid), fmt.Sprintf("%s/packs/00/%032d", vid, 0)} {
		st := obs.NewMemory()
		if err := st.Put(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got, err := Locate(t.Context(), st, vid, nil); err != nil || got != vid {
			t.Errorf("%s alone: %q, %v", key, got, err)
		}
	}
	if _, err := Locate(t.Context(), empty, vid, nil); !errors.Is(err, ErrNoVault) {
		t.Errorf("an empty store: %v", err)
	}
}
