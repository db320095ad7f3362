package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/obs"
)

// A request can fail although it took effect: the answer was lost, or a
// later try was refused. This file finds out the outcome of manifests
// whose put ended so, and remembers manifests whose outcome stays unknown.

// ErrMayExist says that a manifest could not be confirmed, and that nobody knows whether
// it is stored. The vault remembers the doubt and resolves it later, see Vault.Settle.
var ErrMayExist = errors.New("the backup may exist all the same")

// Settled is a backup whose manifest was in doubt and is not any more.
type Settled struct {
	Backup BackupRef
	Exists bool  // it is stored, whole
	Err    error // why it is not; nil where it exists
}

// String is one sentence for people.
func (s Settled) String() string {
	of := fmt.Sprintf("backup %s of instance %s, of which it was not known whether it is stored,", s.Backup.ID, s.Backup.Instance)
	if s.Exists {
		return of + " is stored and whole"
	}
	return fmt.Sprintf("%s does not exist: %v", of, s.Err)
}

// ledger lists the objects that this process put into one vault with a still unknown outcome.
type ledger struct {
	turn chan struct{} // 1 token: one goroutine settles at a time

	mu     sync.Mutex
	doubts []*doubt
	// taken has, by instance, the greatest sequence number that a manifest in
	// doubt has or had. A later backup takes a greater number, whatever the
	// store lists, so that it makes no fork with a manifest that comes late.
	taken map[string]uint64
	left  []string // ids of sessions that ended and whose objects may still be in the store
	// named has, by instance, namings of backups that are over and in doubt.
	named map[string][]*Naming
	// looks has, by host tag, when removeEnded looked at sessions that could not be deleted.
	looks map[string]time.Time
}

func newLedger() *ledger {
	l := &ledger{turn: make(chan struct{}, 1), taken: map[string]uint64{}, named: map[string][]*Naming{}, looks: map[string]time.Time{}}
	l.turn <- struct{}{}
	return l
}

// doubt is a manifest of which nobody knows whether it is stored.
type doubt struct {
	backup  BackupRef
	key     string
	object  []byte
	session *Session // protects the packs of the backup meanwhile; nil where there is none
	packs   []PackRef
	// withdraw says that packs of the backup may be lost, so that a manifest that
	// is stored has to be taken away. Only the goroutine that settles changes withdraw.
	withdraw bool
}

func (l *ledger) add(d *doubt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubts = append(l.doubts, d)
	l.taken[d.backup.Instance] = max(l.taken[d.backup.Instance], d.backup.Seq)
	if d.session != nil {
		d.session.doubts++
	}
}

// remove forgets a doubt. over tells that its session has ended and has no other.
func (l *ledger) remove(d *doubt) (over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubts = slices.DeleteFunc(l.doubts, func(o *doubt) bool { return o == d })
	if d.session == nil {
		return false
	}
	d.session.doubts--
	return d.session.ended && d.session.doubts == 0
}

// end notes that nobody writes under the session any more, and
// tells whether its object can be removed.
func (l *ledger) end(s *Session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.ended = true
	return s.doubts == 0
}

// leave notes a session that ended and whose object may still be in the store.
func (l *ledger) leave(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = append(l.left, id)
}

// looked tells whether the sessions of the host tag need no look now.
func (l *ledger) looked(tag string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, known := l.looks[tag]
	return known && time.Since(at) < endedEvery
}

// look notes that the sessions of the host tag were looked at now.
func (l *ledger) look(tag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks[tag] = time.Now()
}

func (l *ledger) forget(ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = slices.DeleteFunc(l.left, func(id string) bool { return slices.Contains(ids, id) })
}

// seqTaken returns the greatest sequence number that a manifest in doubt
// of the instance has or had, and the last backup that is in doubt still.
func (l *ledger) seqTaken(instance string) (seq uint64, late BackupRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.doubts {
		if d.backup.Instance == instance && d.backup.Seq > late.Seq {
			late = d.backup
		}
	}
	return l.taken[instance], late
}

// InDoubt tells whether this process put the manifest of that backup and does not know yet whether
// it is stored.
func (v *Vault) InDoubt(instance, id string) bool {
	v.ledger.mu.Lock()
	defer v.ledger.mu.Unlock()
	return slices.ContainsFunc(v.ledger.doubts, func(d *doubt) bool { return d.backup.Instance == instance && d.backup.ID == id })
}

// outcome is the outcome of a manifest's put.
type outcome int

const (
	unknown outcome = iota
	stored
	overwritten // other bytes stand under its name
	absent      // the store does not have it now; a put that is under way may still come
)

// storeManifest puts a manifest and reads it back. When that fails,
// open tells that it may be stored all the same.
func (v *Vault) storeManifest(ctx context.Context, key string, object []byte) (open bool, err error) {
	if err := v.st.Put(ctx, key, object); err != nil {
		return obs.Uncertain(err), fmt.Errorf("store manifest: %w", err)
	}
	if _, err := compare(ctx, v.st, key, object); err != nil {
		return true, fmt.Errorf("read manifest back: %w", err)
	}
	return false, nil
}

// decide finds out the outcome of a manifest. It repeats the put: the name is written
// once, so the same bytes under it are harmless, and a confirmed put leaves nothing open.
// Where the store refuses that, only a look is left, which can tell that the manifest is
// there, and never that it will not come: the first put may still be under way.
func (v *Vault) decide(ctx context.Context, d *doubt, repeat bool) (outcome, error) {
	var perr error
	if repeat {
		if perr = v.st.Put(ctx, d.key, d.object); perr != nil {
			perr = fmt.Errorf("store it once more: %w", perr)
		}
	}
	is, rerr := compare(ctx, v.st, d.key, d.object)
	err := errors.Join(perr, rerr)
	switch is {
	case sameBytes:
		return stored, nil
	case otherBytes:
		return overwritten, err
	case missing:
		return absent, err
	case notRead:
	}
	return unknown, err
}

