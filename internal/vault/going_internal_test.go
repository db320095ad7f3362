package vault

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// countedReads counts the reads of sessions.
type countedReads struct {
	*hooked
	reads *int
}

func (c *countedReads) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, error) {
	if strings.Contains(key, "/sessions/") {
		*c.reads++
	}
	return c.hooked.ReadAt(ctx, key, b, off)
}

// TestAnnouncementOfADeadProcess: a hold ends the announcement of an ended process of its own host,
// after the time in which a last delete may arrive. Of a process elsewhere only an operator can say
// that it has ended; till then a hold is refused, and its error names the announcing process.
func TestAnnouncementOfADeadProcess(t *testing.T) {
	hold := func(p *scene, m *Manifest) error {
		_, err := p.v.Hold(p.Context(), SessionOptions{Host: "h"}, referTo(m), "court", time.Time{})
		return err
	}
	elsewhere := observe(SessionOptions{}).process
	elsewhere.Boot = "another"
	t.Run("of this host", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newScene(t)
			all := p.backups(2)
			p.forget(all[0])
			c := p.newPrune()
			p.steps(c, "lists the packs")
			var late *TooLateError
			if err := hold(p, all[0]); !errors.As(err, &late) || late.Session != c.s.id || late.Host != "h" {
				t.Errorf("hold while the prune is alive: %v", err)
			}
			running.Delete(c.s.id) // the prune dies
			begun := time.Now()
			p.must(hold(p, all[0]))
			if left := p.left("going"); len(left) > 0 || time.Since(begun) < lateRequests {
				t.Errorf("after %v left: %q", time.Since(begun), left)
			}
			if p.prune(); !p.there(all[0]) {
				t.Error("a held backup is deleted")
			}
		})
	})
	t.Run("of another host", func(t *testing.T) {
		p := newScene(t)
		all := p.backups(2)
		p.forget(all[0])
		s, err := p.v.putSession(t.Context(), kindCollector, SessionOptions{Host: "other"}, elsewhere)
		p.must(err)
		running.Delete(s.id)
		id := randomName()
		object, err := p.v.sealSmall("going", goingMagic, id, &going{Session: s.id, Backups: []string{fullName(referTo(all[0]))}, Host: "other", Process: elsewhere})
		p.must(err)
		p.must(p.v.st.Put(t.Context(), p.v.goingPrefix()+id, object))
		if err := hold(p, all[0]); !errors.Is(err, ErrTooLate) || len(p.left("holds")) > 0 {
			t.Errorf("hold: %v", err)
		}
		p.must(p.v.ForgetSession(t.Context(), s.id))
		if left := p.left("going", "sessions"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		p.must(hold(p, all[0]))
	})
}

// TestAnnouncementTakenAway: a prune whose announcement somebody has removed deletes no backup.
func TestAnnouncementTakenAway(t *testing.T) {
	p := newScene(t)
	all := p.backups(2)
	p.forget(all[0])
	c := p.newPrune()
	p.steps(c, "deletes forgotten backups")
	p.must(p.v.ForgetSession(t.Context(), c.s.id))
	if err := c.run(t.Context()); !errors.Is(err, ErrSessionGone) || !p.there(all[0]) {
		t.Errorf("prune: %v; the backup is there: %v", err, p.there(all[0]))
	}
	if left := p.left("going", "condemned"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestDamagedAnnouncement: an announcement that does not open stops no prune and no removal of a
// session. It refuses holds, with the command that removes it, until an operator does so.
func TestDamagedAnnouncement(t *testing.T) {
	for name, object := range map[string][]byte{
		"junk": []byte("junk"), "of a later version": []byte("HFGOIN\x00\x02"), "too large": make([]byte, maxGoingObject+1),
	} {
		t.Run(name, func(t *testing.T) {
			p := newScene(t)
			all := p.backups(3)
			p.forget(all[0])
			id := goingName + strings.Repeat("d", 32)
			p.must(p.v.st.Put(t.Context(), p.v.info.ID+"/"+id, object))
			p.pack()
			var warned []error
			o := pruneNow()
			o.Warn = func(err error) { warned = append(warned, err) }
			r, err := p.v.Prune(t.Context(), o)
			if err != nil || r.Forgotten != 1 || r.Deleted == 0 || p.there(all[0]) {
				t.Errorf("prune: %+v, %v", r, err)
			}
			if len(warned) != 1 || !strings.Contains(warned[0].Error(), "--forget "+id) {
				t.Errorf("the prune warned of %v", warned)
			}
			s := p.begin(p.v)
			p.must(p.v.ForgetSession(t.Context(), s.id))
			if len(p.left("sessions")) > 0 || len(p.left("going")) != 1 {
				t.Errorf("left: %q", p.left("sessions", "going"))
			}
			hold := func() error {
				_, err := p.v.Hold(t.Context(), SessionOptions{Host: "h"}, referTo(all[1]), "court", time.Time{})
				return err
			}
			if err := hold(); err == nil || !strings.Contains(err.Error(), "--forget "+id) {
				t.Errorf("hold: %v", err)
			}
			if !IsSessionID(id) {
				t.Errorf("%s is not an id to forget", id)
			}
			p.must(p.v.ForgetSession(t.Context(), id))
			if err := p.v.ForgetSession(t.Context(), id); !errors.Is(err, ErrSessionGone) {
				t.Errorf("once more: %v", err)
			}
			p.must(hold())
		})
	}
}

// TestSoundAnnouncementIsNotDamaged: an announcement that opens goes only with its session.
func TestSoundAnnouncementIsNotDamaged(t *testing.T) {
	p := newScene(t)
	all := p.backups(2)
	p.forget(all[0])
	c := p.newPrune()
	p.steps(c, "lists the packs")
	key := p.left("going")[0]
	id := goingName + key[strings.LastIndex(key, "/")+1:]
	if err := p.v.ForgetSession(t.Context(), id); err == nil || !strings.Contains(err.Error(), c.s.id) {
		t.Errorf("forget: %v", err)
	}
	p.must(c.run(t.Context()))
	if p.there(all[0]) {
		t.Error("the backup is there still")
	}
}
