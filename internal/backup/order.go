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

// tellFork looks whether another host made a backup of the instance while this one
// was made: both then have the same sequence number. Each of two such writers looks
// after its own manifest is stored, so at least one of them finds the other. The
// look comes too late to prevent a fork. Restores notice every fork by themselves.
func (r *run) tellFork(ctx context.Context, earlier []vault.BackupRef, made *vault.Manifest) {
	now, err := r.o.Vault.Backups(ctx, r.o.Instance)
	if err != nil {
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("whether another host made a backup at the same time is not known: %v", err)})
		return
	}
	for _, ref := range now {
		known := slices.ContainsFunc(earlier, func(e vault.BackupRef) bool { return e.ID == ref.ID })
		if known || ref.ID == made.ID || ref.Seq < made.Seq {
			continue
		}
		r.res.Fork = append(r.res.Fork, ref)
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("backup %s of the same instance was made at the same time as this one, by another host or program; "+
			"each lacks what the other has. Name one of them to restore it", ref.ID)})
	}
}
