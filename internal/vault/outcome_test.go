package vault_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/vault"
)

// doubtful is a vault whose store fails as a test says. Each call is tried twice at most.
func doubtful(t *testing.T) (*vault.Vault, *obstest.Faulty) {
	t.Helper()
	f := obstest.NewFaulty(obs.NewMemory())
	v, err := vault.Create(t.Context(), obs.Retry(f, obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 2}), "tenant", nil, nil, identity(t))
	must(t, err)
	return v, f
}

// part tells keys of one sort of objects.
func part(name string) func(string) bool {
	return func(key string) bool { return strings.Contains(key, "/"+name+"/") }
}

// next is the manifest of the instance's next backup.
func next(t *testing.T, v *vault.Vault) *vault.Manifest {
	t.Helper()
	refs, err := v.Backups(t.Context(), "i")
	must(t, err)
	seq, parent, err := v.NextSeq("i", refs)
	must(t, err)
	return &vault.Manifest{Instance: "i", Seq: seq, Parent: parent, ID: vault.LineageOf(refs).NewID(seq, time.Unix(1700000000, 0), parent, false)}
}

func begin(t *testing.T, v *vault.Vault, told ...func(vault.Settled)) *vault.Session {
	t.Helper()
	s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h", Settled: func(so vault.Settled) {
		for _, f := range told {
			f(so)
		}
	}})
	must(t, err)
	return s
}

func left(t *testing.T, v *vault.Vault) int {
	t.Helper()
	all, err := v.Sessions(t.Context())
	must(t, err)
	return len(all)
}

func exists(t *testing.T, v *vault.Vault, m *vault.Manifest) bool {
	t.Helper()
	_, err := v.Manifest(t.Context(), vault.BackupRef{Instance: m.Instance, ID: m.ID})
	if err != nil && !errors.Is(err, vault.ErrNoBackup) {
		t.Fatal(err)
	}
	return err == nil
}

// TestUnknownOutcomeOfManifestIsResolved: after any errors of a
// put's tries, the store is asked before a backup is called failed.
func TestUnknownOutcomeOfManifestIsResolved(t *testing.T) {
	put := func(nth, times int, err error, after bool) obstest.Fault {
		return obstest.Fault{Op: obstest.Put, Key: part("backups"), Nth: nth, Times: times, Err: err, After: after}
	}
	read := func(nth, times int, err error) obstest.Fault {
		return obstest.Fault{Op: obstest.Read, Key: part("backups"), Nth: nth, Times: times, Err: err}
	}
	flip := obstest.Fault{Op: obstest.Read, Key: part("backups"), Times: 1, Corrupt: func(p []byte, _ int64) { p[len(p)/2] ^= 1 }}
	for name, c := range map[string]struct {
		faults []obstest.Fault
		is     error // of the error; nil: the backup is made
		doubt  bool
		there  bool
	}{
		"stored without an answer, then refused":          {[]obstest.Fault{put(1, 1, nil, true), put(1, 0, obs.ErrAccess, false)}, nil, false, true},
		"stored without an answer, then no room":          {[]obstest.Fault{put(1, 1, nil, true), put(1, 0, obs.ErrNoSpace, false)}, nil, false, true},
		"stored, and none of the answers came":            {[]obstest.Fault{put(1, 0, nil, true)}, nil, false, true},
		"not stored, then refused once":                   {[]obstest.Fault{put(1, 1, nil, false), put(1, 1, obs.ErrAccess, false)}, nil, false, true},
		"not stored, and refused from then on":            {[]obstest.Fault{put(1, 1, nil, false), put(1, 0, obs.ErrAccess, false)}, vault.ErrMayExist, true, false},
		"the store is gone":                               {[]obstest.Fault{put(1, 0, nil, false)}, vault.ErrMayExist, true, false},
		"stored, and it can't be read back":               {[]obstest.Fault{read(1, 0, nil)}, vault.ErrMayExist, true, true},
		"stored, and reading back is refused":             {[]obstest.Fault{read(1, 0, obs.ErrAccess)}, vault.ErrMayExist, true, true},
		"stored, and the first reading back is damaged":   {[]obstest.Fault{flip}, nil, false, true},
		"stored, and a list that lags has it not at once": {[]obstest.Fault{read(1, 1, obs.ErrNotFound)}, nil, false, true},
		"refused at once":                                 {[]obstest.Fault{put(1, 0, obs.ErrAccess, false)}, obs.ErrAccess, false, false},
		"no room":                                         {[]obstest.Fault{put(1, 0, obs.ErrNoSpace, false)}, obs.ErrNoSpace, false, false},
	} {
		v, f := doubtful(t)
		s := begin(t, v)
		for _, x := range c.faults {
			f.Inject(x)
		}
		m := next(t, v)
		err := s.WriteManifest(t.Context(), m)
		if !errors.Is(err, c.is) || (err == nil) != (c.is == nil) || errors.Is(err, vault.ErrMayExist) != c.doubt {
			t.Errorf("%s: %v, want %v", name, err, c.is)
		}
		must(t, s.End(t.Context()))
		if n := left(t, v); (n > 0) != c.doubt {
			t.Errorf("%s: %d sessions are left", name, n)
		}
		f.Heal()
		if got := exists(t, v, m); got != c.there {
			t.Errorf("%s: the backup exists: %v", name, got)
		}
		done, err := v.Settle(t.Context())
		if err != nil || len(done) > 1 || c.doubt != (len(done) == 1) {
			t.Fatalf("%s: settled %v, %v", name, done, err)
		}
		if c.doubt && (!done[0].Exists || done[0].Backup.ID != m.ID || !exists(t, v, m)) {
			t.Errorf("%s: settled %+v", name, done[0])
		}
		if n := left(t, v); n != 0 {
			t.Errorf("%s: %d sessions are left in the end", name, n)
		}
	}
}

