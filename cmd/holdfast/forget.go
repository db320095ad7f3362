package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/expire"
	"holdfast/internal/retention"
	"holdfast/internal/vault"
)

// forgetFlags are the flags of the command forget.
type forgetFlags struct {
	access
	instances []string
	all       bool
	counts    [6]int // of countFlags
	within    [6]spanFlag
	dryRun    bool
	yes       bool
	maxShare  float64
	reason    string
}

// countFlags are the periods of the flags --keep-PERIOD, in the order of the rules.
var countFlags = [6]string{"last", "hourly", "daily", "weekly", "monthly", "yearly"}

func (a *app) forgetCommand() *cobra.Command {
	var f forgetFlags
	cmd := &cobra.Command{
		Use:   "forget [BACKUP…]",
		Short: "Forget backups by rules or by id; prune deletes them after a time of grace",
		Long: "forget marks backups as forgotten. Nothing is deleted: until a prune whose --grace is over deletes them,\n" +
			"they can be restored, and unforget brings them back.\n\n" +
			"A backup is kept when any rule keeps it. The count rules keep the newest complete backup of each of the\n" +
			"last N hours, days, weeks (ISO), months or years that have one, in UTC; the --keep-within rules count from\n" +
			"the instance's newest backup. The sequence numbers give the order. A backup whose time can't be right\n" +
			"(from the future, before 2020, against the order) is kept and listed.\n\n" +
			"Never forgotten: an instance's newest backup, the newest and the first backup of each branch of a fork, a backup\n" +
			"that tells the branch of later ones, a backup with a hold (holdfast hold), a backup that a restore or another\n" +
			"reader reads. A run that would forget more than --max-share of an instance's backups, or of the\n" +
			"vault's, forgets nothing, unless --yes is given.",
		Example: "  holdfast forget --all --keep-daily 7 --keep-weekly 4 --keep-monthly 6 --dry-run\n" +
			"  holdfast forget 00000012-20260102T150405Z-0123456789abcdef",
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, err := f.check(cmd, args)
			if err != nil {
				return err
			}
			return a.withVault(cmd, f.access, "forget", func(ctx context.Context, at *vaultAt) error {
				if len(args) > 0 {
					return a.forgetByID(ctx, at, args, &f)
				}
				return a.forgetByRule(ctx, at, policy, &f)
			})
		},
	}
	f.access.flags(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.instances, "instance", nil, "`ID` of an instance to apply the rules to; repeat for several")
	fl.BoolVar(&f.all, "all", false, "apply the rules to all instances of the vault, to each alone")
	for i, period := range countFlags {
		what := fmt.Sprintf("keep the newest backup of each of the last `N` periods that have one (%s)", period)
		if period == "last" {
			what = "keep the last `N` complete backups"
		}
		fl.IntVar(&f.counts[i], "keep-"+period, 0, what)
	}
	for i, period := range countFlags {
		flag, what := "keep-within", "keep all backups of that `SPAN` (36h, 30d, 8w, 2y)"
		if i > 0 {
			flag, what = "keep-within-"+period, "keep the newest backup of each period of that `SPAN` ("+period+")"
		}
		fl.Var(&f.within[i], flag, what)
	}
	fl.BoolVar(&f.dryRun, "dry-run", false, "only list which backups would be forgotten, and which rule keeps each other backup")
	fl.Float64Var(&f.maxShare, "max-share", 50, "`PERCENT` of the backups of an instance, or of the vault, that rules may forget in one run")
	fl.BoolVar(&f.yes, "yes", false, "forget more than --max-share all the same")
	fl.StringVar(&f.reason, "reason", "", "`TEXT` that list shows beside each forgotten backup")
	return cmd
}

