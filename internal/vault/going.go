package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/obs"
)

const (
	goingMagic = "HFGOIN\x00\x01"
	// goingName and the name of an announcement name it to ForgetSession.
	goingName = "going/"
	// maxGoing is how many backups one announcement names; a prune puts several.
	maxGoing       = 1 << 12
	maxGoingObject = 1 << 20
	// lateRequests is how long the last request of a process that has ended may take to arrive.
	lateRequests = time.Minute
)

// going announces that a prune or a copy deletes the manifests of backups.
type going struct {
	Session string   `cbor:"1,keyasint"` // id of the session under which the backups are deleted
	Backups []string `cbor:"2,keyasint"` // instance/id
	Host    string   `cbor:"3,keyasint"`
	Process process  `cbor:"4,keyasint"`
}

func (v *Vault) goingPrefix() string { return v.info.ID + "/going/" }

// announcement is how a prune or a copy deletes manifests. The announcement names the backups
// first, so that a process which wants to keep one of them knows that it is too late. It is for one
// goroutine. A crash leaves objects in going/. No backup that they name can be held until the next
// prune has deleted the backup, or until it is known that the process has ended.
type announcement struct {
	s    *Session
	puts map[string][]BackupRef // by the name of the object; also where a put is in doubt
	// sent says that a delete of manifests has no answer. It may still arrive, so nobody may be
	// told that the announced backups stay.
	sent bool
}

// announce announces that the backups are deleted under the session.
func (s *Session) announce(ctx context.Context, all []BackupRef) (*announcement, error) {
	a := &announcement{s: s, puts: map[string][]BackupRef{}}
	me := observe(s.options).process
	for refs := range slices.Chunk(all, maxGoing) {
		g := going{Session: s.id, Host: s.options.Host, Process: me}
		for _, ref := range refs {
			g.Backups = append(g.Backups, fullName(ref))
		}
		id := randomName()
		object, err := s.v.sealSmall("going", goingMagic, id, &g)
		if err != nil {
			return a, err
		}
		a.puts[id] = refs
		if err := s.v.st.Put(ctx, s.v.goingPrefix()+id, object); err != nil {
			return a, fmt.Errorf("announce which backups are deleted: %w", err)
		}
	}
	return a, nil
}

// names are the announced backups, instance/id.
func (a *announcement) names() map[string]bool {
	all := map[string]bool{}
	for _, refs := range a.puts {
		for _, ref := range refs {
			all[fullName(ref)] = true
		}
	}
	return all
}

// deletes deletes manifests of announced backups. ErrSessionGone where somebody has removed the
// announcement: then a backup may be held, and nothing is deleted.
func (a *announcement) deletes(ctx context.Context, manifests []string) error {
	v := a.s.v
	there := 0
	for info, err := range v.st.List(ctx, v.goingPrefix()) {
		if err != nil {
			return fmt.Errorf("look at the announcement: %w", err)
		}
		if _, own := a.puts[strings.TrimPrefix(info.Key, v.goingPrefix())]; own {
			there++
		}
	}
	if there < len(a.puts) {
		return fmt.Errorf("%w: its announcement of the backups to delete is gone, so a hold may keep one of them; begin again", ErrSessionGone)
	}
	a.sent = true
	if err := v.st.Delete(ctx, manifests...); err != nil {
		return fmt.Errorf("delete manifests: %w", err)
	}
	a.sent = false
	return nil
}

// finish ends the announcement. After an error, the objects stay when a delete may still arrive.
// When the work succeeded, finish also ends each announcement of another process of which all
// backups are gone. A nil announcement has nothing to end.
func (a *announcement) finish(ctx context.Context, failed error) error {
	if a == nil || failed != nil && a.sent {
		return nil
	}
	v := a.s.v
	var keys []string
	for id := range a.puts {
		keys = append(keys, v.goingPrefix()+id)
	}
	if failed == nil {
		old, err := v.overGoing(ctx, a.puts, a.s.options.Warn)
		if err != nil {
			return err
		}
		keys = append(keys, old...)
	}
	slices.Sort(keys)
	if err := v.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("end the announcement of deleted backups: %w", err)
	}
	clear(a.puts)
	return nil
}