// TestUnknownOutcomeOfCancelledManifest: a put that a cancellation
// cuts off is looked at, and an unknown outcome is reported.
func TestUnknownOutcomeOfCancelledManifest(t *testing.T) {
	for name, gone := range map[string]bool{"the store answers again": false, "the store does not answer any more": true} {
		v, f := doubtful(t)
		s := begin(t, v)
		entered := make(chan string, 100)
		held := obstest.Fault{Op: obstest.Put, Key: part("backups"), Times: 1, Block: make(chan struct{}), Entered: entered}
		if gone {
			held.Times = 0
		}
		f.Inject(held)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-entered
			cancel()
		}()
		m := next(t, v)
		err := s.WriteManifest(ctx, m)
		switch {
		case !gone && (err != nil || !exists(t, v, m)):
			t.Errorf("%s: %v", name, err)
		case gone && (!errors.Is(err, vault.ErrMayExist) || !errors.Is(err, context.Canceled)):
			t.Errorf("%s: %v", name, err)
		}
		must(t, s.End(t.Context()))
		if n := left(t, v); (n > 0) != gone {
			t.Errorf("%s: %d sessions are left", name, n)
		}
	}
}

// TestLateManifestMakesNoFork: a backup that comes to be stored after its job failed keeps its
// place before the next one of this process, whether that one could settle it first or not.
func TestLateManifestMakesNoFork(t *testing.T) {
	for name, refusedStill := range map[string]bool{"settled by the next backup": false, "in doubt still at the next backup": true} {
		v, f := doubtful(t)
		s := begin(t, v)
		f.Inject(obstest.Fault{Op: obstest.Put, Key: part("backups"), Times: 1})
		f.Inject(obstest.Fault{Op: obstest.Put, Key: part("backups"), Err: obs.ErrAccess})
		late := next(t, v)
		if err := s.WriteManifest(t.Context(), late); !errors.Is(err, vault.ErrMayExist) {
			t.Fatal(err)
		}
		must(t, s.End(t.Context()))
		f.Heal()
		if refusedStill {
			f.Inject(obstest.Fault{Op: obstest.Put, Key: func(key string) bool { return strings.HasSuffix(key, late.ID) }, Err: obs.ErrAccess})
		}
		var told []vault.Settled
		s = begin(t, v, func(so vault.Settled) { told = append(told, so) })
		if (len(told) == 0) != refusedStill {
			t.Errorf("%s: told %v", name, told)
		}
		m := next(t, v)
		if m.Seq != late.Seq+1 {
			t.Errorf("%s: the next backup has number %d, after %d", name, m.Seq, late.Seq)
		}
		must(t, s.WriteManifest(t.Context(), m))
		must(t, s.End(t.Context()))
		f.Heal()
		if _, err := v.Settle(t.Context()); err != nil || !exists(t, v, late) {
			t.Errorf("%s: settle: %v", name, err)
		}
		if ref, err := v.Newest(t.Context(), "i"); err != nil || ref.ID != m.ID {
			t.Errorf("%s: the newest is %v, %v", name, ref, err)
		}
		if n := left(t, v); n != 0 {
			t.Errorf("%s: %d sessions are left", name, n)
		}
	}
}

