package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// Operators and rules of retention forget backups. A forgotten backup has
// a mark and stays until a prune deletes its manifest, which the prune
// announces first (going). A hold keeps a backup against all rules.

const (
	forgottenMagic = "HFFORG\x00\x01"
	maxMark        = 1 << 16
	maxReason      = 1 << 10 // bytes of a reason
)

// Forgotten is the mark of a backup that is to be deleted.
type Forgotten struct {
	Backup BackupRef `cbor:"-"`
	Host   string    `cbor:"1,keyasint"`
	At     time.Time `cbor:"2,keyasint"` // by the clock of that host
	Reason string    `cbor:"3,keyasint"`
	keys   []string  // of the marks of the backup; several where two hosts forgot it at once
}

func (v *Vault) forgottenPrefix() string { return v.info.ID + "/forgotten/" }

// refOfName is RefOf of instance/id.
func refOfName(name string) (BackupRef, bool) {
	instance, id, _ := strings.Cut(name, "/")
	return RefOf(instance, id)
}

func fullName(ref BackupRef) string { return ref.Instance + "/" + ref.ID }

// A mark is named instance/id.random: an object is written once, and a backup may be forgotten,
// brought back and forgotten again.
func refOfMark(name string) (BackupRef, bool) {
	at := strings.LastIndexByte(name, '.')
	if at < 0 || !condemnedPattern.MatchString(name[at+1:]) {
		return BackupRef{}, false
	}
	return refOfName(name[:at])
}

func isMarkName(name string) bool {
	_, ok := refOfMark(name)
	return ok
}

// randomName is 32 random hex digits.
func randomName() string {
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(r[:])
}

// ForgottenBackups returns the marks of the vault by instance/id: for each forgotten backup the
// latest mark. The error names marks that do not open (ErrCorrupt, ErrNewer), and all other marks
// are returned with it.
func (v *Vault) ForgottenBackups(ctx context.Context) (map[string]Forgotten, error) {
	all := map[string]Forgotten{}
	var failed error
	err := v.readSmall(ctx, v.forgottenPrefix(), "", maxMark, isMarkName, func(name string, object []byte) error {
		var m Forgotten
		if err := v.openSmall("forgotten", forgottenMagic, v.forgottenPrefix(), name, object, &m); err != nil {
			failed = errors.Join(failed, err)
			return nil
		}
		m.Backup, _ = refOfMark(name)
		of := fullName(m.Backup)
		keys := append(all[of].keys, v.forgottenPrefix()+name)
		if before, ok := all[of]; ok && before.At.After(m.At) {
			m = before
		}
		m.keys = keys
		all[of] = m
		return nil
	})
	if err != nil {
		return all, err // which says more than a mark that does not open
	}
	return all, failed
}

// ForgetBackups marks backups as forgotten. Each can be brought back with Unforget until a prune
// deletes it. The caller decides that nobody needs them; a prune looks again. host and reason
// are for people.
func (v *Vault) ForgetBackups(ctx context.Context, host, reason string, refs []BackupRef) error {
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, ref := range refs {
		g.Go(func() error {
			return v.putMark(gctx, Forgotten{Backup: ref, Host: host, At: time.Now().UTC(), Reason: cut(reason)})
		})
	}
	return g.Wait()
}

func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxReason)], "") }

func (v *Vault) putMark(ctx context.Context, m Forgotten) error {
	if _, ok := RefOf(m.Backup.Instance, m.Backup.ID); !ok {
		return fmt.Errorf("%w: %q has not the form of a backup's id", ErrNoBackup, fullName(m.Backup))
	}
	name := fullName(m.Backup) + "." + randomName()
	object, err := v.sealSmall("forgotten", forgottenMagic, name, &m)
	if err != nil {
		return err
	}
	if err := v.st.Put(ctx, v.forgottenPrefix()+name, object); err != nil {
		return fmt.Errorf("mark %s as forgotten: %w", fullName(m.Backup), err)
	}
	return nil
}

// Unforget takes the mark of a backup away. nil says that no prune deletes the
// backup because of that mark. ErrTooLate where a prune does already; then the
// mark is back. ErrSessionGone where an operator removed this session meanwhile:
// the mark is gone, and a repetition tells whether this was in time.
func (v *Vault) Unforget(ctx context.Context, o SessionOptions, ref BackupRef) error {
	marks, err := v.ForgottenBackups(ctx)
	m, marked := marks[fullName(ref)]
	switch {
	case !marked && err != nil:
		return err
	case !marked:
		return fmt.Errorf("backup %s is not forgotten", fullName(ref))
	}
	return v.save(ctx, o, ref,
		func(ctx context.Context) error { return v.st.Delete(ctx, m.keys...) },
		func(ctx context.Context) error { return v.putMark(ctx, m) })
}

// save calls do, which keeps a backup from being deleted, and finds out whether do came in time:
// save sees a prune that announced the backup before, and a prune that announces the backup later
// waits for this session and sees the effect of do.
func (v *Vault) save(ctx context.Context, o SessionOptions, ref BackupRef, do, undo func(context.Context) error) (err error) {
	o.Instance = fullName(ref)
	s, err := v.putSession(ctx, kindWriter, o, observe(o).process)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.End(ctx)) }()
	if err := do(ctx); err != nil {
		return err
	}
	g, err := v.announcedBy(ctx, o, ref)
	if err != nil {
		return err
	}
	late := &TooLateError{Backup: fullName(ref)}
	if g != nil {
		late.Host, late.Session = g.Host, g.Session
		return errors.Join(late, undo(ctx))
	}
	switch _, err := v.st.Stat(ctx, v.manifestKey(ref.Instance, ref.ID)); {
	case errors.Is(err, obs.ErrNotFound):
		return errors.Join(late, undo(ctx))
	case err != nil:
		return fmt.Errorf("look at the backup: %w", err)
	}
	there, err := v.sessionThere(ctx, s.id)
	if err == nil && !there {
		return fmt.Errorf("%w: try again, to find out whether the change came in time", ErrSessionGone)
	}
	return err
}