// check checks the command line and returns the policy.
func (f *forgetFlags) check(cmd *cobra.Command, args []string) (retention.Policy, error) {
	bad := func(format string, args ...any) (retention.Policy, error) {
		return retention.Policy{}, &usageError{msg: fmt.Sprintf(format, args...), command: cmd.CommandPath()}
	}
	for i, period := range countFlags {
		if cmd.Flags().Changed("keep-"+period) && f.counts[i] < 1 {
			return bad("--keep-%s: must be 1 or more, got %d", period, f.counts[i])
		}
	}
	p := retention.Policy{
		Last: f.counts[0], Hourly: f.counts[1], Daily: f.counts[2], Weekly: f.counts[3], Monthly: f.counts[4], Yearly: f.counts[5],
		Within: f.within[0].span, WithinHourly: f.within[1].span, WithinDaily: f.within[2].span,
		WithinWeekly: f.within[3].span, WithinMonthly: f.within[4].span, WithinYearly: f.within[5].span,
	}
	for _, id := range f.instances {
		if err := checkInstance(cmd, cmp.Or(id, "?")); err != nil {
			return p, err
		}
	}
	switch {
	case !(f.maxShare >= 0 && f.maxShare <= 100): // also refuses NaN
		return bad("--max-share: must be from 0 to 100, got %v", f.maxShare)
	case len(args) > 0 && (!p.Empty() || f.all || len(f.instances) > 0):
		return bad("name backups, or give rules and instances, but not both")
	case len(args) > 0:
		return p, nil
	case p.Empty():
		return bad("no rule given: nothing would be kept but the newest backup of each instance; name backups, or give a --keep flag")
	case f.all == (len(f.instances) > 0):
		return bad("give either --instance ID or --all")
	}
	return p, nil
}

// verdictJSON is one backup that the rules judged.
type verdictJSON struct {
	Instance string    `json:"instance"`
	Backup   string    `json:"backup"`
	Time     time.Time `json:"time"`
	Keep     bool      `json:"keep"`
	Why      []string  `json:"why"`           // rules and other reasons that keep the backup
	Odd      string    `json:"odd,omitempty"` // why no rule uses the time
}

type forgetJSON struct {
	Vault   string        `json:"vault"`
	DryRun  bool          `json:"dry_run"`
	Forgot  int           `json:"forgotten"`
	Backups []verdictJSON `json:"backups"`
}

func (a *app) forgetByRule(ctx context.Context, at *vaultAt, p retention.Policy, f *forgetFlags) error {
	// Times decide, so the clock has to be right; a look alone writes nothing.
	if !f.dryRun {
		if err := at.CheckClock(ctx, a.session()); err != nil {
			return err
		}
	}
	kept, err := expire.Look(ctx, at.Vault)
	if err != nil {
		return err
	}
	for _, id := range f.instances {
		if len(kept.By[id]) == 0 {
			return &noBackupError{id: "of instance " + id, err: fmt.Errorf("%w of instance %s", vault.ErrNoBackup, id)}
		}
	}
	plan := kept.Plan(expire.Rules{
		Policy:   func(string) retention.Policy { return p },
		Wanted:   func(id string) bool { return f.all || slices.Contains(f.instances, id) },
		MaxShare: f.maxShare,
	}, time.Now())
	out := forgetJSON{Vault: at.Info().Name, DryRun: f.dryRun, Forgot: len(plan.Forget), Backups: []verdictJSON{}}
	for _, id := range slices.Sorted(maps.Keys(plan.Verdicts)) {
		for _, v := range plan.Verdicts[id] {
			b := v.Backup
			out.Backups = append(out.Backups, verdictJSON{b.Instance, b.ID, b.Time.UTC(), v.Keep, append([]string{}, v.Why...), v.Odd})
		}
	}
	if plan.Share != nil && !f.yes {
		if err := a.showVerdicts(out, true); err != nil {
			return err
		}
		return &hintedError{fmt.Errorf("%w; nothing is forgotten", plan.Share), "check the list, and give --yes to forget them, or another --max-share"}
	}
	if !f.dryRun {
		if err := at.ForgetBackups(ctx, a.session().Host, cmp.Or(f.reason, "by rule"), plan.Forget); err != nil {
			return err
		}
	}
	if err := a.showVerdicts(out, f.dryRun); err != nil {
		return err
	}
	switch {
	case f.dryRun:
		a.say("would forget %s of %d; nothing is changed", count(len(plan.Forget), "backup", "backups"), len(out.Backups))
	default:
		a.say("forgot %s of %d; holdfast unforget brings them back until a prune deletes them", count(len(plan.Forget), "backup", "backups"), len(out.Backups))
	}
	return nil
}

