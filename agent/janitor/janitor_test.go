package janitor_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/janitor"
	"holdfast/internal/vault"
)

// TestRun: a run forgets the backups that no rule keeps, and a run after the grace
// deletes them with their packs. A dry run counts the same and changes nothing.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		all := w.days("i", 10)
		h := w.host("a", nil)
		h.start()
		defer h.stopped()
		dry := h.run(janitor.Command{DryRun: true})
		if _, forgotten := w.backups(); dry.State != janitor.Done || dry.Report.Forget != 7 || dry.Report.Forgotten != 0 || len(forgotten) != 0 {
			t.Errorf("a dry run: %+v; forgotten are %q", dry, forgotten)
		}
		r := h.run(janitor.Command{})
		there, forgotten := w.backups()
		if r.State != janitor.Done || r.Report.Backups != 10 || r.Report.Forgotten != 7 || !slices.Equal(forgotten, all[:7]) || len(there) != 10 {
			t.Errorf("a run: %+v; forgotten are %q of %q", r, forgotten, there)
		}
		if r := h.run(janitor.Command{KeepAll: true}); r.State != janitor.Done || r.Report.Backups != 0 || r.Report.Prune.Forgotten != 0 {
			t.Errorf("before the end of the grace: %+v", r)
		}
		time.Sleep(day + time.Minute)
		dry = h.run(janitor.Command{DryRun: true})
		r = h.run(janitor.Command{})
		there, forgotten = w.backups()
		if dry.Report.Prune.Garbage != 7 || r.State != janitor.Done || r.Report.Prune.Deleted != 7 || r.Report.Prune.Forgotten != 7 {
			t.Errorf("after the grace: %+v, a dry run before: %+v", r.Report, dry.Report)
		}
		if !slices.Equal(there, all[7:]) || len(forgotten) != 0 || w.left("packs") != 3 || w.left("condemned")+w.left("sessions")+w.left("going") != 0 {
			t.Errorf("left: %q, forgotten %q, %d packs", there, forgotten, w.left("packs"))
		}
		w.whole()
		if last, known := h.j.Last(tenant); !known || last.Host != "a" || last.Deleted != 7 {
			t.Errorf("the record: %+v, %v", last, known)
		}
		if want := slices.Repeat([]string{"completed "}, 5); !slices.Equal(h.events(), want) {
			t.Errorf("events: %q", h.events())
		}
	})
}

// TestSameCommandOnce: the same command gives the same run, also after a start; with
// another body it is refused; the same id of another caller is another command.
func TestSameCommandOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.host("a", nil)
		q := janitor.Request{Tenant: tenant, ID: "r1", By: "the control plane", Digest: [32]byte{1}}
		r, err := h.j.Accept(q)
		w.must(err)
		h.open()
		if again, err := h.j.Accept(q); err != nil || again.ID != r.ID {
			t.Errorf("again: %+v, %v", again, err)
		}
		other := q
		other.Digest = [32]byte{2}
		if _, err := h.j.Accept(other); !errors.Is(err, janitor.ErrReused) {
			t.Errorf("another body: %v", err)
		}
		other.Caller = tenant
		if o, err := h.j.Accept(other); err != nil || o.ID == r.ID {
			t.Errorf("another caller: %+v, %v", o, err)
		}
		h.set(func(h *host) { h.halted = errHalted })
		if again, err := h.j.Accept(q); err != nil || again.ID != r.ID {
			t.Errorf("a known command while the host drains: %+v, %v", again, err)
		}
		other.ID = "r2"
		if _, err := h.j.Accept(other); !errors.Is(err, errHalted) {
			t.Errorf("a new command while the host drains: %v", err)
		}
		h.set(func(h *host) { h.halted = nil })
		for i := 2; ; i++ {
			other.ID = fmt.Sprint("more-", i)
			if _, err = h.j.Accept(other); err != nil {
				break
			}
			if i > 1000 {
				t.Fatal("no bound on the runs that wait")
			}
		}
		if !errors.Is(err, janitor.ErrFull) {
			t.Errorf("too many: %v", err)
		}
	})
}

