package vault

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
)

// backups makes so many backups, each with a pack of its own and a pack that all share.
func (p *scene) backups(n int) (all []*Manifest) {
	p.Helper()
	shared := p.pack()
	for range n {
		s := p.begin(p.v)
		m := p.manifest(shared, p.pack())
		p.must(s.WriteManifest(p.Context(), m))
		p.must(s.End(p.Context()))
		all = append(all, m)
	}
	return all
}

func (p *scene) forget(all ...*Manifest) {
	p.Helper()
	var refs []BackupRef
	for _, m := range all {
		refs = append(refs, referTo(m))
	}
	p.must(p.v.ForgetBackups(p.Context(), "h", "test", refs))
}

// TestPrune: forgotten backups whose grace is over go, with the packs that only they named. The
// newest backup stays, and so does each backup with a hold or a reader.
func TestPrune(t *testing.T) {
	p := newScene(t)
	all := p.backups(5)
	p.forget(all...)
	o := pruneNow()
	o.Grace = time.Hour
	r, err := p.v.Prune(t.Context(), o)
	if err != nil || r.Forgotten != 0 || r.Due != 0 || r.Deleted != 0 {
		t.Errorf("within the grace: %+v, %v", r, err)
	}
	hold, err := p.v.Hold(t.Context(), SessionOptions{Host: "h"}, referTo(all[1]), "court", time.Time{})
	p.must(err)
	_, err = p.v.Hold(t.Context(), SessionOptions{Host: "h"}, referTo(all[3]), "is over", time.Now().Add(-time.Hour))
	p.must(err)
	reader, err := p.v.BeginReading(t.Context(), SessionOptions{Host: "reader"}, fullName(referTo(all[2])))
	p.must(err)
	before := p.left("packs", "backups", "forgotten", "going", "condemned", "sessions")
	o = pruneNow()
	o.DryRun = true
	r, err = p.v.Prune(t.Context(), o)
	if err != nil || r.Forgotten != 2 || r.Garbage != 2 {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	if now := p.left("packs", "backups", "forgotten", "going", "condemned", "sessions"); !slices.Equal(now, before) {
		t.Errorf("a dry run changed %q to %q", before, now)
	}
	r = p.prune()
	if r.Forgotten != 2 || r.Deleted != 2 || r.DeletedBytes != 400 || len(r.Kept) != 3 {
		t.Errorf("prune: %+v", r)
	}
	for i, want := range []bool{false, true, true, false, true} {
		if p.there(all[i]) != want || p.has(all[i].Packs[1]) != want {
			t.Errorf("backup %d is there: %v, want %v", i, p.there(all[i]), want)
		}
	}
	p.must(reader.End(t.Context()))
	p.must(p.v.Unhold(t.Context(), hold.ID))
	if r = p.prune(); r.Forgotten != 2 || r.Deleted != 2 || !p.there(all[4]) {
		t.Errorf("without hold and reader: %+v", r)
	}
	if left := p.left("forgotten", "going", "condemned", "sessions"); len(left) != 1 { // the mark of the newest
		t.Errorf("left: %q", left)
	}
	holds, err := p.v.Holds(t.Context())
	if err != nil || len(holds) != 1 || holds[0].Reason != "is over" {
		t.Errorf("holds: %+v, %v", holds, err)
	}
}

// TestSaveAgainstPrune: a prune sees a hold that was put before the prune announced the
// backup, and a hold that comes later fails and is taken back. Bringing back is the same.
func TestSaveAgainstPrune(t *testing.T) {
	o := SessionOptions{Host: "h"}
	for name, save := range map[string]func(*scene, *Vault, BackupRef) error{
		"hold": func(p *scene, v *Vault, ref BackupRef) error {
			_, err := v.Hold(p.Context(), o, ref, "court", time.Time{})
			return err
		},
		"unforget": func(p *scene, v *Vault, ref BackupRef) error { return v.Unforget(p.Context(), o, ref) },
	} {
		t.Run(name+" before", func(t *testing.T) {
			p := newScene(t)
			all := p.backups(2)
			p.forget(all[0])
			c := p.newPrune()
			p.steps(c, "announces the backups to delete")
			p.must(save(p, p.v, referTo(all[0])))
			p.must(c.run(t.Context()))
			if !p.there(all[0]) {
				t.Error("it is deleted")
			}
		})
		t.Run(name+" while the prune looks", func(t *testing.T) { // it has put its session, and the prune waits
			p := newScene(t)
			all := p.backups(2)
			p.forget(all[0])
			c := p.newPrune()
			c.o.Wait, c.o.Poll = 1, 1
			var waits *WaitsError
			p.st.once("list", "going", func() error {
				if err := c.run(t.Context()); !errors.As(err, &waits) {
					t.Errorf("the prune says %v", err)
				}
				return nil
			})
			p.must(save(p, p.paused, referTo(all[0])))
			if p.prune(); !p.there(all[0]) {
				t.Error("it is deleted")
			}
		})
		t.Run(name+" too late", func(t *testing.T) {
			p := newScene(t)
			all := p.backups(2)
			p.forget(all[0])
			c := p.newPrune()
			p.steps(c, "lists the packs")
			if err := save(p, p.v, referTo(all[0])); !errors.Is(err, ErrTooLate) {
				t.Errorf("says %v", err)
			}
			p.must(c.run(t.Context()))
			if p.there(all[0]) || len(p.left("holds", "forgotten", "going")) > 0 {
				t.Errorf("it is there: %v; left: %q", p.there(all[0]), p.left("holds", "forgotten", "going"))
			}
		})
		t.Run(name+" whose session was removed", func(t *testing.T) {
			p := newScene(t)
			all := p.backups(2)
			p.forget(all[0])
			p.st.once("list", "going", func() error { return p.v.st.Delete(t.Context(), p.left("sessions")...) })
			if err := save(p, p.paused, referTo(all[0])); !errors.Is(err, ErrSessionGone) {
				t.Errorf("says %v", err)
			}
		})
	}
}

// TestPruneGoesOn: a prune that ends at any request, with or without a chance to
// take its announcements back, loses nothing, and the next one leaves no garbage.
func TestPruneGoesOn(t *testing.T) {
	for name, dies := range map[string]bool{"the store is gone": false, "the process dies": true} {
		ended := false
		for at := 1; !ended; at++ {
			p := newScene(t)
			all := p.backups(3)
			p.forget(all[0], all[1])
			n := 0
			p.st.before = func(string, string) error {
				if n++; n == at || n > at && dies {
					return obs.ErrAccess
				}
				return nil
			}
			_, err := p.paused.Prune(t.Context(), pruneNow())
			ended = n < at
			if ended && err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if dies {
				for _, key := range p.left("sessions") {
					running.Delete(key[strings.LastIndexByte(key, '/')+1:])
				}
			}
			p.st.before = nil
			s := p.begin(p.paused) // removes the session of the dead prune
			p.must(s.End(t.Context()))
			p.prune()
			if p.there(all[0]) || !p.there(all[2]) || !p.has(all[2].Packs[0]) || !p.has(all[2].Packs[1]) {
				t.Errorf("%s at request %d: the backups are not as they should be", name, at)
			}
			if left := p.left("packs"); len(left) != 2 {
				t.Errorf("%s at request %d: packs %q are left", name, at, left)
			}
			if left := p.left("condemned", "going", "forgotten", "sessions"); len(left) > 0 {
				t.Errorf("%s at request %d: left: %q", name, at, left)
			}
		}
	}
}

// TestPruneWaits: a prune waits for a backup under way, names the backup, and gives up cleanly.
func TestPruneWaits(t *testing.T) {
	p := newScene(t)
	all := p.backups(2)
	p.forget(all[0])
	s, err := p.v.BeginSession(t.Context(), SessionOptions{Host: "h7", Instance: "cp-3"})
	p.must(err)
	pack := p.pack()
	var told []SessionInfo
	o := pruneNow()
	o.Waits = func(all []SessionInfo) { told = all }
	_, err = p.v.Prune(t.Context(), o)
	var waits *WaitsError
	if !errors.As(err, &waits) || !strings.Contains(err.Error(), "backup of cp-3 on host h7, session begun 2") {
		t.Errorf("the prune says %v", err)
	}
	if len(told) != 1 || told[0].Instance != "cp-3" {
		t.Errorf("told %v", told)
	}
	if left := p.left("condemned", "going"); len(left) > 0 || !p.there(all[0]) || len(p.left("sessions")) != 1 {
		t.Errorf("left: %q", left)
	}
	m := p.manifest(pack)
	p.must(s.WriteManifest(t.Context(), m))
	p.must(s.End(t.Context()))
	if r := p.prune(); r.Forgotten != 1 || !p.has(pack) {
		t.Errorf("after the backup: %+v", r)
	}
}

// TestPruneRefused: a pack that the store does not delete stays condemned, so no backup uses the
// pack, and the next prune tries again.
func TestPruneRefused(t *testing.T) {
	p := newScene(t)
	p.backups(1)
	garbage := []PackRef{p.pack(), p.pack()}
	p.st.before = func(op, key string) error {
		if op == "delete" && strings.HasSuffix(key, garbage[0].ID.String()) {
			return obs.ErrAccess
		}
		return nil
	}
	r, err := p.paused.Prune(t.Context(), pruneNow())
	if err != nil || r.Deleted != 1 || len(r.Refused) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	s := p.begin(p.v)
	if !slices.Contains(s.Condemned(), garbage[0].ID) {
		t.Error("a pack that the store refused to delete is not condemned")
	}
	p.must(s.End(t.Context()))
	p.st.before = nil
	if r = p.prune(); r.Deleted != 1 || len(p.left("condemned")) != 0 {
		t.Errorf("%+v, condemned: %q", r, p.left("condemned"))
	}
}

// TestPruneFailsClosed: an object that does not open ends the prune before it deletes a pack.
func TestPruneFailsClosed(t *testing.T) {
	junk := strings.Repeat("1", 32)
	for folder, name := range map[string]string{
		"backups": "i/" + NewBackupID(9, time.Now(), false), "holds": junk, "condemned": junk,
	} {
		p := newScene(t)
		all := p.backups(2)
		p.forget(all[0])
		p.pack()
		before := p.left("packs", "forgotten")
		p.must(p.v.st.Put(t.Context(), p.v.info.ID+"/"+folder+"/"+name, []byte("junk")))
		_, err := p.v.Prune(t.Context(), pruneNow())
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", folder, err)
		}
		if now := p.left("packs"); len(now) != 4 {
			t.Errorf("%s: packs %q of %q are left", folder, now, before)
		}
		if folder == "holds" && !p.there(all[0]) {
			t.Errorf("%s: a backup is deleted", folder)
		}
	}
	// A mark that does not open marks nothing, and stops nothing.
	p := newScene(t)
	all := p.backups(2)
	p.must(p.v.st.Put(t.Context(), p.v.forgottenPrefix()+fullName(referTo(all[0]))+"."+junk, []byte("junk")))
	var warned error
	o := pruneNow()
	o.Warn = func(err error) { warned = err }
	if _, err := p.v.Prune(t.Context(), o); err != nil || !errors.Is(warned, ErrCorrupt) || !p.there(all[0]) {
		t.Errorf("a mark that does not open: %v, warned of %v", err, warned)
	}
}