// overGoing returns the keys of the announcements but own of which all backups are gone. An
// announcement that does not open stays, and warn is told: nobody knows which backups it names, and
// it must not stop the work of any prune. warn may be nil.
func (v *Vault) overGoing(ctx context.Context, own map[string][]BackupRef, warn func(error)) (keys []string, err error) {
	all, bad, err := v.readGoing(ctx)
	if err != nil {
		return nil, err
	}
	if failed := damagedGoing(bad); failed != nil && warn != nil {
		warn(failed)
	}
	for id := range own {
		delete(all, id)
	}
	if len(all) == 0 {
		return nil, nil
	}
	refs, err := v.Backups(ctx, "")
	if err != nil {
		return nil, err
	}
	there := backupSet(refs)
	for id, g := range all {
		if !slices.ContainsFunc(g.Backups, func(name string) bool { return there[name] }) {
			keys = append(keys, v.goingPrefix()+id)
		}
	}
	return keys, nil
}

// readGoing returns the announcements of prunes and copies by their names, and the faults of the
// announcements that do not open.
func (v *Vault) readGoing(ctx context.Context) (all map[string]going, bad map[string]error, err error) {
	all, bad = map[string]going{}, map[string]error{}
	var infos []obs.Info
	for info, err := range v.st.List(ctx, v.goingPrefix()) {
		if err != nil {
			return nil, nil, fmt.Errorf("list the announcements of prunes: %w", err)
		}
		id := strings.TrimPrefix(info.Key, v.goingPrefix())
		switch {
		case !condemnedPattern.MatchString(id):
		case info.Size > maxGoingObject:
			bad[id] = &CorruptError{Object: info.Key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", info.Size, maxGoingObject)}
		default:
			infos = append(infos, info)
		}
	}
	err = v.readListed(ctx, v.goingPrefix(), infos, func(id string, object []byte) error {
		var g going
		if err := v.openSmall("going", goingMagic, v.goingPrefix(), id, object, &g); err != nil {
			return err
		}
		all[id] = g
		return nil
	}, func(id string, err error) { bad[id] = err })
	if err != nil {
		return nil, nil, fmt.Errorf("read the announcements of prunes: %w", err)
	}
	return all, bad, nil
}

// damagedGoing is an error that names the announcements that do not open; nil where there is none.
func damagedGoing(bad map[string]error) (failed error) {
	for _, id := range slices.Sorted(maps.Keys(bad)) {
		failed = errors.Join(failed, fmt.Errorf("an announcement of deleted backups does not open: %w; when no prune and no copy --delete-extra "+
			"is under way, holdfast vault sessions --forget %s%s removes the announcement", bad[id], goingName, id))
	}
	return failed
}

// announcedBy returns an announcement that names the backup, of a process that may still be alive;
// nil where there is none. announcedBy ends announcements of which this host can tell that the
// process has ended, after the time in which a last request of that process may arrive.
func (v *Vault) announcedBy(ctx context.Context, o SessionOptions, ref BackupRef) (*going, error) {
	all, bad, err := v.readGoing(ctx)
	if err == nil {
		err = damagedGoing(bad) // which may name the backup
	}
	if err != nil {
		return nil, err
	}
	me := observe(o)
	var dead []string
	for id, g := range all {
		if !slices.Contains(g.Backups, fullName(ref)) {
			continue
		}
		_, runs := running.Load(g.Session)
		if runs || !me.is(g.Process) && !me.ended(g.Process, g.Host) {
			return &g, nil
		}
		dead = append(dead, v.goingPrefix()+id)
	}
	if len(dead) == 0 {
		return nil, nil
	}
	if err := pause(ctx, lateRequests); err != nil {
		return nil, err
	}
	slices.Sort(dead)
	if err := v.st.Delete(ctx, dead...); err != nil {
		return nil, fmt.Errorf("end the announcement of a process that has ended: %w", err)
	}
	return nil, nil
}

// TooLateError says that a prune or a copy deletes a backup already. It is an ErrTooLate.
type TooLateError struct {
	Backup        string // instance/id
	Host, Session string // of the process that deletes the backup; "" where the backup is gone
}

func (e *TooLateError) Error() string {
	if e.Session == "" {
		return fmt.Sprintf("%v: %s", ErrTooLate, e.Backup)
	}
	return fmt.Sprintf("%v: %s, on host %s, session %s; if that process has ended for certain, holdfast vault sessions --forget %s ends its work, and then try again",
		ErrTooLate, e.Backup, e.Host, e.Session, e.Session)
}

// Is makes errors.Is(err, ErrTooLate) true.
func (e *TooLateError) Is(target error) bool { return target == ErrTooLate }

// ErrTooLate says that a prune or a copy is deleting a backup, or has deleted it.
var ErrTooLate = errors.New("too late: a prune or a copy deletes the backup, or has deleted it")
