package vault

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
)

// This file reads the sessions of a vault: of all hosts, of processes that have ended, and damaged
// ones.

const (
	// pruneSuffix ends the names of the sessions of collectors.
	pruneSuffix = "-prune"
	// endedSuffix and the name of a session are the name of the object by which a process ends a
	// session that the process may not delete.
	endedSuffix = ".ended"
	endedMark   = "HFENDED 1\n"
	// plainTag is the host tag of a copier that has no key, and plainSessionMagic begins its
	// session, which is not sealed.
	plainTag          = "0000000000000000"
	plainSessionMagic = "HFSESS\x00\x00"
	// damagedStands is how long a prune counts a damaged session as work under way, by the clock
	// of the store. Then the prune removes the session: a backup that is under way all the same
	// notices, and is made again where a pack of it is lost.
	damagedStands = 24 * time.Hour
)

// SessionInfo describes a session that is in the store.
type SessionInfo struct {
	ID   string `json:"id"`
	Host string `json:"host"`
	// Kind is "backup", "instance" (see Naming), "reader", "prune", "damaged" where the session
	// does not open, or "unknown" for a kind of a later version.
	Kind string `json:"kind"`
	// Instance is the instance of a backup, or names the backups that a reader reads (see Reads).
	Instance string    `json:"instance"`
	PID      int       `json:"pid"`
	Begun    time.Time `json:"begun"` // by that host's clock; of a damaged session by the store's
	// Damaged says why the session does not open. A damaged session counts as work under way.
	Damaged string `json:"damaged,omitempty"`
	body    sessionBody
	fault   error
	put     time.Time // by the store's clock; zero where the store does not tell it
}

// collects tells whether the session is of a collector.
func (s *SessionInfo) collects() bool {
	return s.body.Kind == kindCollector || s.Damaged != "" && strings.HasSuffix(s.ID, pruneSuffix)
}

// writes tells whether the session may be of a writer.
func (s *SessionInfo) writes() bool { return s.body.Kind != kindReader && !s.collects() }

// mayRead tells whether the session may be of a reader.
func (s *SessionInfo) mayRead() bool {
	return s.body.Kind == kindReader || s.Damaged != "" && !s.collects()
}

// reads tells whether the session is of a reader that may read the backup.
func (s *SessionInfo) reads(ref BackupRef) bool {
	return s.mayRead() && strings.HasPrefix(fullName(ref), s.Instance)
}

// kindName is a kind of sessions in a word.
func kindName(kind int) string {
	switch kind {
	case kindWriter:
		return "backup"
	case kindCollector:
		return "prune"
	case kindReader:
		return "reader"
	case kindNaming:
		return "instance"
	}
	return "unknown"
}

func describeSession(s SessionInfo) string {
	if s.Damaged != "" {
		return fmt.Sprintf("the session %s, which does not open (%s); holdfast vault sessions --forget %s removes it", s.ID, s.Damaged, s.ID)
	}
	what := s.Kind
	if s.Instance != "" {
		what += " of " + s.Instance
	}
	return fmt.Sprintf("%s on host %s, session begun %s", what, s.Host, s.Begun.UTC().Format(time.RFC3339))
}

// hasKey tells whether the vault was opened with a key.
func (v *Vault) hasKey() bool { return v.header != nil }

// sealSession is the object of a session.
func (v *Vault) sealSession(id string, b *sessionBody) ([]byte, error) {
	if v.hasKey() {
		return v.sealSmall("session", sessionMagic, id, b)
	}
	plain, err := encMode.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode session: %w", err)
	}
	return append([]byte(plainSessionMagic), plain...), nil
}

// openSession opens what sealSession made. Anybody can make a session that is not sealed, so such a
// session is only a writer's. ErrCorrupt, ErrNewer.
func (v *Vault) openSession(id string, object []byte) (b sessionBody, err error) {
	plain, ok := bytes.CutPrefix(object, []byte(plainSessionMagic))
	if !ok {
		err = v.openSmall("session", sessionMagic, v.sessionsPrefix(), id, object, &b)
		return b, err
	}
	if err := decodeSmall(plain, &b); format.IsNewer(err) {
		return sessionBody{}, fmt.Errorf("object %s: %w", v.sessionsPrefix()+id, err)
	} else if err != nil {
		return sessionBody{}, &CorruptError{Object: v.sessionsPrefix() + id, Reason: err.Error()}
	}
	b.Kind = kindWriter
	return b, nil
}

// Sessions returns the sessions of the vault, by host and instance, damaged ones too.
func (v *Vault) Sessions(ctx context.Context) ([]SessionInfo, error) {
	return v.sessionsSeen(ctx, new(seenSessions))
}

// seenSessions are the sessions that one process has read, by their names. A session is written
// once, so it need not be read again. It is for one goroutine.
type seenSessions struct{ of map[string]SessionInfo }