// TestStoreGoneForTheRestOfAProcess: a doubt that can't be resolved
// fails nothing else, and is told each time.
func TestStoreGoneForTheRestOfAProcess(t *testing.T) {
	v, f := doubtful(t)
	s := begin(t, v)
	f.Inject(obstest.Fault{Op: obstest.Put, Key: part("backups")})
	m := next(t, v)
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, vault.ErrMayExist) || !strings.Contains(err.Error(), m.ID) {
		t.Fatal(err)
	}
	must(t, s.End(t.Context()))
	for range 3 {
		if done, err := v.Settle(t.Context()); len(done) > 0 || !errors.Is(err, vault.ErrMayExist) || !strings.Contains(err.Error(), m.ID) {
			t.Errorf("settled %v, %v", done, err)
		}
		var warned error
		s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h", Warn: func(err error) { warned = err }})
		must(t, err)
		must(t, s.End(t.Context()))
		if !errors.Is(warned, vault.ErrMayExist) {
			t.Errorf("warned of %v", warned)
		}
	}
	if n := left(t, v); n != 1 {
		t.Errorf("%d sessions, want that of the backup in doubt", n)
	}
}

// TestDoubtUnderASharedSession: of two backups of a process under
// one session, the session stays for the one in doubt.
func TestDoubtUnderASharedSession(t *testing.T) {
	v, f := doubtful(t)
	s := begin(t, v)
	f.Inject(obstest.Fault{Op: obstest.Put, Key: part("backups"), Times: 4})
	a, b := next(t, v), &vault.Manifest{Instance: "j", Seq: 1, ID: vault.NewBackupID(1, time.Unix(1700000000, 0), false)}
	if err := s.WriteManifest(t.Context(), a); !errors.Is(err, vault.ErrMayExist) {
		t.Fatal(err)
	}
	must(t, s.WriteManifest(t.Context(), b))
	if done, err := v.Settle(t.Context()); err != nil || len(done) != 1 || !done[0].Exists {
		t.Fatalf("settled %v, %v", done, err)
	}
	if n := left(t, v); n != 1 {
		t.Errorf("%d sessions while another backup may use it", n)
	}
	must(t, s.End(t.Context()))
	if n := left(t, v); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestDoubtWhoseSessionIsGone: when an operator has removed the session,
// the packs of the backup may be gone, so its manifest is never put again.
func TestDoubtWhoseSessionIsGone(t *testing.T) {
	v, f := doubtful(t)
	s := begin(t, v)
	f.Inject(obstest.Fault{Op: obstest.Put, Key: part("backups")})
	m := next(t, v)
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, vault.ErrMayExist) {
		t.Fatal(err)
	}
	must(t, s.End(t.Context()))
	f.Heal()
	for _, k := range keys(t, f) {
		if part("sessions")(k) {
			must(t, f.Delete(t.Context(), k))
		}
	}
	done, err := v.Settle(t.Context())
	if err != nil || len(done) != 1 || done[0].Exists || !errors.Is(done[0].Err, vault.ErrSessionGone) || exists(t, v, m) {
		t.Errorf("settled %v, %v", done, err)
	}
	if done, err := v.Settle(t.Context()); err != nil || len(done) != 0 {
		t.Errorf("settled once more: %v, %v", done, err)
	}
}