// confirm stores a manifest and returns nil only when the store gave back its very bytes, and
// the session was there after that or all packs were. An error that is ErrMayExist left a doubt
// in the ledger.
func (v *Vault) confirm(ctx context.Context, d *doubt) error {
	open, err := v.storeManifest(ctx, d.key, d.object)
	if err == nil {
		return v.keep(ctx, d)
	} else if !open {
		return err
	}
	again, cancel := v.hasty(ctx)
	defer cancel()
	what, derr := v.decide(again, d, true)
	switch what {
	case stored:
		return v.keep(ctx, d)
	case overwritten:
		return fmt.Errorf("read manifest back: %w", derr)
	case unknown, absent:
	}
	v.ledger.add(d)
	return fmt.Errorf("%w; %w: nobody knows whether manifest %s of instance %s is stored (%w)",
		err, ErrMayExist, d.backup.ID, d.backup.Instance, derr)
}

// putHeader puts a vault's header with put. When that fails and may have taken effect, it
// looks and, where the header is not there, puts it once more. obs.ErrExists says that another
// header has the name; an error that is obs.ErrUncertain, that it may come to have it.
func putHeader(ctx context.Context, st obs.Store, key string, doc []byte, put func(context.Context, string, []byte) error) error {
	err := put(ctx, key, doc)
	if !obs.Uncertain(err) {
		return err
	}
	switch is, _ := compare(ctx, st, key, doc); is {
	case sameBytes:
		return nil
	case otherBytes:
		return obs.ErrExists
	case missing:
		if put(ctx, key, doc) == nil {
			return nil
		}
	case notRead:
	}
	return err
}

// Settle resolves doubts: manifests whose put or reading back failed, and sessions
// that ended and could not be removed. It takes no request where there is neither.
// A process that stays calls it now and then; BeginSession resolves the manifests
// too. It returns the outcomes by backup; the error names the doubts that remain.
func (v *Vault) Settle(ctx context.Context) ([]Settled, error) {
	done, err := v.settleManifests(ctx)
	v.ledger.mu.Lock()
	left := slices.Clone(v.ledger.left)
	v.ledger.mu.Unlock()
	if len(left) == 0 {
		return done, err
	}
	if derr := v.removeSessions(ctx, left...); derr != nil {
		return done, errors.Join(err, fmt.Errorf("remove sessions that ended: %w", derr))
	}
	v.ledger.forget(left)
	return done, err
}

func (v *Vault) settleManifests(ctx context.Context) (done []Settled, err error) {
	l := v.ledger
	l.mu.Lock()
	any := len(l.doubts) > 0
	l.mu.Unlock()
	if !any {
		return nil, nil
	}
	select {
	case <-l.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { l.turn <- struct{}{} }()
	l.mu.Lock()
	doubts := slices.Clone(l.doubts)
	l.mu.Unlock()
	for _, d := range doubts {
		so, derr := v.settleOne(ctx, d)
		if so != nil {
			done = append(done, *so)
		}
		err = errors.Join(err, derr)
	}
	return done, err
}

// settleOne resolves one doubt; nil when it stays.
func (v *Vault) settleOne(ctx context.Context, d *doubt) (*Settled, error) {
	so := &Settled{Backup: d.backup}
	protected, what := true, unknown
	var err error
	if !d.withdraw {
		var repeat bool
		protected, repeat, err = v.mayRepeat(ctx, d)
		if err == nil {
			what, err = v.decide(ctx, d, repeat)
		}
		if what == stored {
			err = v.promise(ctx, d)
			d.withdraw = errors.Is(err, ErrSessionGone)
		}
	}
	if d.withdraw {
		if err = v.st.Delete(ctx, d.key); err == nil {
			what, protected, err = absent, false, ErrSessionGone
		}
	}
	switch {
	case what == stored && err == nil:
		so.Exists = true
	case what == overwritten:
		so.Err = err
	case what == absent && !protected:
		// Nobody puts it any more, and the packs of a manifest that
		// comes late may be gone: it can't be relied upon.
		so.Err = ErrSessionGone
	default:
		return nil, fmt.Errorf("backup %s of instance %s: %w: %w", d.backup.ID, d.backup.Instance, ErrMayExist, err)
	}
	over := v.ledger.remove(d)
	named := v.endNamings(ctx, d.backup.Instance)
	if !over {
		return so, named
	}
	return so, errors.Join(named, d.session.remove(ctx))
}

// mayRepeat tells whether the packs of a backup in doubt are protected still, and whether
// its manifest may be put once more. It may not when another host made a backup with the
// same sequence number meanwhile: the put would make a fork that may never have been.
func (v *Vault) mayRepeat(ctx context.Context, d *doubt) (protected, repeat bool, err error) {
	if d.session != nil {
		there, err := v.sessionThere(ctx, d.session.id)
		if err != nil || !there {
			return err != nil, false, err
		}
	}
	refs, err := v.Backups(ctx, d.backup.Instance)
	if err != nil {
		return true, false, err
	}
	fork := slices.ContainsFunc(refs, func(r BackupRef) bool { return r.Seq == d.backup.Seq && r.ID != d.backup.ID })
	newer := slices.ContainsFunc(refs, func(r BackupRef) bool { return r.Seq > d.backup.Seq })
	return true, !fork || newer, nil
}