// sessionsSeen is Sessions, and reads only sessions that are not in seen.
func (v *Vault) sessionsSeen(ctx context.Context, seen *seenSessions) ([]SessionInfo, error) {
	var before []SessionInfo
	all, err := v.openSessions(ctx, "", func(id string) bool {
		if s, has := seen.of[id]; has {
			before = append(before, s)
			return false
		}
		return sessionPattern.MatchString(id)
	})
	all = append(all, before...)
	seen.of = map[string]SessionInfo{}
	for _, s := range all {
		if s.Damaged == "" {
			seen.of[s.ID] = s
		}
	}
	slices.SortFunc(all, func(a, b SessionInfo) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

// listSessions lists the sessions whose names begin with prefix. ended are the names of sessions
// that their processes have ended and could not delete.
func (v *Vault) listSessions(ctx context.Context, prefix string) (stand []obs.Info, ended []string, err error) {
	marked := map[string]bool{}
	for info, err := range v.st.List(ctx, v.sessionsPrefix()+prefix) {
		if err != nil {
			return nil, nil, fmt.Errorf("list the sessions: %w", err)
		}
		if id, is := strings.CutSuffix(v.sessionOf(info), endedSuffix); is {
			marked[id] = true
		} else if sessionPattern.MatchString(id) {
			stand = append(stand, info)
		}
	}
	stand = slices.DeleteFunc(stand, func(info obs.Info) bool { return marked[v.sessionOf(info)] })
	for id := range marked {
		ended = append(ended, id)
	}
	slices.Sort(ended)
	return stand, ended, nil
}

func (v *Vault) sessionOf(info obs.Info) string {
	return strings.TrimPrefix(info.Key, v.sessionsPrefix())
}

// readSessions reads the sessions whose names begin with prefix and that are wanted. The error
// tells of damaged sessions too, which are returned with all others.
func (v *Vault) readSessions(ctx context.Context, prefix string, wanted func(id string) bool) ([]SessionInfo, error) {
	all, err := v.openSessions(ctx, prefix, wanted)
	for _, s := range all {
		err = errors.Join(err, s.fault)
	}
	return all, err
}

// openSessions is readSessions with no error for damaged sessions.
func (v *Vault) openSessions(ctx context.Context, prefix string, wanted func(id string) bool) (all []SessionInfo, err error) {
	infos, _, err := v.listSessions(ctx, prefix)
	if err != nil {
		return nil, err
	}
	return v.openListed(ctx, infos, wanted)
}

// openListed is openSessions for sessions that are listed already.
func (v *Vault) openListed(ctx context.Context, infos []obs.Info, wanted func(id string) bool) (all []SessionInfo, err error) {
	put := map[string]time.Time{}
	bad := func(id string, err error) {
		kind := "damaged"
		if strings.HasSuffix(id, pruneSuffix) {
			kind = kindName(kindCollector)
		} else if errors.Is(err, ErrNewer) {
			kind = kindName(0)
		}
		all = append(all, SessionInfo{ID: id, Host: "unknown", Kind: kind, Begun: put[id], Damaged: err.Error(), fault: err, put: put[id]})
	}
	infos = slices.DeleteFunc(infos, func(info obs.Info) bool {
		id := v.sessionOf(info)
		put[id] = info.Modified
		want := wanted(id)
		if want && info.Size > maxSession {
			bad(id, &CorruptError{Object: info.Key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", info.Size, maxSession)})
			return true
		}
		return !want
	})
	err = v.readListed(ctx, v.sessionsPrefix(), infos, func(id string, object []byte) error {
		b, err := v.openSession(id, object)
		if err == nil {
			all = append(all, SessionInfo{ID: id, Host: b.Host, Kind: kindName(b.Kind), Instance: b.Instance, PID: b.Process.PID, Begun: b.Begun, body: b, put: put[id]})
		}
		return err
	}, bad)
	return all, err
}

// removeSessions removes sessions whose processes have ended. Where the store refuses to delete
// them, removeSessions puts an object beside each that tells of its end.
func (v *Vault) removeSessions(ctx context.Context, ids ...string) error {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = v.sessionsPrefix() + id
	}
	err := v.st.Delete(ctx, keys...)
	if !errors.Is(err, obs.ErrAccess) {
		return err
	}
	for _, key := range keys {
		if perr := v.st.Put(ctx, key+endedSuffix, []byte(endedMark)); perr != nil {
			return errors.Join(err, perr)
		}
	}
	return nil
}

// sweepSessions removes the sessions that their processes have ended and could not delete.
func (v *Vault) sweepSessions(ctx context.Context) error {
	_, ended, err := v.listSessions(ctx, "")
	if err != nil || len(ended) == 0 {
		return err
	}
	keys := make([]string, 0, 2*len(ended))
	for _, id := range ended {
		keys = append(keys, v.sessionsPrefix()+id)
	}
	// Without its mark a session would stand again, so the marks go when the sessions are gone.
	if err := v.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("remove sessions that ended: %w", err)
	}
	for i := range keys {
		keys[i] += endedSuffix
	}
	if err := v.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("remove the marks of sessions that ended: %w", err)
	}
	return nil
}

// removeDamaged removes the damaged sessions that stand for longer than damagedStands at that time
// of the store's clock, and tells warn of each damaged session. A session of a later version stays,
// and so does a session of a collector, since its process may only be paused before its deletes and
// a copy would begin beside it.
func (v *Vault) removeDamaged(ctx context.Context, now time.Time, seen *seenSessions, warn func(error)) error {
	all, err := v.sessionsSeen(ctx, seen)
	if err != nil {
		return err
	}
	var old []string
	for _, s := range all {
		switch {
		case s.Damaged == "":
		case s.collects():
			warn(fmt.Errorf("a prune or a copy may be under way, so no copy begins in this vault: %s when that process has ended for certain", describeSession(s)))
		case errors.Is(s.fault, ErrNewer) || s.put.IsZero() || now.IsZero() || now.Sub(s.put) < damagedStands:
			warn(fmt.Errorf("a session of the vault counts as work under way: %s", describeSession(s)))
		default:
			warn(fmt.Errorf("a damaged session, which stands for longer than %v, is removed: %s", damagedStands, s.Damaged))
			old = append(old, v.sessionsPrefix()+s.ID)
		}
	}
	if err := v.st.Delete(ctx, old...); err != nil {
		return fmt.Errorf("remove damaged sessions: %w", err)
	}
	return nil
}

// ForgetHost removes the sessions of a host that is gone for ever, and returns how
// many. Of this host's own it leaves those whose process may still run. Should
// the host be alive after all, its backups under way notice and begin anew.
func (v *Vault) ForgetHost(ctx context.Context, host string) (int, error) {
	all, err := v.Sessions(ctx)
	if err != nil {
		return 0, err
	}
	me := observe(SessionOptions{Host: host})
	var gone []string
	for _, s := range all {
		p := s.body.Process
		if s.Damaged == "" && s.Host == host && (p.Boot != me.Boot || me.ended(p, s.Host)) {
			gone = append(gone, v.sessionsPrefix()+s.ID)
		}
	}
	if err := v.st.Delete(ctx, gone...); err != nil {
		return 0, fmt.Errorf("remove sessions: %w", err)
	}
	return len(gone), nil
}

// IsSessionID tells whether s has the form of an id that ForgetSession takes.
func IsSessionID(s string) bool { return sessionPattern.MatchString(s) || isGoingName(s) }

func isGoingName(s string) bool {
	id, is := strings.CutPrefix(s, goingName)
	return is && condemnedPattern.MatchString(id)
}

// ForgetSession removes one session, also a damaged one, and the announcements under it of backups
// that are about to be deleted. A backup whose session was removed notices. A prune or copy whose
// session was removed has to have ended: a hold could else come too late without a word, and a
// copy could lose packs. An announcement that does not open names no session, so it stays;
// ForgetSession removes it by its own id, "going/" and its name. ErrSessionGone where the vault has
// nothing of that id.
func (v *Vault) ForgetSession(ctx context.Context, id string) error {
	if isGoingName(id) {
		return v.forgetDamagedGoing(ctx, strings.TrimPrefix(id, goingName))
	}
	var keys []string
	switch _, err := v.st.Stat(ctx, v.sessionsPrefix()+id); {
	case err == nil:
		keys = append(keys, v.sessionsPrefix()+id)
	case !errors.Is(err, obs.ErrNotFound):
		return fmt.Errorf("look at session: %w", err)
	}
	all, _, err := v.readGoing(ctx)
	if err != nil {
		return err
	}
	for name, g := range all {
		if g.Session == id {
			keys = append(keys, v.goingPrefix()+name)
		}
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: %s is no session of this vault, and no announcement names it", ErrSessionGone, id)
	}
	// The session goes last: a killed ForgetSession can be repeated.
	slices.Reverse(keys)
	if err := v.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("remove session: %w", err)
	}
	return nil
}

// forgetDamagedGoing removes an announcement that does not open.
func (v *Vault) forgetDamagedGoing(ctx context.Context, id string) error {
	all, bad, err := v.readGoing(ctx)
	if err != nil {
		return err
	}
	if g, sound := all[id]; sound {
		return fmt.Errorf("the announcement %s%s opens: it goes with its session, %s", goingName, id, g.Session)
	}
	if bad[id] == nil {
		return fmt.Errorf("%w: the vault has no announcement %s%s", ErrSessionGone, goingName, id)
	}
	if err := v.st.Delete(ctx, v.goingPrefix()+id); err != nil {
		return fmt.Errorf("remove the announcement: %w", err)
	}
	return nil
}

// Describe says for people whose session it is, and how an operator removes a damaged one.
func (s *SessionInfo) Describe() string { return describeSession(*s) }
