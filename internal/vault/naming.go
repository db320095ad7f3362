package vault

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/contain"
)

// Backups of one process share a session, which may stand for hours after some of the backups are
// over, and which can't be changed: an object that is put again would stand for a session that an
// operator removed meanwhile. So each backup names its instance by an object of its own.

// namingRounds is how often the sessions are listed while some of them go before they are read.
const namingRounds = 3

// namingEvery is how often a naming is put anew: a host without
// a sign of life counts as gone after a while.
const namingEvery = 10 * time.Minute

// namingAgain is the time from a put of a naming that failed to the next try.
const namingAgain = 10 * time.Second

// namingSigns is how many signs of life in a row have to be
// missing before the host of a naming counts as gone.
const namingSigns = 3

// namingSilent tells whether a naming whose last sign of life is that old may belong to a host that
// is gone, for a host that is configured with that silence; 0: never.
func namingSilent(since, silence time.Duration) bool {
	return silence > 0 && since > max(silence, namingSigns*namingEvery)
}

// Naming tells other hosts that a backup of an instance is under way, and gives signs of life
// until End, by a goroutine of its own. After a crash, the next BeginSession of the machine
// removes it.
type Naming struct {
	v      *Vault
	o      SessionOptions
	s      *Session // its object, nil while none is stored; for the goroutine of signs until it ends
	cancel context.CancelFunc
	signs  contain.Group
}

// Name names the instance of a backup that begins, o.Instance. It takes one request, and End
// one, and each sign of life two. Nothing that is stored depends on a naming. The error says that
// the naming could not be stored yet; the Naming tries again until End. End is due in any case.
func (v *Vault) Name(ctx context.Context, o SessionOptions) (*Naming, error) {
	s, err := v.putSession(ctx, kindNaming, o, observe(o).process)
	n := &Naming{v: v, o: o, s: s}
	ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n.signs.Go(func() error { n.live(ctx); return nil })
	return n, err
}

// live gives signs of life until ctx ends, and tries soon again where the naming could not be
// stored. The object is another one each time: an object that was removed by hand must not come
// back under its name.
func (n *Naming) live(ctx context.Context) {
	next := time.NewTimer(namingAgain)
	defer next.Stop()
	if n.s != nil {
		next.Reset(namingEvery)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		s, err := n.v.putSession(ctx, kindNaming, n.o, observe(n.o).process)
		if err != nil {
			next.Reset(namingAgain)
			continue
		}
		next.Reset(namingEvery)
		before := n.s
		n.s = s
		if before != nil {
			_ = before.remove(ctx) // Settle removes an object that stays
		}
	}
}

// End removes the naming: the backup is over. Where nobody knows whether the backup of the
// instance is stored, the naming stays and gives signs of life until Settle finds out, since the
// backup may be the newest. End is for one goroutine, and is due once.
func (n *Naming) End(ctx context.Context) error {
	if n.v.ledger.keepNaming(n) {
		return nil
	}
	return n.remove(ctx)
}

// silence ends the signs of life. The object stays as it is.
func (n *Naming) silence() error {
	n.cancel()
	return n.signs.Wait() // a panic
}

// remove ends the signs of life and removes the object.
func (n *Naming) remove(ctx context.Context) error {
	err := n.silence()
	if n.s == nil {
		return err
	}
	return errors.Join(err, n.s.remove(ctx))
}

// keepNaming keeps a naming while a backup of its instance is in doubt.
func (l *ledger) keepNaming(n *Naming) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := slices.ContainsFunc(l.doubts, func(d *doubt) bool { return d.backup.Instance == n.o.Instance })
	if kept {
		l.named[n.o.Instance] = append(l.named[n.o.Instance], n)
	}
	return kept
}

// endNamings removes the namings that were kept for an instance of which no backup is in doubt.
func (v *Vault) endNamings(ctx context.Context, instance string) (failed error) {
	l := v.ledger
	l.mu.Lock()
	var over []*Naming
	if !slices.ContainsFunc(l.doubts, func(d *doubt) bool { return d.backup.Instance == instance }) {
		over = l.named[instance]
		delete(l.named, instance)
	}
	l.mu.Unlock()
	for _, n := range over {
		failed = errors.Join(failed, n.remove(ctx))
	}
	return failed
}

// silenceNamings ends the signs of life of all namings that were kept. Their objects stay.
func (l *ledger) silenceNamings() {
	l.mu.Lock()
	all := slices.Concat(slices.Collect(maps.Values(l.named))...)
	l.mu.Unlock() // a sign of life that fails takes the lock
	for _, n := range all {
		_ = n.silence() // nobody is left to be told of a panic
	}
}

// named returns the hosts that have backups of instances under way, by instance, but for the host
// of that identity, and for namings of which gone tells that their last sign of life is too old.
func (v *Vault) named(ctx context.Context, identity string, gone func(put time.Time) bool) (map[string]string, error) {
	hosts := map[string]string{}
	for range namingRounds {
		there := map[string]bool{}
		stand, _, err := v.listSessions(ctx, "")
		if err != nil {
			return nil, err
		}
		for _, info := range stand {
			if id := v.sessionOf(info); !strings.HasSuffix(id, pruneSuffix) && !gone(info.Modified) {
				there[id] = true // a collector names nothing, so a damaged session of one is no doubt
			}
		}
		if len(there) == 0 {
			break
		}
		sessions, err := v.readSessions(ctx, "", func(id string) bool { return there[id] })
		if err != nil {
			return nil, err
		}
		for _, s := range sessions {
			if s.body.Kind == kindNaming && s.body.Process.Identity != identity {
				hosts[s.Instance] = s.Host
			}
		}
		if len(sessions) == len(there) {
			break
		} // else one went before it was read, and may stand under another name
	}
	return hosts, nil
}
