package janitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/expire"
	"holdfast/internal/retention"
	"holdfast/internal/vault"
)

// ShareError says that the rules would forget more than the share that one run may forget, so that
// nothing was forgotten.
type ShareError struct{ *retention.ShareError }

func (e *ShareError) Error() string {
	return fmt.Sprintf("%v; nothing is forgotten or pruned: look at the list of a dry run, and then correct the rules, or accept the share", e.ShareError)
}

// session describes the sessions of this host in a vault.
func (j *Janitor) session() vault.SessionOptions {
	return vault.SessionOptions{Host: j.o.Host, Identity: j.o.Identity}
}

// forget marks the backups that no rule keeps, and
// brings back the marked backups that a host needs.
func (j *Janitor) forget(ctx context.Context, v *vault.Vault, r *Run, q Run) error {
	if !q.DryRun {
		// Times decide, so a host whose clock is wrong forgets nothing.
		j.note(r, "compares the clocks")
		if err := v.CheckClock(ctx, j.session()); err != nil {
			return err
		}
	}
	j.note(r, "applies the rules of retention")
	kept, err := expire.Look(ctx, v)
	if err != nil {
		return err
	}
	needs, err := j.needs(ctx, v, q.Tenant)
	if err != nil {
		return err
	}
	if !q.DryRun {
		if err := j.bringBack(ctx, v, r, kept, needs); err != nil {
			return err
		}
	}
	if q.KeepAll {
		return nil
	}
	needed := map[string]bool{}
	plan := kept.Plan(expire.Rules{
		Policy: func(instance string) retention.Policy { return j.o.Policy(q.Tenant, instance) },
		Needs: func(ref vault.BackupRef) string {
			why := needs[ref.Instance+"/"+ref.ID]
			if why != "" {
				needed[ref.Instance+"/"+ref.ID] = true
			}
			return why
		},
		MaxShare: j.o.MaxShare,
	}, time.Now())
	odd := plan.Odd()
	j.see(r, func(r *Run) {
		r.Report.Backups, r.Report.Forget, r.Report.Needed, r.Report.Odd = plan.Backups, len(plan.Forget), len(needed), len(odd)
		for i, o := range odd {
			if i == shown {
				break
			}
			r.Report.OddBackups = append(r.Report.OddBackups, fmt.Sprintf("%s/%s: %s", o.Backup.Instance, o.Backup.ID, o.Odd))
		}
	})
	var share *retention.ShareError
	if errors.As(plan.Share, &share) && !q.AcceptShare {
		if q.DryRun {
			j.see(r, func(r *Run) { r.Report.Share = share.Error() })
			return nil
		}
		return &ShareError{share}
	}
	if q.DryRun {
		return nil
	}
	if err := v.ForgetBackups(ctx, j.o.Host, "by the rules of retention of host "+j.o.Host, plan.Forget); err != nil {
		return err
	}
	j.see(r, func(r *Run) { r.Report.Forgotten = len(plan.Forget) })
	return nil
}

// needs returns why hosts need backups: this host by its journal, and other hosts by their claims.
// A backup that another host has just made is the newest of its instance, and stays for that.
func (j *Janitor) needs(ctx context.Context, v *vault.Vault, tenant string) (map[string]string, error) {
	needs, err := j.host.Needs(tenant)
	if err != nil {
		return nil, fmt.Errorf("look which backups this host needs: %w", err)
	}
	claims, err := v.Claims(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, c := range claims {
		if name := c.Instance + "/" + c.Backup; c.Backup != "" && needs[name] == "" {
			needs[name] = "host " + c.Host + " has the instance from it"
		}
	}
	return needs, nil
}

// bringBack takes the marks of needed backups away. A backup that a prune deletes already is gone
// for its host too, which finds that out by itself.
func (j *Janitor) bringBack(ctx context.Context, v *vault.Vault, r *Run, kept *expire.Kept, needs map[string]string) error {
	for name := range needs {
		m, marked := kept.Forgotten[name]
		if !marked {
			continue
		}
		err := v.Unforget(ctx, j.session(), m.Backup)
		if errors.Is(err, vault.ErrTooLate) {
			continue
		} else if err != nil {
			return fmt.Errorf("bring back backup %s, which %s: %w", name, needs[name], err)
		}
		j.see(r, func(r *Run) { r.Report.Back++ })
	}
	return nil
}