// TestSettlingMakesNoFork: when another host made a backup with the same number
// meanwhile, the late manifest is put only after a newer backup follows both.
func TestSettlingMakesNoFork(t *testing.T) {
	v, f := doubtful(t)
	s := begin(t, v)
	f.Inject(obstest.Fault{Op: obstest.Put, Key: part("backups"), Times: 4})
	m := next(t, v)
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, vault.ErrMayExist) {
		t.Fatal(err)
	}
	must(t, s.End(t.Context()))
	f.Heal()
	other := &vault.Manifest{Instance: "i", Seq: m.Seq, ID: vault.NewBackupID(m.Seq, time.Unix(1700000001, 0), false)}
	must(t, v.WriteManifest(t.Context(), other))
	if done, err := v.Settle(t.Context()); len(done) > 0 || !errors.Is(err, vault.ErrMayExist) {
		t.Errorf("settled %v, %v", done, err)
	}
	if ref, err := v.Newest(t.Context(), "i"); err != nil || ref.ID != other.ID {
		t.Errorf("the newest is %v, %v", ref, err)
	}
	must(t, v.WriteManifest(t.Context(), next(t, v)))
	if done, err := v.Settle(t.Context()); err != nil || len(done) != 1 || !done[0].Exists {
		t.Errorf("after a newer one: settled %v, %v", done, err)
	}
	if n := left(t, v); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestUnknownOutcomeOfSessions: a session whose put or whose removal has
// an unknown outcome goes with Settle, also when no other backup follows.
func TestUnknownOutcomeOfSessions(t *testing.T) {
	v, f := doubtful(t)
	f.Inject(obstest.Fault{Op: obstest.Put, Key: part("sessions"), Times: 2, After: true})
	// else a look resolves it
	f.Inject(obstest.Fault{Op: obstest.Stat, Key: part("sessions"), Times: 8})
	if _, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"}); !obs.Uncertain(err) {
		t.Fatal(err)
	}
	f.Heal()
	s := begin(t, v) // removes the first
	if n := left(t, v); n != 1 {
		t.Errorf("%d sessions after the next began", n)
	}
	f.Inject(obstest.Fault{Op: obstest.Delete, Key: part("sessions"), Times: 2})
	if err := s.End(t.Context()); !errors.Is(err, obs.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := v.Settle(t.Context()); err != nil || left(t, v) != 0 {
		t.Errorf("%d sessions are left: %v", left(t, v), err)
	}
	before := f.Count(obstest.Any, "")
	if _, err := v.Settle(t.Context()); err != nil || f.Count(obstest.Any, "") != before {
		t.Errorf("with nothing in doubt: %v, %d requests", err, f.Count(obstest.Any, "")-before)
	}
}

