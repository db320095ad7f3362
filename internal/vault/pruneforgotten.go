package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// due returns the forgotten backups whose grace is over and that nothing keeps. A mark that does
// not open marks nothing; an unreadable hold or session is an error.
func (p *prune) due(ctx context.Context) ([]Forgotten, error) {
	marks, err := p.v.ForgottenBackups(ctx)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
		p.o.Warn(fmt.Errorf("%w; its backup is not deleted", err))
	} else if err != nil {
		return nil, err
	}
	now := p.o.Now()
	maps.DeleteFunc(marks, func(_ string, m Forgotten) bool { return now.Sub(m.At) < p.o.Grace })
	if len(marks) == 0 {
		return nil, nil
	}
	refs, err := p.v.Backups(ctx, "")
	if err != nil {
		return nil, err
	}
	kept, err := p.v.Keeps(ctx, refs, now)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, ref := range refs {
		there[fullName(ref)] = true
	}
	var due []Forgotten
	clear(p.report.Kept)
	for name, m := range marks {
		if why := kept.Why(m.Backup); len(why) > 0 && there[name] {
			p.report.Kept[name] = strings.Join(why, ", ")
			continue
		}
		due = append(due, m) // also one without a manifest: then only the mark goes
	}
	slices.SortFunc(due, func(a, b Forgotten) int { return cmp.Compare(fullName(a.Backup), fullName(b.Backup)) })
	p.report.Due = len(due)
	return due, nil
}

// announce puts the names of the backups that are about to be deleted. Who wants to keep such a
// backup from now on finds the announcement, and knows that it is too late.
func (p *prune) announce(ctx context.Context) (bool, error) {
	// The clock is compared first: reading many marks takes longer than clocks may differ.
	skew := p.s.checkClock(ctx, p.o.Now())
	due, err := p.due(ctx)
	if err != nil {
		return false, err
	}
	if len(due) > 0 && skew != nil {
		return false, skew
	}
	refs := make([]BackupRef, len(due))
	for i, m := range due {
		refs[i] = m.Backup
	}
	p.going, err = p.s.announce(ctx, refs)
	return false, err
}

// deleteForgotten deletes the manifests of the announced backups that are still forgotten and that
// nothing keeps. Every process that kept a backup without a look at the announcement has ended, so
// deleteForgotten sees its hold, or misses the mark.
func (p *prune) deleteForgotten(ctx context.Context) (bool, error) {
	if announced := p.going.names(); len(announced) > 0 {
		due, err := p.due(ctx)
		if err != nil {
			return false, err
		}
		due = slices.DeleteFunc(due, func(m Forgotten) bool { return !announced[fullName(m.Backup)] })
		if err := p.deleteBackups(ctx, due); err != nil {
			return false, err
		}
	}
	return false, p.going.finish(ctx, nil)
}

func (p *prune) deleteBackups(ctx context.Context, due []Forgotten) error {
	for some := range slices.Chunk(due, deletedAtOnce) {
		var manifests, marks []string
		for _, m := range some {
			manifests = append(manifests, p.v.manifestKey(m.Backup.Instance, m.Backup.ID))
		}
		locked, err := p.v.lockedUntil(ctx, manifests, p.o.Now())
		if err != nil {
			return err
		}
		manifests = manifests[:0]
		for _, m := range some {
			key := p.v.manifestKey(m.Backup.Instance, m.Backup.ID)
			if until, ok := locked[key]; ok {
				p.report.Kept[fullName(m.Backup)] = "locked by the store until " + lockText(until)
				p.report.Locked++
				continue
			}
			manifests, marks = append(manifests, key), append(marks, m.keys...)
		}
		if err := p.going.deletes(ctx, manifests); err != nil {
			return fmt.Errorf("forgotten backups: %w", err)
		}
		p.report.Forgotten += len(manifests)
		if err := p.v.st.Delete(ctx, marks...); err != nil {
			return fmt.Errorf("delete the marks of forgotten backups: %w", err)
		}
	}
	return nil
}