// TestPruneClock: a prune that would delete backups by a clock that is wrong does not.
func TestPruneClock(t *testing.T) {
	p := newScene(t)
	all := p.backups(2)
	p.forget(all[0])
	o := pruneNow()
	o.Now = func() time.Time { return time.Now().Add(time.Hour) }
	if _, err := p.v.Prune(t.Context(), o); !errors.Is(err, ErrClock) || !p.there(all[0]) {
		t.Errorf("an hour ahead: %v", err)
	}
	if left := p.left("going", "condemned", "sessions"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	p.must(p.v.CheckClock(t.Context(), SessionOptions{Host: "h"}))
}

// TestPruneAndTheIndex: a segment that is mostly dead is written anew. Any other segment keeps its
// dead rows, and the condemnation stays with them, so that no backup finds a pack that is gone.
func TestPruneAndTheIndex(t *testing.T) {
	p := newScene(t)
	dir := t.TempDir()
	add := func(n int) (packs []PackRef) {
		x, err := p.v.index().Open(t.Context(), dir, nil, func(err error) { t.Errorf("told: %v", err) })
		p.must(err)
		for range n {
			pack := p.pack()
			packs = append(packs, pack)
			x.AddPack(pack, []Row{{Name: chunk.Name{1, byte(p.n >> 8), byte(p.n)}, Off: 8, Len: 30, Raw: 1}})
		}
		p.must(x.Store(t.Context()))
		x.Close()
		return packs
	}
	mostlyDead, mostlyAlive := add(2), add(12)
	s := p.begin(p.v)
	p.must(s.WriteManifest(t.Context(), p.manifest(append(slices.Clone(mostlyAlive[1:]), mostlyDead[0])...)))
	p.must(s.End(t.Context()))
	o := pruneNow()
	o.IndexDir = dir
	r, err := p.v.Prune(t.Context(), o)
	if err != nil || r.Deleted != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	set, err := p.v.index().OpenSet(t.Context(), dir, func(err error) { t.Error(err) })
	p.must(err)
	listed := map[PackID]bool{}
	set.EachPack(func(r PackRef) { listed[r.ID] = true })
	set.Close()
	if len(listed) != 13 || listed[mostlyDead[1].ID] || !listed[mostlyAlive[0].ID] {
		t.Errorf("the index lists %d packs", len(listed))
	}
	s = p.begin(p.v)
	if got := s.Condemned(); !slices.Contains(got, mostlyAlive[0].ID) {
		t.Errorf("condemned: %v", got)
	}
	p.must(s.End(t.Context()))
	// Another prune neither deletes nor condemns anything, and leaves that.
	if r, err = p.v.Prune(t.Context(), o); err != nil || r.Garbage != 0 || len(p.left("condemned")) != 1 {
		t.Errorf("once more: %+v, %v, condemned: %q", r, err, p.left("condemned"))
	}
}

// TestPruneMaxGarbage: a little garbage is left alone.
func TestPruneMaxGarbage(t *testing.T) {
	p := newScene(t)
	p.backups(8) // 9 packs
	p.pack()
	o := pruneNow()
	o.MaxGarbage = 10
	if r, err := p.v.Prune(t.Context(), o); err != nil || r.Garbage != 1 || r.Deleted != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	o.MaxGarbage = 9
	if r, err := p.v.Prune(t.Context(), o); err != nil || r.Deleted != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestPruneInterrupted: a prune whose context ends says so, and takes its announcements back.
func TestPruneInterrupted(t *testing.T) {
	p := newScene(t)
	p.backups(1)
	p.pack()
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := p.begin(p.v)
	o := PruneOptions{Host: "h", Poll: time.Hour, Waits: func([]SessionInfo) { cancel(stop) }}
	if _, err := p.v.Prune(ctx, o); !errors.Is(err, stop) {
		t.Errorf("says %v", err)
	}
	p.must(s.End(t.Context()))
	if left := p.left("going", "condemned", "sessions"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestForgottenTwice: a backup that two hosts forgot at once comes back with one call, and can be
// forgotten again. Its grace counts from the latest mark.
func TestForgottenTwice(t *testing.T) {
	p := newScene(t)
	all := p.backups(2)
	p.must(p.v.putMark(t.Context(), Forgotten{Backup: referTo(all[0]), Host: "old", At: time.Now().Add(-time.Hour)}))
	p.forget(all[0])
	marks, err := p.v.ForgottenBackups(t.Context())
	if err != nil || len(marks) != 1 || marks[fullName(referTo(all[0]))].Host != "h" || len(p.left("forgotten")) != 2 {
		t.Errorf("marks: %+v, %v", marks, err)
	}
	o := pruneNow()
	o.Grace = time.Minute
	if r, err := p.v.Prune(t.Context(), o); err != nil || r.Forgotten != 0 {
		t.Errorf("within the grace of the latest mark: %+v, %v", r, err)
	}
	p.must(p.v.Unforget(t.Context(), SessionOptions{Host: "h"}, referTo(all[0])))
	if left := p.left("forgotten"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	p.forget(all[0])
	if r := p.prune(); r.Forgotten != 1 || p.there(all[0]) {
		t.Errorf("forgotten again: %+v", r)
	}
}

// TestHoldWithoutEnd: a hold without an end reads back without an end.
func TestHoldWithoutEnd(t *testing.T) {
	p := newScene(t)
	all := p.backups(1)
	h, err := p.v.Hold(t.Context(), SessionOptions{Host: "h"}, referTo(all[0]), "court", time.Time{})
	p.must(err)
	plain, err := encMode.Marshal(&h)
	p.must(err)
	if !strings.Contains(string(plain), "\x05\xf6") { // key 5, null
		t.Errorf("the hold encodes to %x", plain)
	}
	holds, err := p.v.Holds(t.Context())
	if err != nil || len(holds) != 1 || !holds[0].Until.IsZero() || holds[0].ID != h.ID {
		t.Errorf("%+v, %v", holds, err)
	}
}

// TestPrunePassesOver: a prune neither reads nor deletes looks, claims,
// decisions, records of copies and objects of unknown kinds, with any content.
func TestPrunePassesOver(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.v), p.pack()
	m := p.manifest(pack)
	p.must(s.WriteManifest(t.Context(), m))
	p.must(s.End(t.Context()))
	tag := strings.Repeat("0", 16)
	keys := []string{
		"looks/" + tag + "-" + tag + tag, "claims/i/" + tag + "-" + tag + "-00000001",
		"decisions/i/00000001-" + tag, "copied/" + tag + tag, "unknown/x",
	}
	for i, key := range keys {
		keys[i] = p.v.info.ID + "/" + key
		p.must(p.v.st.Put(t.Context(), keys[i], []byte("junk")))
	}
	p.prune()
	for _, key := range keys {
		if _, err := p.v.st.Stat(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	if !p.there(m) || !p.has(pack) {
		t.Error("the backup is not whole")
	}
}

// TestPruneKnowsManifests: a prune reads a manifest once on a host,
// whatever becomes of the file that it keeps. A file that was
// changed, cut off, or made for another vault makes no pack garbage.
func TestPruneKnowsManifests(t *testing.T) {
	p := newScene(t)
	all := p.backups(5)
	o := pruneNow()
	o.IndexDir = t.TempDir()
	prune := func(cached, deleted int) {
		t.Helper()
		r, err := p.v.Prune(t.Context(), o)
		if err != nil || r.Cached != cached || r.Deleted != deleted || r.Backups != len(p.left("backups")) {
			t.Errorf("%+v, %v; want %d cached, %d packs deleted", r, err, cached, deleted)
		}
		for _, m := range all {
			if p.there(m) && (!p.has(m.Packs[0]) || !p.has(m.Packs[1])) {
				t.Fatalf("backup %s has lost a pack", m.ID)
			}
		}
	}
	prune(0, 0)
	prune(5, 0)
	all = append(all, p.backups(1)...)
	prune(5, 0)
	p.must(p.v.st.Delete(t.Context(), all[0].Object))
	prune(5, 1)
	file := newPrune(p.v, o).manifestCacheFile()
	good, err := os.ReadFile(file)
	p.must(err)
	for i := 0; i < len(good); i += 11 {
		bad := slices.Clone(good)
		bad[i] ^= 1
		p.must(os.WriteFile(file, bad, 0o600))
		prune(0, 0)
	}
	for n := 0; n < len(good); n += 11 {
		p.must(os.WriteFile(file, good[:n], 0o600))
		prune(0, 0)
	}
	other := newScene(t)
	other.backups(1)
	_, err = other.v.Prune(t.Context(), o)
	p.must(err)
	foreign, err := os.ReadFile(newPrune(other.v, o).manifestCacheFile())
	p.must(err)
	p.must(os.WriteFile(file, foreign, 0o600))
	prune(0, 0)
	prune(5, 0)
	// A dry run keeps nothing, and a folder that can't be written is none.
	p.must(os.Remove(file))
	o.DryRun = true
	prune(0, 0)
	if _, err := os.Stat(file); err == nil {
		t.Error("a dry run wrote a file")
	}
	o.DryRun, o.IndexDir = false, file+"/none\x00"
	prune(0, 0)
}
