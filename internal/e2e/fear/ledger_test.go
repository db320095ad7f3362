package fear_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// ledger knows each backup that a program reported as made, and each command that may have
// forgotten it. It asks no program. Its methods may be called from any goroutine.
type ledger struct {
	mu      sync.Mutex
	backups map[string]*backup
	forgets []*forgetting
}

// backup is a backup that was reported as made. The ledger's mu guards its changing parts.
type backup struct {
	id, instance string
	began        time.Time // of the command that made it
	content      tree
	lifted       map[*forgetting]bool // that an unforget has undone
	held         bool                 // by a hold that nobody has begun to end
	unholds      int                  // under way
	unheld       time.Time            // end of the last one
	gone         bool                 // it may have been deleted, and is
}

// forgetting is a command that forgets backups.
type forgetting struct {
	instance string   // by rule: all backups of it; "" where they are named
	ids      []string // that are named
	begun    time.Time
	ended    time.Time // zero: under way
	// certain says that it forgot the backups ids, and no others.
	certain bool
}

// made notes a backup that a command reported.
func (l *ledger) made(b *backup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.lifted = map[*forgetting]bool{}
	l.backups[b.id] = b
}

// forget notes that a command begins.
func (l *ledger) forget(f *forgetting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.begun = time.Now()
	l.forgets = append(l.forgets, f)
}

// forgot notes the end of a command. ids are the backups that it forgot, where it ended well.
func (l *ledger) forgot(f *forgetting, well bool, ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.ended = time.Now()
	if well {
		f.certain, f.ids = true, ids
	}
}

// unforgot notes that a command has brought a backup back. Commands that forget beside it, and
// commands of which requests were on their way then, are not undone.
func (l *ledger) unforgot(b *backup, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.forgets {
		if !f.ended.IsZero() && f.ended.Before(begun) {
			b.lifted[f] = true
		}
	}
}

// hold notes that a command which began then holds a backup.
func (l *ledger) hold(b *backup, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.unholds == 0 && b.unheld.Before(begun) {
		b.held = true
	}
}

// unhold notes that a command begins to end the holds of a backup. The function that it returns
// notes the end of the command.
func (l *ledger) unhold(b *backup) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.held = false
	b.unholds++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		b.unholds--
		b.unheld = time.Now()
	}
}

// forgotten is when the first command began that may have forgotten the backup; zero: none.
func (l *ledger) forgotten(b *backup) (first time.Time) {
	for _, f := range l.forgets {
		switch {
		case b.lifted[f], !f.ended.IsZero() && f.ended.Before(b.began):
		case f.certain && !slices.Contains(f.ids, b.id):
		case !f.certain && f.instance != b.instance && !slices.Contains(f.ids, b.id):
		case first.IsZero() || f.begun.Before(first):
			first = f.begun
		}
	}
	return first
}

// due tells whether the backup has to be in the vault, where a forgotten backup stays for that
// time.
func (l *ledger) due(b *backup, grace time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.forgotten(b)
	return b.held || first.IsZero() || time.Since(first) < grace
}

// lost notes that the vault lacks a backup that nothing keeps.
func (l *ledger) lost(b *backup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.gone = true
}

// choose draws a backup that may be in the vault, and for which ok is true; nil where there is
// none. ok is called with the ledger's mu held.
func (l *ledger) choose(r *rand.Rand, ok func(*backup) bool) *backup {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*backup
	for _, id := range slices.Sorted(maps.Keys(l.backups)) {
		if b := l.backups[id]; !b.gone && ok(b) {
			all = append(all, b)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[r.IntN(len(all))]
}

// everything returns the backups that have to be in the vault.
func (l *ledger) everything(grace time.Duration) (all []*backup) {
	l.mu.Lock()
	ids := slices.Sorted(maps.Keys(l.backups))
	l.mu.Unlock()
	for _, id := range ids {
		if b := l.backups[id]; l.due(b, grace) {
			all = append(all, b)
		}
	}
	return all
}

// TestLedger: the ledger demands a backup exactly as long as no command can have taken it away.
func TestLedger(t *testing.T) {
	const long, none = time.Hour, time.Nanosecond
	l := &ledger{backups: map[string]*backup{}}
	b := &backup{id: "1", instance: "a", began: time.Now()}
	demand := func(what string, grace time.Duration, want bool) {
		t.Helper()
		time.Sleep(time.Millisecond) // the grace of a nanosecond, and the ticks of a clock
		if got := l.due(b, grace); got != want {
			t.Errorf("%s: the ledger demands the backup: %v, want %v", what, got, want)
		}
	}
	early := &forgetting{instance: "a"}
	l.forget(early)
	l.forgot(early, false, nil)
	time.Sleep(time.Millisecond)
	b.began = time.Now()
	l.made(b)
	demand("forgotten before it began", none, true)
	f := &forgetting{instance: "a"}
	l.forget(f)
	demand("a rule is under way", none, false)
	demand("a rule is under way, in the time of grace", long, true)
	l.forgot(f, true, []string{"2"})
	demand("the rule forgot another one", none, true)
	killed := &forgetting{ids: []string{"1"}}
	l.forget(killed)
	l.unforgot(b, time.Now())
	demand("brought back while it is forgotten", none, false)
	l.forgot(killed, false, nil)
	demand("the command was killed", none, false)
	l.unforgot(b, time.Now())
	demand("brought back", none, true)
	l.forget(&forgetting{ids: []string{"1"}})
	l.hold(b, time.Now())
	demand("held", none, true)
	end := l.unhold(b)
	begun := time.Now()
	demand("a hold is about to end", none, false)
	end()
	l.hold(b, begun)
	demand("held beside the end of a hold", none, false)
	l.hold(b, time.Now())
	demand("held again", none, true)
	other := &forgetting{instance: "b"}
	l.forget(other)
	c := &backup{id: "3", instance: "c", began: time.Now()}
	l.made(c)
	if all := l.everything(none); len(all) != 2 {
		t.Errorf("the ledger demands %d backups, want 2", len(all))
	}
}
