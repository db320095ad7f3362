// Package expire lets a vault shrink: it applies rules of retention to the backups of a vault,
// marks the backups that no rule keeps, and runs a prune with its record. The commands forget and
// prune call it, and so does the agent (agent/janitor).
//
// internal/retention decides, and internal/vault marks and deletes. The package starts no
// goroutine. A crash leaves marks, which a later run or Unforget finds, and the record of a prune
// that has begun, which counts for a day.
package expire

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/retention"
	"holdfast/internal/vault"
)

// Kept are the backups of a vault that are not forgotten.
type Kept struct {
	// By has the backups by instance, and within an
	// instance in the order of their sequence numbers.
	By map[string][]vault.BackupRef
	// Forgotten has the marks of the forgotten backups by instance/id.
	Forgotten map[string]vault.Forgotten
	kept      *vault.Kept
}

// Why returns the reasons beside rules for which the backup is kept, for people.
func (k *Kept) Why(ref vault.BackupRef) []string { return k.kept.Why(ref) }

// Look lists the backups that are not forgotten. An object that may keep a
// backup and does not open is an error, since nothing may be forgotten then.
func Look(ctx context.Context, v *vault.Vault) (*Kept, error) {
	refs, err := v.Backups(ctx, "")
	if err != nil {
		return nil, err
	}
	marks, err := v.ForgottenBackups(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := v.Keeps(ctx, refs, time.Now())
	if err != nil {
		return nil, err
	}
	k := &Kept{By: map[string][]vault.BackupRef{}, Forgotten: marks, kept: kept}
	for _, r := range refs {
		if _, gone := marks[r.Instance+"/"+r.ID]; !gone {
			k.By[r.Instance] = append(k.By[r.Instance], r)
		}
	}
	return k, nil
}

// Rules say which backups are kept.
type Rules struct {
	// Policy returns the rules of an instance. An empty policy keeps all backups.
	Policy func(instance string) retention.Policy
	// Wanted tells which instances the rules are for; nil: all.
	Wanted func(instance string) bool
	// Needs returns why a backup is kept against the rules, for people; "" where the caller knows
	// no reason. Nil is allowed.
	Needs func(vault.BackupRef) string
	// MaxShare is the percentage of the backups of an instance, or of all instances that the rules
	// are for, that one run may forget.
	MaxShare float64
}

// Plan is the verdict of the rules on each backup.
type Plan struct {
	Verdicts map[string][]retention.Verdict // by instance
	Forget   []vault.BackupRef              // that nothing keeps, by instance and the oldest first
	Backups  int                            // that the rules judged
	// Share is a *retention.ShareError where the plan forgets more than Rules.MaxShare.
	Share error
}

// newest is the reason of the vault that the rules give too.
const newest = "newest"

// Plan judges the backups by the rules at that time.
func (k *Kept) Plan(r Rules, now time.Time) *Plan {
	p := &Plan{Verdicts: map[string][]retention.Verdict{}}
	for _, id := range slices.Sorted(maps.Keys(k.By)) {
		if r.Wanted != nil && !r.Wanted(id) {
			continue
		}
		refs := map[string]vault.BackupRef{}
		backups := make([]retention.Backup, len(k.By[id]))
		for i, ref := range k.By[id] {
			refs[ref.ID] = ref
			backups[i] = retention.Backup{Instance: ref.Instance, ID: ref.ID, Seq: ref.Seq, Time: ref.Time, Incomplete: ref.Incomplete}
		}
		var protections []retention.Protection
		for _, why := range []func(vault.BackupRef) string{k.besideRules, r.Needs} {
			if why != nil {
				protections = append(protections, func(b retention.Backup) string { return why(refs[b.ID]) })
			}
		}
		verdicts := retention.Decide(backups, r.Policy(id), now, protections...)
		p.Verdicts[id] = verdicts
		p.Backups += len(verdicts)
		for _, v := range verdicts {
			if !v.Keep {
				p.Forget = append(p.Forget, refs[v.Backup.ID])
			}
		}
	}
	p.Share = retention.CheckShare(p.Verdicts, r.MaxShare)
	return p
}

// besideRules is Why in one text, without the reason that the rules give themselves.
func (k *Kept) besideRules(ref vault.BackupRef) string {
	text := ""
	for _, why := range k.Why(ref) {
		switch {
		case why == newest:
		case text == "":
			text = why
		default:
			text += ", " + why
		}
	}
	return text
}

// Odd returns the backups whose time can't be right, each with the reason, by instance.
func (p *Plan) Odd() (odd []retention.Verdict) {
	for _, id := range slices.Sorted(maps.Keys(p.Verdicts)) {
		for _, v := range p.Verdicts[id] {
			if v.Odd != "" {
				odd = append(odd, v)
			}
		}
	}
	return odd
}

// Prune runs a prune and leaves a record of it, by which hosts see when the vault was last pruned.
// A record that can't be stored or removed is a warning, since nothing rests on records. The
// results are the results of vault.Prune.
func Prune(ctx context.Context, v *vault.Vault, o vault.PruneOptions) (vault.PruneReport, error) {
	if o.DryRun {
		return v.Prune(ctx, o)
	}
	warn := func(err error) {
		if err != nil && o.Warn != nil && ctx.Err() == nil {
			o.Warn(fmt.Errorf("other hosts do not see this prune: %w", err))
		}
	}
	run, err := v.BeginRun(ctx, vault.SessionOptions{Host: o.Host, Identity: o.Identity})
	warn(err)
	report, failed := v.Prune(ctx, o)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	if failed != nil {
		warn(run.Drop(after))
		return report, failed
	}
	if err == nil {
		warn(run.End(after, report))
	}
	return report, nil
}

// recordTime bounds the record of the end of a prune, for which a stop of the program may wait.
const recordTime = 5 * time.Second