// newestOfAll is the reason for which the newest backups of an instance are kept.
const newestOfAll = "newest"

// heads returns the backups that no rule and no prune ever deletes, by instance/id, with the reason
// for people. They are of each instance the backups with the greatest sequence number, the newest
// complete backup of each branch, and the first backup of each branch that forked from another one.
// refs are in the order of Backups.
func heads(refs []BackupRef) map[string]string {
	all := map[string]string{}
	for len(refs) > 0 {
		n := slices.IndexFunc(refs, func(r BackupRef) bool { return r.Instance != refs[0].Instance })
		if n < 0 {
			n = len(refs)
		}
		one := refs[:n]
		refs = refs[n:]
		l := LineageOf(one)
		for id, why := range l.Keep() {
			if len(l.branches) == 1 {
				why = newestOfAll
			}
			all[one[0].Instance+"/"+id] = why
		}
		for _, r := range one {
			if r.Seq == one[n-1].Seq {
				all[fullName(r)] = newestOfAll
			}
		}
	}
	return all
}

// Kept has the reasons beside rules of retention for which backups must not be deleted.
type Kept struct {
	heads map[string]string
	holds map[string][]Hold
	read  []SessionInfo
}

// Why returns the reasons for which the backup is kept, for people; none where the backup may be
// deleted.
func (k *Kept) Why(ref BackupRef) (why []string) {
	if reason := k.heads[fullName(ref)]; reason != "" {
		why = append(why, reason)
	}
	for _, h := range k.holds[fullName(ref)] {
		why = append(why, "held: "+h.Reason)
	}
	for _, s := range k.read {
		if s.reads(ref) {
			why = append(why, "read by "+s.Host)
		}
	}
	return why
}

// Keeps reads holds and sessions, and returns the reasons for which backups must not be deleted at
// that time. refs are all backups of each instance that the caller asks about. An object that does
// not open is an error: nothing may be deleted.
func (v *Vault) Keeps(ctx context.Context, refs []BackupRef, now time.Time) (*Kept, error) {
	k := &Kept{heads: heads(refs), holds: map[string][]Hold{}}
	holds, err := v.Holds(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range holds {
		if h.Until.IsZero() || now.Before(h.Until) {
			k.holds[h.name()] = append(k.holds[h.name()], h)
		}
	}
	all, err := v.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.mayRead() {
			k.read = append(k.read, s)
		}
	}
	return k, nil
}

// maxSkew is how far this host's clock may be from the clock of the store when times decide.
const maxSkew = 10 * time.Minute

// ErrClock says that this host's clock and the clock of the store differ too much to let times
// decide.
var ErrClock = errors.New("the clocks of this host and of the store differ")

// CheckClock compares this host's clock with the clock of the store, by an
// object that CheckClock puts and deletes. ErrClock where they are more than
// ten minutes apart; nil also where the store does not tell its time.
func (v *Vault) CheckClock(ctx context.Context, o SessionOptions) error {
	s, err := v.putSession(ctx, kindReader, o, observe(o).process)
	if err != nil {
		return err
	}
	return errors.Join(s.checkClock(ctx, time.Now()), s.End(ctx))
}

// checkClock is CheckClock by a session that was put just now.
func (s *Session) checkClock(ctx context.Context, now time.Time) error {
	at, err := s.storeTime(ctx)
	if err != nil {
		return err
	}
	if off := now.Sub(at); !at.IsZero() && (off > maxSkew || off < -maxSkew) {
		return fmt.Errorf("%w by %v: set the clock of this host, or of the store, and try again", ErrClock, off.Round(time.Second))
	}
	return nil
}

// storeTime returns when the session was put, by the store's clock. It is zero where the store does
// not tell its time.
func (s *Session) storeTime(ctx context.Context) (time.Time, error) {
	info, err := s.v.st.Stat(ctx, s.v.sessionsPrefix()+s.id)
	if err != nil {
		return time.Time{}, fmt.Errorf("look at the store's clock: %w", err)
	}
	return info.Modified, nil
}

// lockedUntil returns until when the store locks the objects that are locked at that time. It takes
// a request an object, and no request in a store without object lock.
func (v *Vault) lockedUntil(ctx context.Context, keys []string, now time.Time) (map[string]time.Time, error) {
	locked := map[string]time.Time{}
	if v.st.Capabilities().Retain == 0 {
		return locked, nil
	}
	var mu sync.Mutex
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, key := range keys {
		g.Go(func() error {
			info, err := v.st.Stat(gctx, key)
			if errors.Is(err, obs.ErrNotFound) {
				return nil
			} else if err != nil {
				return fmt.Errorf("look at the lock of %s: %w", key, err)
			}
			if info.RetainUntil.After(now) {
				mu.Lock()
				defer mu.Unlock()
				locked[key] = info.RetainUntil
			}
			return nil
		})
	}
	return locked, g.Wait()
}