// TestShare: rules that would forget more than the share forget nothing, also no other
// backup, until a person accepts the share. The state lasts until a run succeeds.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days("i", 10)
		w.days("j", 3)
		h := w.host("a", func(o *janitor.Options) { o.MaxShare = 50 })
		h.start()
		defer h.stopped()
		if r := h.run(janitor.Command{DryRun: true}); r.State != janitor.Done || !strings.Contains(r.Report.Share, "7 of the 10 backups of instance i") {
			t.Errorf("a dry run: %+v", r)
		}
		if len(h.j.Troubles()) != 0 {
			t.Error("a dry run is a trouble")
		}
		r := h.run(janitor.Command{})
		if _, forgotten := w.backups(); r.State != janitor.Failed || r.Problem != janitor.ProblemShare || len(forgotten) != 0 {
			t.Errorf("above the share: %+v, forgotten are %q", r, forgotten)
		}
		if all := h.j.Troubles(); len(all) != 1 || all[0].Problem != janitor.ProblemShare || all[0].Tenant != tenant {
			t.Errorf("troubles: %+v", all)
		}
		r = h.run(janitor.Command{AcceptShare: true})
		if _, forgotten := w.backups(); r.State != janitor.Done || len(forgotten) != 7 {
			t.Errorf("with the share accepted: %+v, forgotten are %q", r, forgotten)
		}
		if all := h.j.Troubles(); len(all) != 0 {
			t.Errorf("troubles: %+v", all)
		}
	})
}

// TestNeededBackupsStay: no run takes a backup that a host needs by its journal or claims, that a
// reader reads, or that is the newest; a backup that was forgotten before comes back.
func TestNeededBackupsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		all := w.days("i", 10)
		h := w.host("a", nil)
		h.start()
		defer h.stopped()
		h.set(func(h *host) { h.needs = map[string]string{all[1]: "host a holds it"} })
		_, err := w.v.Claim(t.Context(), vault.ClaimOptions{Instance: "i", Host: "b", Identity: "b", Job: "j", Backup: strings.TrimPrefix(all[2], "i/")})
		w.must(err)
		reader, err := w.v.BeginReading(t.Context(), vault.SessionOptions{Host: "c"}, vault.Reads("i", strings.TrimPrefix(all[3], "i/")))
		w.must(err)
		r := h.run(janitor.Command{})
		_, forgotten := w.backups()
		if want := []string{all[0], all[4], all[5], all[6]}; r.State != janitor.Done || r.Report.Needed != 2 || !slices.Equal(forgotten, want) {
			t.Errorf("%+v; forgotten are %q, want %q", r.Report, forgotten, want)
		}
		w.must(reader.End(t.Context()))
		// A prepare of a forgotten backup comes between the mark and the prune.
		h.set(func(h *host) { h.needs[all[4]] = "host a has the instance from it" })
		time.Sleep(2 * day)
		r = h.run(janitor.Command{})
		there, forgotten := w.backups()
		if want := slices.Concat(all[1:5], all[7:]); r.State != janitor.Done || r.Report.Back != 1 || !slices.Equal(there, want) || !slices.Equal(forgotten, []string{all[3]}) {
			t.Errorf("%+v; there are %q, want %q; forgotten are %q", r.Report, there, want, forgotten)
		}
		w.whole()
	})
}

