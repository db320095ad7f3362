package vault

import (
	"context"
	"errors"
	"slices"
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
	s      *Session // its object; for one goroutine at a time
	cancel context.CancelFunc
	signs  contain.Group
}

// Name names the instance of a backup that begins, o.Instance. It takes one request, and End
// one, and each sign of life two. Nothing that is stored depends on a naming. End is due.
func (v *Vault) Name(ctx context.Context, o SessionOptions) (*Naming, error) {
	s, err := v.putSession(ctx, kindNaming, o, observe(o).process)
	if err != nil {
		return nil, err
	}
	n := &Naming{v: v, o: o, s: s}
	ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n.signs.Go(func() error { n.live(ctx); return nil })
	return n, nil
}

// live gives signs of life until ctx ends. The object is another one each
// time: an object that was removed by hand must not come back under its name.
func (n *Naming) live(ctx context.Context) {
	tick := time.NewTicker(namingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next, err := n.v.putSession(ctx, kindNaming, n.o, observe(n.o).process)
		if err != nil {
			continue // at the next tick
		}
		before := n.s
		n.s = next
		_ = before.remove(ctx) // Settle removes an object that stays
	}
}

// End removes the naming: the backup is over. Where nobody knows whether the backup of the
// instance is stored, the naming stays until Settle finds out, since the backup may be the newest.
// End is for one goroutine, and is due once.
func (n *Naming) End(ctx context.Context) error {
	n.cancel()
	err := n.signs.Wait() // a panic
	if n.v.ledger.keepNaming(n) {
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
		failed = errors.Join(failed, n.s.remove(ctx))
	}
	return failed
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
			if !gone(info.Modified) {
				there[v.sessionOf(info)] = true
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
