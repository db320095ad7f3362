package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/hostid"
	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
)

// ErrSessionGone says that a session's object is no longer in the
// store, so that packs the backup rests on may have been collected.
var ErrSessionGone = errors.New("the backup's session was removed from the vault")

// Session tells a collector that somebody is writing to the vault: while its object is in
// the store, only packs are deleted that were condemned before it began. A writer begins a
// session before it looks at any list of stored content (index, catalogue, manifests, packs
// of an earlier try), writes its manifest through it, and ends it. Several backups of one
// process may be made under one session, at once or one after the other; End comes after the
// last. A crash leaves the object, which the next BeginSession on the same host removes.
type Session struct {
	v         *Vault
	id        string
	condemned []PackID
	options   SessionOptions

	// manifests under it of which nobody knows whether they are stored; guarded by the ledger's mu
	doubts int
	ended  bool // nobody writes under it any more; guarded by the ledger's mu
}

// SessionOptions say whose session it is.
type SessionOptions struct {
	Host string // name of the host, the same after each boot of it and no other host's
	// Identity tells this host from all others. Without one, nobody
	// says after a reboot that its sessions have ended.
	Identity hostid.Identity
	Instance string // for whose backup it is begun; for people, see Naming
	// Warn is told of sessions that could not be looked at or removed,
	// and of backups that are in doubt still. Nil is allowed.
	Warn func(error)
	// Mended is told about a part that the vault lacked, and has again. Nil is allowed.
	Mended func(error)
	// Settled is told of each backup that was in doubt, and of which
	// it shows now whether it exists. Nil is allowed.
	Settled func(Settled)
}

// sessionBody is the sealed content of a session's object.
type sessionBody struct {
	Kind     int       `cbor:"1,keyasint"`
	Host     string    `cbor:"2,keyasint"`
	Instance string    `cbor:"3,keyasint"`
	Begun    time.Time `cbor:"4,keyasint"` // for people only
	Process  process   `cbor:"5,keyasint"`
}

// The kinds of sessions. A collector waits for writers, for namings, for readers of backups
// that it did not find, and for unknown kinds, and not for other collectors.
const (
	kindWriter    = 1
	kindCollector = 2
	kindReader    = 3 // the field instance names the backups that it reads
	kindNaming    = 4 // the field instance names the instance of one backup under way
)

const (
	sessionMagic = "HFSESS\x00\x01"
	maxSession   = 1 << 16
	// endTime bounds how long the end of a session may hold up a
	// backup that is done or was given up.
	endTime = 10 * time.Second
	// hastyEnd is the same for a session that was told
	// to end: an instance may be held until it has.
	hastyEnd = time.Second
)

// A session's name tells whether a collector put the session, so that a copier without a key knows.
var sessionPattern = regexp.MustCompile(`^[0-9a-f]{16}-[0-9a-f]{32}(` + pruneSuffix + `)?$`)

// running are the ids of the sessions that this process has under way. A session that
// names this process and is not in here has ended, but its object could not be deleted.
var running sync.Map

func (v *Vault) sessionsPrefix() string { return v.info.ID + "/sessions/" }

// hostTag begins the names of the sessions of one machine, so that it finds
// its own without reading the others'. All state folders of a machine have
// it in common; where there is no machine id, the identity stands for it.
func (v *Vault) hostTag(p process) string {
	if !v.hasKey() {
		return plainTag
	}
	k := format.Subkey(v.meta, "host", []byte(cmp.Or(p.Machine, p.Identity)))
	return hex.EncodeToString(k[:8])
}

// BeginSession stores a session, removes sessions of this host whose process has
// ended, and reads which packs are condemned. It takes three requests when nothing
// is to be removed and nothing is condemned; a manifest and the end take one each.
func (v *Vault) BeginSession(ctx context.Context, o SessionOptions) (*Session, error) {
	// Before this backup takes its sequence number.
	within, cancel := context.WithTimeout(ctx, endTime)
	settled, err := v.settleManifests(within)
	cancel()
	for _, so := range settled {
		if o.Settled != nil {
			o.Settled(so)
		}
	}
	if err != nil && o.Warn != nil {
		o.Warn(err)
	}
	me := observe(o)
	s, err := v.putSession(ctx, kindWriter, o, me.process)
	if err != nil {
		return nil, err
	}
	if err := v.removeEndedSeldom(ctx, me); err != nil && o.Warn != nil {
		o.Warn(err)
	}
	// Invariant session-first: from here on, either the collector waits
	// for this session, or the session sees the collector's condemnations.
	if s.condemned, err = v.readCondemned(ctx); err != nil {
		return nil, errors.Join(err, s.End(ctx))
	}
	return s, nil
}