// TestWrongClocks: a host whose clock differs from the store's forgets nothing, and a backup from
// the future stays and is told.
func TestWrongClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days("i", 9)
		future := w.backup("i", time.Now().Add(5*365*day))
		w.backup("i", time.Now())
		h := w.host("a", nil)
		h.start()
		defer h.stopped()
		for _, ahead := range []time.Duration{time.Hour, -400 * day} {
			w.st.set(func(s *store) { s.ahead = ahead })
			r := h.run(janitor.Command{})
			if _, forgotten := w.backups(); r.State != janitor.Failed || r.Problem != janitor.ProblemClock || len(forgotten) != 0 {
				t.Errorf("a clock that is %v off: %+v, forgotten are %q", ahead, r, forgotten)
			}
		}
		w.st.set(func(s *store) { s.ahead = 0 })
		r := h.run(janitor.Command{})
		_, forgotten := w.backups()
		if r.State != janitor.Done || r.Report.Odd != 1 || !strings.Contains(strings.Join(r.Report.OddBackups, ""), "from the future") || slices.Contains(forgotten, future) || len(forgotten) == 0 {
			t.Errorf("with a backup from the future: %+v, forgotten are %q", r.Report, forgotten)
		}
	})
}

// TestWaitsForOthers: a prune waits for a backup that is under way, names it, gives up, leaves no
// condemnation and no session, and succeeds once the backup has ended.
func TestWaitsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days("i", 10)
		h := w.host("a", func(o *janitor.Options) { o.Grace = time.Second })
		h.start()
		defer h.stopped()
		h.run(janitor.Command{})
		time.Sleep(time.Minute)
		writer, err := w.v.BeginSession(t.Context(), vault.SessionOptions{Host: "h7", Instance: "cp-3"})
		w.must(err)
		r := h.run(janitor.Command{})
		if r.State != janitor.Failed || r.Problem != janitor.ProblemWaits || !strings.Contains(strings.Join(r.Report.Waits, ""), "cp-3 on host h7") || !h.saw("cp-3 on host h7") {
			t.Errorf("%+v", r)
		}
		if w.left("condemned")+w.left("going") != 0 || w.left("sessions") != 1 || w.left("packs") != 10 {
			t.Errorf("%d condemnations, %d sessions", w.left("condemned"), w.left("sessions"))
		}
		w.must(writer.End(t.Context()))
		if r := h.run(janitor.Command{}); r.State != janitor.Done || w.left("packs") != 3 {
			t.Errorf("after the backup: %+v", r)
		}
		w.whole()
	})
}

// TestWaitsForOwnJobs: a prune begins when the jobs of its host in
// the vault have ended, and goes on beside a job that does not end.
func TestWaitsForOwnJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.host("a", nil)
		h.set(func(h *host) { h.work = "job j-1 of instance i" })
		h.start()
		defer h.stopped()
		id := h.command(janitor.Command{})
		time.Sleep(10 * time.Minute)
		if r, err := h.j.Find(id); err != nil || r.State != janitor.AtWork || !h.saw("job j-1 of instance i") || w.left("sessions") != 0 {
			t.Errorf("%+v, %v", r, err)
		}
		h.set(func(h *host) { h.work = "" })
		if r := h.end(id); r.State != janitor.Done || r.Ended.Sub(r.Began) > 20*time.Minute {
			t.Errorf("after the job: %+v", r)
		}
		h.set(func(h *host) { h.work = "job j-2, which hangs" })
		if r := h.run(janitor.Command{}); r.State != janitor.Done || r.Ended.Sub(r.Began) < time.Hour {
			t.Errorf("beside a job that hangs: %+v", r)
		}
	})
}

// TestStopAndResume: a run that is at work when the agent stops, or when the host drains, takes
// its condemnations back, waits, and begins again at the next start. Its end is told once.
func TestStopAndResume(t *testing.T) {
	for name, halt := range map[string]func(h *host){
		"stop":  func(h *host) { h.stopped() },
		"drain": func(h *host) { h.set(func(h *host) { h.halted = errHalted }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.days("i", 10)
				h := w.host("a", func(o *janitor.Options) { o.Grace = time.Second })
				h.start()
				h.run(janitor.Command{})
				time.Sleep(time.Minute)
				writer, err := w.v.BeginSession(t.Context(), vault.SessionOptions{Host: "h7"})
				w.must(err)
				id := h.command(janitor.Command{})
				h.until("the prune waits", func() bool { return h.saw("on host h7") })
				halt(h)
				h.until("the run is put off", func() bool {
					r, err := h.j.Find(id)
					return err == nil && r.State == janitor.Waiting && r.Begun == 1
				})
				h.stopped()
				if w.left("condemned")+w.left("going") != 0 || w.left("sessions") != 1 {
					t.Errorf("%d condemnations, %d sessions", w.left("condemned"), w.left("sessions"))
				}
				w.must(writer.End(t.Context()))
				h.set(func(h *host) { h.halted = nil })
				h.open()
				h.start()
				defer h.stopped()
				if r := h.end(id); r.State != janitor.Done || r.Begun != 2 || w.left("packs") != 3 {
					t.Errorf("after the start: %+v, %d packs", r, w.left("packs"))
				}
				if want := []string{"completed ", "completed "}; !slices.Equal(h.events(), want) {
					t.Errorf("events: %q", h.events())
				}
			})
		})
	}
}