// TestChaosLeavesNoDoubt: backups of one process while the store fails at random.
// Each backup that was reported as made exists, each backup that was reported as
// failed without doubt does not, and once the store is well every doubt is resolved.
func TestChaosLeavesNoDoubt(t *testing.T) {
	resolved, doubted := 0, 0
	for seed := range uint64(400) {
		c := obstest.NewChaos(obs.NewMemory(), seed, obstest.Odds{})
		v, err := vault.Create(t.Context(), obs.Retry(c, obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 2}), "tenant", nil, nil, identity(t))
		must(t, err)
		var made, failed, open []*vault.Manifest
		rnd := rand.New(rand.NewPCG(seed, 1))
		for range 12 {
			c.Set(obstest.Odds{Before: 0.3 * rnd.Float64(), After: 0.5 * rnd.Float64(), Hard: 0.3 * rnd.Float64(), Err: obs.ErrAccess})
			s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
			if err != nil {
				continue
			}
			refs, err := v.Backups(t.Context(), "i")
			if err != nil {
				_ = s.End(t.Context()) // goes later
				continue
			}
			seq, parent, err := v.NextSeq("i", refs)
			must(t, err)
			m := &vault.Manifest{Instance: "i", Seq: seq, Parent: parent, ID: vault.LineageOf(refs).NewID(seq, time.Unix(1700000000, 0), parent, false)}
			switch err := s.WriteManifest(t.Context(), m); {
			case err == nil:
				made = append(made, m)
			case errors.Is(err, vault.ErrMayExist):
				open = append(open, m)
			default:
				failed = append(failed, m)
			}
			_ = s.End(t.Context()) // goes later
		}
		c.Set(obstest.Odds{})
		done, err := v.Settle(t.Context())
		must(t, err)
		for _, so := range done {
			if !so.Exists {
				t.Errorf("seed %d: %v", seed, so)
			}
		}
		resolved, doubted = resolved+len(done), doubted+len(open)
		for _, m := range append(made, open...) {
			if !exists(t, v, m) {
				t.Errorf("seed %d: backup %s is not there", seed, m.ID)
			}
		}
		for _, m := range failed {
			if exists(t, v, m) {
				t.Errorf("seed %d: backup %s failed without doubt and is there", seed, m.ID)
			}
		}
		if _, err := v.Newest(t.Context(), "i"); err != nil && len(made)+len(open) > 0 {
			t.Errorf("seed %d: %v", seed, err)
		}
		s := begin(t, v)
		must(t, s.End(t.Context()))
		if n := left(t, v); n != 0 {
			t.Errorf("seed %d: %d sessions are left", seed, n)
		}
	}
	t.Logf("%d in doubt, %d resolved in the end", doubted, resolved)
	if resolved == 0 || doubted == 0 {
		t.Errorf("%d in doubt, %d resolved in the end: the odds are wrong", doubted, resolved)
	}
}

// TestUnknownOutcomeOfHeaders: a vault that was made without an answer is made, and
// so is a change of its recipients; a second try to make it does not replace its key.
func TestUnknownOutcomeOfHeaders(t *testing.T) {
	header := func(key string) bool { return strings.Contains(key, "/vault") && !strings.HasPrefix(key, "vaults/") }
	for name, c := range map[string]struct {
		faults []obstest.Fault
		fails  bool
	}{
		"done, then refused":     {[]obstest.Fault{{Op: obstest.Put, Key: header, Times: 1, After: true}, {Op: obstest.Put, Key: header, Err: obs.ErrAccess}}, false},
		"not done, refused once": {[]obstest.Fault{{Op: obstest.Put, Key: header, Times: 1}, {Op: obstest.Put, Key: header, Times: 1, Err: obs.ErrAccess}}, false},
		"not done, refused":      {[]obstest.Fault{{Op: obstest.Put, Key: header, Times: 1}, {Op: obstest.Put, Key: header, Err: obs.ErrAccess}}, true},
	} {
		f := obstest.NewFaulty(obs.NewMemory())
		st := obs.Retry(f, obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 2})
		id, other := identity(t), identity(t)
		inject := func() {
			f.Heal()
			for _, x := range c.faults {
				f.Inject(x)
			}
		}
		inject()
		_, err := vault.Create(t.Context(), st, "tenant", nil, nil, id)
		if (err != nil) != c.fails || c.fails && !obs.Uncertain(err) {
			t.Errorf("create: %s: %v", name, err)
		}
		f.Heal()
		if c.fails {
			_, err = vault.Create(t.Context(), st, "tenant", nil, nil, id)
			must(t, err)
		}
		v, err := vault.Open(t.Context(), st, "tenant", nil, id)
		must(t, err)
		inject()
		_, err = v.Rekey(t.Context(), id, vault.Change{Add: []string{other.Recipient()}})
		if (err != nil) != c.fails || c.fails && !obs.Uncertain(err) {
			t.Errorf("rekey: %s: %v", name, err)
		}
		f.Heal()
		if _, err := vault.Open(t.Context(), st, "tenant", nil, other); (err != nil) != c.fails {
			t.Errorf("rekey: %s: open by the new recipient: %v", name, err)
		}
	}
}
