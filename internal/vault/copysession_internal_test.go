package vault

import (
	"errors"
	"testing"
	"time"
)

// TestCopyBesidePausedCollector: a prune of the copy is paused before its deletes while another one
// deletes the same packs and ends both condemnations. No copy puts these packs again before the
// paused prune has ended, so it can't delete packs that a backup of the copy names.
func TestCopyBesidePausedCollector(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		copied := s.v.in(s.to)
		// A copy that was cut short leaves packs that no manifest of the destination names.
		s.mustCopy(t, s.options(keyed))
		refs, err := copied.Backups(t.Context(), "")
		mustDo(t, err)
		for _, ref := range refs {
			mustDo(t, s.to.Delete(t.Context(), copied.manifestKey(ref.Instance, ref.ID)))
		}
		po := pruneNow()
		po.Now, po.Warn = time.Now, func(err error) { t.Error(err) }
		paused := newPrune(copied, po)
		for pruneSteps[paused.at].what != "deletes packs" {
			_, err := paused.next(t.Context())
			mustDo(t, err)
		}
		if _, err := copied.Prune(t.Context(), pruneNow()); err != nil {
			t.Fatal(err)
		}
		if left := append(keysOf(t, s.to, "/packs/"), keysOf(t, s.to, "/condemned/")...); len(left) > 0 {
			t.Fatalf("left: %q", left)
		}
		if _, err := Copy(t.Context(), s.from, s.to, s.options(keyed)); !errors.Is(err, ErrCollected) {
			t.Errorf("copy beside the paused prune: %v", err)
		}
		mustDo(t, paused.run(t.Context()))
		s.mustCopy(t, s.options(keyed))
		if got := s.sound(t, s.to); got != 2 {
			t.Errorf("the copy has %d backups", got)
		}
		if left := keysOf(t, s.to, "/sessions/"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// TestPruneWaitsForCopy: a prune of the copy that begins beside a copier waits for the copier, also
// where the copier has no key. A copier whose session somebody has removed, or has marked as ended,
// says that the copy may lack packs.
func TestPruneWaitsForCopy(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		copied := s.v.in(s.to)
		o := s.options(keyed)
		o.Session.Host = "copier"
		prunes, removes := 0, 0
		o.Progress = func(CopyProgress) {
			sessions, err := copied.Sessions(t.Context())
			if err != nil || len(sessions) != 1 || sessions[0].Kind != "backup" || sessions[0].Host != "copier" {
				t.Errorf("sessions: %+v, %v", sessions, err)
			}
			po := pruneNow()
			po.Wait, po.Poll = 1, 1
			var waits *WaitsError
			if _, err := copied.Prune(t.Context(), po); !errors.As(err, &waits) || len(waits.For) != 1 {
				t.Errorf("prune beside the copy: %v", err)
			}
			prunes++
		}
		s.mustCopy(t, o)
		if prunes == 0 {
			t.Error("no prune was tried")
		}
		for i, end := range []func(key string) error{
			func(key string) error { return s.to.Delete(t.Context(), key) },
			func(key string) error { return s.to.Put(t.Context(), key+endedSuffix, []byte(endedMark)) },
		} {
			backupOf(t, s.v, "i0", 9+i, 700, 720)
			removes = 0
			o.Progress = func(CopyProgress) {
				if removes++; removes == 1 {
					mustDo(t, end(keysOf(t, s.to, "/sessions/")[0]))
				}
			}
			if _, err := Copy(t.Context(), s.from, s.to, o); !errors.Is(err, ErrSessionGone) {
				t.Errorf("copy whose session is ended (way %d): %v", i, err)
			}
		}
		o.Progress = nil
		s.mustCopy(t, o)
	})
}