// showVerdicts prints the verdicts of the rules: on all backups, or on the forgotten backups only.
// It warns of each backup whose time is wrong.
func (a *app) showVerdicts(out forgetJSON, all bool) error {
	if a.json {
		return a.document(out)
	}
	rows := [][]string{{"INSTANCE", "BACKUP", "TIME", "VERDICT", "WHY"}}
	for _, b := range out.Backups {
		if b.Odd != "" {
			a.sideWarning(fmt.Sprintf("backup %s of %s is kept: %s; holdfast forget BACKUP forgets it", b.Backup, b.Instance, b.Odd))
		}
		verdict := "forget"
		if b.Keep {
			verdict = "keep"
		}
		if all || !b.Keep {
			rows = append(rows, []string{b.Instance, b.Backup, stamp(b.Time), verdict, dash(strings.Join(b.Why, ", "))})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	return a.table(rows)
}

// forgetByID forgets the backups of the ids, or no backup where one of them is kept.
func (a *app) forgetByID(ctx context.Context, at *vaultAt, ids []string, f *forgetFlags) error {
	// The time of grace begins by this host's clock; a look alone writes nothing.
	if !f.dryRun {
		if err := at.CheckClock(ctx, a.session()); err != nil {
			return err
		}
	}
	kept, err := expire.Look(ctx, at.Vault)
	if err != nil {
		return err
	}
	found := map[string]vault.BackupRef{}
	for _, all := range kept.By {
		for _, r := range all {
			found[r.ID] = r
		}
	}
	var forget []vault.BackupRef
	for _, id := range ids {
		r, ok := found[id]
		if !ok {
			return &noBackupError{id: id, err: fmt.Errorf("%w %s that is not forgotten", vault.ErrNoBackup, id)}
		}
		if why := kept.Why(r); len(why) > 0 {
			return &hintedError{
				fmt.Errorf("backup %s of %s is kept (%s); nothing is forgotten", id, r.Instance, strings.Join(why, ", ")),
				"an instance keeps the newest backup of each branch; holdfast list shows holds, and holdfast vault sessions shows the readers",
			}
		}
		forget = append(forget, r)
	}
	if !f.dryRun {
		if err := at.ForgetBackups(ctx, a.session().Host, cmp.Or(f.reason, "by id"), forget); err != nil {
			return err
		}
	}
	out := forgetJSON{Vault: at.Info().Name, DryRun: f.dryRun, Forgot: len(forget), Backups: []verdictJSON{}}
	for _, r := range forget {
		out.Backups = append(out.Backups, verdictJSON{r.Instance, r.ID, r.Time.UTC(), false, []string{}, ""})
	}
	return a.showVerdicts(out, f.dryRun)
}

func (a *app) unforgetCommand() *cobra.Command {
	var v access
	cmd := &cobra.Command{
		Use:   "unforget BACKUP…",
		Short: "Bring forgotten backups back, unless a prune deletes them already",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{msg: "missing BACKUP", command: cmd.CommandPath()}
			}
			return a.withVault(cmd, v, "unforget", func(ctx context.Context, at *vaultAt) error {
				return a.unforget(ctx, at, args)
			})
		},
	}
	v.flags(cmd)
	return cmd
}

func (a *app) unforget(ctx context.Context, at *vaultAt, ids []string) error {
	var failed error
	for _, id := range ids {
		ref, err := at.Find(ctx, "", id)
		if errors.Is(err, vault.ErrNoBackup) {
			err = &noBackupError{id: id, err: err}
		}
		if err == nil {
			err = at.Unforget(ctx, a.session(), ref)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		a.say("backup %s of %s is not forgotten any more", ref.ID, ref.Instance)
	}
	return failed
}
