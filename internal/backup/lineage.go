package backup

import (
	"context"
	"fmt"
	"slices"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// tellClock warns when the wall clock contradicts the order of the backups: this backup follows one
// that says it was made later. The order itself needs no clock.
func (r *run) tellClock(earlier []vault.BackupRef) {
	if len(earlier) == 0 {
		return
	}
	last := earlier[len(earlier)-1]
	if began := r.res.Created; began.Before(last.Time) {
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("this host's clock says %s, but the backup before this one, %s, says that it was made later; "+
			"one of the two clocks is wrong. The order of the backups does not depend on clocks", began.Format("2006-01-02 15:04:05Z"), last.ID)})
	}
}

// parent tells which backup this one follows: the last of the caller's
// earlier tries that exists without the caller's knowledge, or the backup
// from which the content came. last is the last backup of the instance.
func (r *run) parent(l *vault.Lineage, last string) string {
	o := r.o.Origin
	if o == nil {
		return last
	}
	refs := l.Refs()
	for _, id := range slices.Backward(o.Tried) {
		there := slices.ContainsFunc(refs, func(ref vault.BackupRef) bool { return ref.ID == id })
		if there || r.o.Vault.InDoubt(r.o.Instance, id) {
			return id
		}
	}
	return o.Backup
}

// forkOf names the newest backups that content which came from the parent lacks.
func forkOf(l *vault.Lineage, parent string) (ids []string) {
	for _, ref := range l.Fork(parent) {
		ids = append(ids, ref.ID)
	}
	return ids
}

// tellFork looks whether the instance has other newest backups beside this one. Where two hosts
// make a backup at the same moment, each of the two looks after its own manifest is stored, so at
// least one of them finds the other. Restores notice every fork by themselves.
func (r *run) tellFork(ctx context.Context, made *vault.Manifest) {
	l, err := r.o.Vault.Lineage(ctx, r.o.Instance)
	if err != nil {
		// the forks found before the manifest are told in any case
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("whether another host made a backup at the same time is not known: %v", err)})
		for _, id := range made.Fork {
			if ref, ok := vault.RefOf(r.o.Instance, id); ok {
				r.res.Fork = append(r.res.Fork, ref)
			}
		}
	} else {
		r.res.Fork = l.Fork(made.ID)
	}
	for _, ref := range r.res.Fork {
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("backup %s of the same instance is not one from which this backup came: another host or program made it; "+
			"each lacks what the other has. Name one of them to restore it, or accept one of them", ref.ID)})
	}
}
