package vault

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/vault/format"
)

// neighbour makes another vault in the store, and returns its keys.
func neighbour(t *testing.T, st obs.Store) (*Vault, []string) {
	t.Helper()
	id, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Create(t.Context(), st, "neighbour", nil, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	backupOf(t, v, "n", 1, 0, 3)
	return v, append(keysOf(t, st, v.info.ID+"/"), signpostKey(v.info.ID))
}

// gone wants nothing of the vault in the store, and all of its neighbour.
func gone(t *testing.T, st obs.Store, vid string, others []string) {
	t.Helper()
	if left := keysOf(t, st, vid); len(left) > 0 {
		t.Errorf("of the erased vault %q are left", left)
	}
	for _, key := range others {
		if _, err := st.Stat(t.Context(), key); err != nil {
			t.Errorf("of another vault: %v", err)
		}
	}
}

// TestErase: a vault goes whole, and the header first.
func TestErase(t *testing.T) {
	s := newCopySides(t, 4)
	_, others := neighbour(t, s.from)
	// An object of an unknown kind goes too.
	if err := s.from.Put(t.Context(), s.v.info.ID+"/unknown/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"claims", "looks", "decisions/i", "holds", "going", "condemned", "forgotten/i", "copied"} {
		mustDo(t, s.from.Put(t.Context(), s.v.info.ID+"/"+folder+"/x", []byte("x")))
	}
	header := digest(mustRead(t, s.from, firstHeaderKey(s.v.info.ID)))
	before := len(keysOf(t, s.from, s.v.info.ID)) - 1 // the signpost is not below the vault
	seen := obstest.NewFaulty(s.from)
	e, err := Erase(t.Context(), seen, EraseOptions{ID: s.v.info.ID})
	if err != nil || !e.Complete || !e.HeadersGone {
		t.Fatalf("erase: %+v, %v", e, err)
	}
	if len(e.Headers) != 1 || e.Headers[0].SHA256 != header || e.Found.Objects != before || e.Removed["packs"].Objects == 0 || len(e.EmptyLists) != 1 || e.Runs != 1 {
		t.Errorf("report: %+v", e)
	}
	gone(t, s.from, s.v.info.ID, others)
	var deleted []string
	for _, c := range seen.Calls() {
		if c.Op == obstest.Delete {
			deleted = append(deleted, c.Key)
		}
	}
	if len(deleted) < 2 || deleted[0] != firstHeaderKey(s.v.info.ID) || deleted[1] != signpostKey(s.v.info.ID) {
		t.Errorf("deleted in this order: %q", deleted)
	}
	if _, err := Erase(t.Context(), s.from, EraseOptions{ID: s.v.info.ID}); !errors.Is(err, ErrNoVault) {
		t.Errorf("erase again: %v", err)
	}
	// The name is free again.
	if _, err := Create(t.Context(), s.from, "verify", nil, nil, s.id); err != nil {
		t.Errorf("create anew: %v", err)
	}
}

func mustRead(t *testing.T, st obs.Store, key string) []byte {
	t.Helper()
	raw, err := readAll(t.Context(), st, key, format.MaxPack)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestEraseKilledAtAnyInstant: a run that was killed leaves a vault, or one
// that nobody opens; the next run ends the work and still knows the header.
func TestEraseKilledAtAnyInstant(t *testing.T) {
	s := newCopySides(t, 2)
	if _, err := s.v.Rekey(t.Context(), s.id, Change{Add: []string{newRecipient(t)}}); err != nil {
		t.Fatal(err)
	}
	refs, err := headersOf(t.Context(), s.from, s.v.info.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := digest(mustRead(t, s.from, refs[0].key))
	for n := 1; ; n++ {
		st := obs.NewMemory()
		mirror(t, s.from, st)
		_, err := Erase(t.Context(), &dying{Store: st, left: n, effect: n%2 == 0}, EraseOptions{ID: s.v.info.ID})
		if err != nil && !errors.Is(err, errPowerCut) {
			t.Fatalf("killed at change %d: %v", n, err)
		}
		if got := s.sound(t, st); got != -1 && got != 2 {
			t.Errorf("killed at change %d: a vault of %d backups is left", n, got)
		}
		if err == nil {
			return
		}
		if len(keysOf(t, st, s.v.info.ID)) == 0 {
			continue // the kill came after all the work
		}
		e, err := Erase(t.Context(), st, EraseOptions{ID: s.v.info.ID})
		if err != nil || !e.Complete {
			t.Fatalf("erase after the run that was killed at change %d: %+v, %v", n, e, err)
		}
		// A power cut that took the record itself came before any header went.
		if len(e.Headers) != 1 || e.Headers[0].SHA256 != want {
			t.Errorf("after the run that was killed at change %d the headers are %v", n, e.Headers)
		}
		gone(t, st, s.v.info.ID, nil)
	}
}

// TestEraseBesideEndedSessions: without the key too, a session that its process has ended by a mark
// is no work under way, and a session that stands is one.
func TestEraseBesideEndedSessions(t *testing.T) {
	s := newCopySides(t, 2)
	var sessions []*Session
	for range 2 {
		session, err := s.v.BeginSession(t.Context(), SessionOptions{Host: "h"})
		mustDo(t, err)
		sessions = append(sessions, session)
	}
	end := func(id string) {
		mustDo(t, s.from.Put(t.Context(), s.v.sessionsPrefix()+id+endedSuffix, []byte(endedMark)))
	}
	o := EraseOptions{ID: s.v.info.ID, DryRun: true}
	end(sessions[0].id)
	var used *InUseError
	if _, err := Erase(t.Context(), s.from, o); !errors.As(err, &used) || used.Unknown != 1 {
		t.Errorf("beside one session: %v", err)
	}
	end(sessions[1].id)
	if _, err := Erase(t.Context(), s.from, o); err != nil {
		t.Errorf("beside ended sessions: %v", err)
	}
}

// TestEraseBesideSessions: sessions are named, and stop an erasing that was not told to go on.
func TestEraseBesideSessions(t *testing.T) {
	s := newCopySides(t, 2)
	session, err := s.v.BeginSession(t.Context(), SessionOptions{Host: "host-7", Instance: "cp-3"})
	if err != nil {
		t.Fatal(err)
	}
	// Sessions of readers and of prunes count too, and the message tells which is which.
	others := map[int]string{kindReader: "reader of i/1 on host host-8", kindCollector: "prune on host host-9"}
	for kind, text := range others {
		o := SessionOptions{Host: text[len(text)-len("host-8"):]}
		if kind == kindReader {
			o.Instance = "i/1"
		}
		other, err := s.v.putSession(t.Context(), kind, o, observe(o).process)
		mustDo(t, err)
		_, err = Erase(t.Context(), s.from, EraseOptions{ID: s.v.info.ID, Vault: s.v})
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), text) {
			t.Errorf("erase beside a session of kind %d: %v", kind, err)
		}
		mustDo(t, other.End(t.Context()))
	}
	before := keysOf(t, s.from, "")
	_, err = Erase(t.Context(), s.from, EraseOptions{ID: s.v.info.ID, Vault: s.v})
	var used *InUseError
	if !errors.As(err, &used) || !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "backup of cp-3 on host host-7, session begun") {
		t.Errorf("erase beside a writer, with the key: %v", err)
	}
	_, err = Erase(t.Context(), s.from, EraseOptions{ID: s.v.info.ID})
	if !errors.As(err, &used) || used.Unknown != 1 {
		t.Errorf("erase beside a writer, without the key: %v", err)
	}
	if after := keysOf(t, s.from, ""); len(after) != len(before) {
		t.Errorf("%d objects are left of %d", len(after), len(before))
	}
	e, err := Erase(t.Context(), s.from, EraseOptions{ID: s.v.info.ID, DespiteSessions: true})
	if err != nil || !e.Complete || e.Removed["sessions"].Objects != 1 {
		t.Fatalf("erase despite a writer: %+v, %v", e, err)
	}
	// The writer finds out, and its backup is none.
	m := &Manifest{Instance: "cp-3", Seq: 9, ID: NewBackupID(9, time.Now(), false)}
	if err := session.WriteManifest(t.Context(), m); err == nil {
		t.Error("the writer made a backup in a vault that was erased")
	}
	if left := keysOf(t, s.from, "/backups/"); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// TestEraseOfLatePuts: objects that come between the rounds go too.
func TestEraseOfLatePuts(t *testing.T) {
	s := newCopySides(t, 2)
	late := &afterList{Store: s.from, prefix: signpostKey(s.v.info.ID), times: 2, do: func() {
		if err := s.from.Put(t.Context(), s.v.packKey(PackID{1}), []byte("late")); err != nil {
			t.Error(err)
		}
	}}
	e, err := Erase(t.Context(), late, EraseOptions{ID: s.v.info.ID, Settle: time.Nanosecond})
	if err != nil || !e.Complete || len(e.EmptyLists) != 2 {
		t.Errorf("erase: %+v, %v", e, err)
	}
	gone(t, s.from, s.v.info.ID, nil)

	// A writer that never ends is told.
	s = newCopySides(t, 1)
	late = &afterList{Store: s.from, prefix: s.v.info.ID + "/", times: 1 << 20, do: func() {
		if err := s.from.Put(t.Context(), s.v.packKey(PackID{1}), []byte("late")); err != nil {
			t.Error(err)
		}
	}}
	if _, err := Erase(t.Context(), late, EraseOptions{ID: s.v.info.ID}); err == nil || !strings.Contains(err.Error(), "somebody goes on writing") {
		t.Errorf("erase beside a writer that does not end: %v", err)
	}
}

// TestEraseOfLockedObjects: locked objects are skipped and
// counted, the header goes, and a later run removes the rest.
func TestEraseOfLockedObjects(t *testing.T) {
	locked := obs.NewLockedMemory(time.Hour, Retention)
	s := newCopySides(t, 2)
	s.to = locked
	s.mustCopy(t, s.options(false))
	e, err := Erase(t.Context(), locked, EraseOptions{ID: s.v.info.ID})
	if err != nil || e.Complete || !e.HeadersGone {
		t.Fatalf("erase: %+v, %v", e, err)
	}
	packs, manifests := keysOf(t, locked, "/packs/"), keysOf(t, locked, "/backups/")
	if e.Kept.Objects != len(packs)+len(manifests) || e.Kept.Objects == 0 || e.KeptUntil.IsZero() || e.KeptReason == "" {
		t.Errorf("%d packs and %d manifests are left: %+v", len(packs), len(manifests), e)
	}
	if got := s.sound(t, locked); got != -1 {
		t.Errorf("the vault still opens and has %d backups", got)
	}
	// As when the locks have ended.
	free := obs.NewMemory()
	mirror(t, locked, free)
	e, err = Erase(t.Context(), free, EraseOptions{ID: s.v.info.ID})
	if err != nil || !e.Complete || e.Runs != 2 || len(e.Headers) != 1 {
		t.Errorf("erase the rest: %+v, %v", e, err)
	}
	gone(t, free, s.v.info.ID, nil)
}

// TestEraseWithoutTheRightToDelete: where the header can't be deleted, nothing else is.
func TestEraseWithoutTheRightToDelete(t *testing.T) {
	s := newCopySides(t, 2)
	refusing := obstest.NewFaulty(s.from)
	refusing.Inject(obstest.Fault{Op: obstest.Delete, Err: obs.ErrAccess})
	packs := len(keysOf(t, s.from, "/packs/"))
	if _, err := Erase(t.Context(), refusing, EraseOptions{ID: s.v.info.ID}); err == nil || !strings.Contains(err.Error(), "does not let its header go") {
		t.Errorf("erase: %v", err)
	}
	if left := len(keysOf(t, s.from, "/packs/")); left != packs {
		t.Errorf("%d packs of %d are left", left, packs)
	}
	if got := s.sound(t, s.from); got != 2 {
		t.Errorf("the vault has %d backups", got)
	}
}

// TestEraseInAFullStore: the record does not fit, and the vault goes all the same.
func TestEraseInAFullStore(t *testing.T) {
	s := newCopySides(t, 1)
	full := obstest.NewFaulty(s.from)
	full.Inject(obstest.Fault{Op: obstest.Put, Err: obs.ErrNoSpace})
	warned := 0
	e, err := Erase(t.Context(), full, EraseOptions{ID: s.v.info.ID, Warn: func(error) { warned++ }})
	if err != nil || !e.Complete || warned != 1 {
		t.Errorf("erase: %+v, %v, %d warnings", e, err, warned)
	}
	gone(t, s.from, s.v.info.ID, nil)
}

// TestEraseDryRun counts and changes nothing.
func TestEraseDryRun(t *testing.T) {
	s := newCopySides(t, 2)
	before := keysOf(t, s.from, "")
	e, err := Erase(t.Context(), s.from, EraseOptions{ID: s.v.info.ID, DryRun: true})
	if err != nil || e.Found.Objects != len(before)-1 || e.Complete {
		t.Errorf("dry run: %+v, %v", e, err)
	}
	if after := keysOf(t, s.from, ""); len(after) != len(before) {
		t.Errorf("%d objects are left of %d", len(after), len(before))
	}
	for _, id := range []string{"verify", strings.Repeat("0", 32)} {
		if _, err := Erase(t.Context(), s.from, EraseOptions{ID: id}); err == nil {
			t.Errorf("erase %q: no error", id)
		}
	}
}

// TestEraseStopsWhenTold: an end of the context is no finding about objects.
func TestEraseStopsWhenTold(t *testing.T) {
	s := newCopySides(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	stopping := &afterList{Store: s.from, prefix: s.v.info.ID + "/sessions/", times: 1, do: cancel}
	e, err := Erase(ctx, stopping, EraseOptions{ID: s.v.info.ID, DespiteSessions: true})
	if !errors.Is(err, context.Canceled) || e.Kept.Objects > 0 || e.Complete {
		t.Errorf("erase: %+v, %v", e, err)
	}
	if e, err := Erase(t.Context(), s.from, EraseOptions{ID: s.v.info.ID}); err != nil || !e.Complete {
		t.Errorf("erase again: %+v, %v", e, err)
	}
}