// TestCrash: a file that was written while a run was at work gives a run that
// begins again, and the end of a run that was not told is told after the start.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days("i", 10)
		h := w.host("a", nil)
		h.set(func(h *host) { h.work, h.unable = "job", errors.New("the journal can't be written") })
		h.start()
		id := h.command(janitor.Command{})
		h.until("the run begins", func() bool { return h.saw("waits for the jobs") })
		dead, err := os.ReadFile(h.o.File)
		w.must(err)
		h.set(func(h *host) { h.work = "" })
		h.until("the run ends", func() bool { r, err := h.j.Find(id); return err == nil && r.State == janitor.Done })
		h.stopped()
		if len(h.events()) != 0 {
			t.Errorf("told: %q", h.events())
		}
		h.set(func(h *host) { h.unable = nil })
		h.open()
		h.start()
		h.end(id)
		h.stopped()
		if len(h.events()) != 1 {
			t.Errorf("told after the start: %q", h.events())
		}
		w.must(os.WriteFile(h.o.File, dead, 0o600))
		h.open()
		h.start()
		defer h.stopped()
		if r := h.end(id); r.State != janitor.Done || r.Begun != 2 {
			t.Errorf("after the crash: %+v", r)
		}
	})
}

// TestDamagedFile: a file that does not open is set aside and told, and a new one begins.
func TestDamagedFile(t *testing.T) {
	for _, content := range []string{"no JSON", `{"version":9}`, `{"version":1,"runs":[null]}`, ""} {
		w := newWorld(t)
		h := w.host("a", nil)
		w.must(os.WriteFile(h.o.File, []byte(content), 0o600))
		j, aside, err := janitor.New(h, h.o)
		if err != nil || aside == nil || len(j.Runs("")) != 0 {
			t.Errorf("%q: %v, %v", content, aside, err)
		}
		if kept, err := os.ReadFile(h.o.File + ".damaged"); err != nil || string(kept) != content {
			t.Errorf("%q: set aside is %q, %v", content, kept, err)
		}
		if _, err := j.Accept(janitor.Request{Tenant: tenant}); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestCancel: a run that waits and a run at work end when they are cancelled; a run that has ended
// is not cancelled.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.host("a", nil)
		h.set(func(h *host) { h.work = "job" })
		h.start()
		defer h.stopped()
		first, second := h.command(janitor.Command{}), h.command(janitor.Command{DryRun: true})
		h.until("the run begins", func() bool { return h.saw("waits for the jobs") })
		w.must(errors.Join(h.j.Cancel(second), h.j.Cancel(first)))
		for _, id := range []string{second, first} {
			if r := h.end(id); r.State != janitor.Cancelled {
				t.Errorf("%+v", r)
			}
			if err := h.j.Cancel(id); !errors.Is(err, janitor.ErrOver) {
				t.Errorf("cancelled twice: %v", err)
			}
		}
		if err := h.j.Cancel("prune-none"); !errors.Is(err, janitor.ErrNoRun) {
			t.Errorf("an unknown run: %v", err)
		}
		if len(h.j.Troubles()) != 0 || w.left("sessions") != 0 {
			t.Errorf("troubles: %+v", h.j.Troubles())
		}
	})
}