func (v *Vault) putSession(ctx context.Context, kind int, o SessionOptions, me process) (*Session, error) {
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	s := &Session{v: v, id: v.hostTag(me) + "-" + hex.EncodeToString(r[:]), options: o}
	if kind == kindCollector {
		s.id += pruneSuffix
	}
	object, err := v.sealSession(s.id, &sessionBody{
		Kind: kind, Host: o.Host, Instance: o.Instance, Begun: time.Now().UTC(), Process: me,
	})
	if err != nil {
		return nil, err
	}
	running.Store(s.id, true)
	if err := v.st.Put(ctx, v.sessionsPrefix()+s.id, object); err != nil {
		// should it be there all the same, the next session or Settle removes it
		running.Delete(s.id)
		if obs.Uncertain(err) {
			v.ledger.leave(s.id)
		}
		return nil, fmt.Errorf("store session: %w", err)
	}
	return s, nil
}

// endedEvery is how often the sessions of this machine are looked at where sessions stay that
// could not be deleted.
const endedEvery = time.Hour

// removeEndedSeldom is removeEnded for each backup and each reader. With credentials that only
// append, the list of the machine's sessions grows for as long as nobody prunes. Therefore, when
// the list has such sessions, the process looks only once in endedEvery: the sessions that it left
// itself are known to it.
func (v *Vault) removeEndedSeldom(ctx context.Context, me observer) error {
	if v.ledger.looked(v.hostTag(me.process)) {
		return nil
	}
	return v.removeEnded(ctx, me)
}

// removeEnded removes the sessions of this machine whose process has ended.
func (v *Vault) removeEnded(ctx context.Context, me observer) error {
	tag := v.hostTag(me.process)
	infos, marked, err := v.listSessions(ctx, tag+"-")
	if err != nil {
		return fmt.Errorf("remove sessions that ended: %w", err)
	}
	all, err := v.openListed(ctx, infos, func(id string) bool {
		_, mine := running.Load(id)
		return !mine && sessionPattern.MatchString(id)
	})
	var ended []string
	for _, s := range all {
		err = errors.Join(err, s.fault)
		if s.Damaged == "" && (me.is(s.body.Process) || me.ended(s.body.Process, s.Host)) {
			ended = append(ended, s.ID)
		}
	}
	if len(ended) > 0 {
		err = errors.Join(err, v.removeSessions(ctx, ended...))
	}
	if err != nil {
		return fmt.Errorf("remove sessions that ended: %w", err)
	}
	if len(marked) > 0 {
		v.ledger.look(tag)
	}
	return nil
}

// Condemned returns the packs that a collector is
// about to delete: their content is to be stored anew.
func (s *Session) Condemned() []PackID { return slices.Clone(s.condemned) }

// WriteManifest is Vault.WriteManifest under this session, of a vault that can be opened (see
// Confirm). nil says that the backup is made: the session was still there after the store had
// confirmed the manifest, or a longer look found all packs, so every pack of the backup stays until
// the manifest is deleted. ErrSessionGone when the session is not there any more and packs may be
// lost: no such backup exists, and it has to be made again, under another session.
func (s *Session) WriteManifest(ctx context.Context, m *Manifest) error {
	g, gctx := contain.WithContext(ctx)
	g.Go(func() error { // to spare a manifest that would have to be taken away again
		there, err := s.v.sessionThere(gctx, s.id)
		if err == nil && !there {
			return ErrSessionGone
		}
		return err
	})
	g.Go(func() error { return s.v.Confirm(gctx, s.options.Mended) })
	if err := g.Wait(); err != nil {
		return err
	}
	return s.v.writeManifest(ctx, m, s)
}

// End removes the session: its manifests are stored, or never will be. When that
// is not known of one, the session stays until Settle finds out or this process
// has ended, since a manifest that comes late must find its packs. A session
// that could not be removed goes with Settle or with the host's next one.
func (s *Session) End(ctx context.Context) error {
	if !s.v.ledger.end(s) {
		return nil
	}
	return s.remove(ctx)
}

func (s *Session) remove(ctx context.Context) error {
	defer running.Delete(s.id)
	limit := endTime
	if ctx.Err() != nil {
		limit = hastyEnd
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if err := s.v.removeSessions(ctx, s.id); err != nil {
		s.v.ledger.leave(s.id)
		return fmt.Errorf("remove session: %w", err)
	}
	return nil
}
