package config

import (
	"path"
	"strconv"
	"time"

	"holdfast/internal/retention"
)

// Defaults of retention, each with its reason.
const (
	// DefaultRetentionEvery frees space soon enough, and reads lists of a vault seldom.
	DefaultRetentionEvery Span = 7 * 24 * Span(time.Hour)
	// DefaultRetentionGrace lets people miss a backup during a week, and bring it back.
	DefaultRetentionGrace Span = 7 * 24 * Span(time.Hour)
	// DefaultRetentionMaxShare stops rules that were written wrong:
	// rules that run each week forget a small share of the backups.
	DefaultRetentionMaxShare = 50
	// DefaultRetentionMaxGarbage is where deleting packs
	// begins to pay for the lists that it takes.
	DefaultRetentionMaxGarbage = 5
	// DefaultRetentionWait outlasts most backups, for which a prune waits.
	DefaultRetentionWait = 2 * time.Hour
	// DefaultRetentionRequests leaves most of a store's patience to backups.
	DefaultRetentionRequests = 50
)

// Bounds of retention.
const (
	minRetentionEvery = Span(time.Hour)
	// minRetentionGrace lets a person notice a wrong rule before its effect is final.
	minRetentionGrace = 24 * Span(time.Hour)
	maxRetentionRules = 1000
	maxKeep           = 100_000
)

// Who prunes the vaults of this host's tenants.
const (
	RetentionCommand = "command" // a command of the control plane or of an operator alone
	RetentionElected = "elected" // the hosts of a vault take turns
	RetentionHere    = "here"    // this host, when the vault is due
)

// Span is a time that may also be written in days, weeks or years: 30d, 8w, 2y.
type Span time.Duration

// String writes a span as the file has it.
func (s Span) String() string { return retention.FormatSpan(time.Duration(s)) }

// Retention says which backups are kept, and who lets the vaults shrink.
type Retention struct {
	Run string `yaml:"run"` // RetentionCommand, RetentionElected or RetentionHere
	// Tenants are more tenants whose vaults this host prunes, beside the tenants of its instances.
	Tenants []string `yaml:"tenants"`
	Every   Span     `yaml:"every"` // between two prunes of a vault
	Grace   Span     `yaml:"grace"` // in which a forgotten backup can be brought back
	// MaxShare is the percentage of an instance's backups, or of the vault's, that one run may
	// forget; above it the run forgets nothing and asks.
	MaxShare   int `yaml:"max_share"`
	MaxGarbage int `yaml:"max_garbage"` // percent of a vault's bytes that may be garbage
	// Sparse is the percentage of a pack's bytes up to which a prune moves the bytes that backups
	// need into new packs, and deletes the pack; 0 moves nothing.
	Sparse int `yaml:"sparse"`
	// ProlongLocks has a prune prolong the locks of packs that end before the locks of backups.
	ProlongLocks bool          `yaml:"prolong_locks"`
	Wait         time.Duration `yaml:"wait"`     // for backups and readers that are under way
	Requests     int           `yaml:"requests"` // a second that a prune sends to the store; 0 is no limit
	Rules        []KeepRule    `yaml:"rules"`
}

// KeepRule says which backups of some instances are kept: each backup that any of its settings
// keeps. The first rule that fits an instance counts.
type KeepRule struct {
	Tenant   string `yaml:"tenant"`   // pattern with * and ?; "" is every tenant
	Instance string `yaml:"instance"` // the same of instances
	KeepAll  bool   `yaml:"keep_all"`

	KeepLast    int `yaml:"keep_last"`
	KeepHourly  int `yaml:"keep_hourly"`
	KeepDaily   int `yaml:"keep_daily"`
	KeepWeekly  int `yaml:"keep_weekly"`
	KeepMonthly int `yaml:"keep_monthly"`
	KeepYearly  int `yaml:"keep_yearly"`

	KeepWithin        Span `yaml:"keep_within"`
	KeepWithinHourly  Span `yaml:"keep_within_hourly"`
	KeepWithinDaily   Span `yaml:"keep_within_daily"`
	KeepWithinWeekly  Span `yaml:"keep_within_weekly"`
	KeepWithinMonthly Span `yaml:"keep_within_monthly"`
	KeepWithinYearly  Span `yaml:"keep_within_yearly"`
}

func defaultRetention() Retention {
	return Retention{
		Run: RetentionCommand, Every: DefaultRetentionEvery, Grace: DefaultRetentionGrace, MaxShare: DefaultRetentionMaxShare,
		MaxGarbage: DefaultRetentionMaxGarbage, Wait: DefaultRetentionWait, Requests: DefaultRetentionRequests,
	}
}

// policy is the rule without its patterns.
func (r KeepRule) policy() retention.Policy {
	if r.KeepAll {
		return retention.Policy{}
	}
	return retention.Policy{
		Last: r.KeepLast, Hourly: r.KeepHourly, Daily: r.KeepDaily, Weekly: r.KeepWeekly, Monthly: r.KeepMonthly, Yearly: r.KeepYearly,
		Within: time.Duration(r.KeepWithin), WithinHourly: time.Duration(r.KeepWithinHourly), WithinDaily: time.Duration(r.KeepWithinDaily),
		WithinWeekly: time.Duration(r.KeepWithinWeekly), WithinMonthly: time.Duration(r.KeepWithinMonthly), WithinYearly: time.Duration(r.KeepWithinYearly),
	}
}

// Policy is the policy of an instance: of the first rule that fits. Without one all backups stay.
func (r Retention) Policy(tenant, instance string) retention.Policy {
	for _, rule := range r.Rules {
		if fits(rule.Tenant, tenant) && fits(rule.Instance, instance) {
			return rule.policy()
		}
	}
	return retention.Policy{}
}

func fits(pattern, name string) bool {
	is, err := path.Match(pattern, name)
	return pattern == "" || err == nil && is
}

func (r Retention) check(f *faults) {
	oneOf(f, "retention.run", r.Run, RetentionCommand, RetentionElected, RetentionHere)
	if r.Every < minRetentionEvery {
		f.add("retention.every", "must be %v or more, got %v", minRetentionEvery, r.Every)
	}
	if r.Grace < minRetentionGrace {
		f.add("retention.grace", "must be %v or more, got %v: a person has to have the time to bring a backup back; `holdfast prune --grace` deletes sooner",
			minRetentionGrace, r.Grace)
	}
	percent(f, "retention.max_share", r.MaxShare)
	percent(f, "retention.max_garbage", r.MaxGarbage)
	percent(f, "retention.sparse", r.Sparse)
	positive(f, "retention.wait", r.Wait)
	if r.Requests < 0 || r.Requests > maxStoreRequests {
		f.add("retention.requests", "must be 0 (no limit) to %d, got %d", maxStoreRequests, r.Requests)
	}
	for i, tenant := range r.Tenants {
		at := list("retention.tenants", i)
		if !tenantPattern.MatchString(tenant) {
			f.add(at, "must be the id of a tenant, 1 to 128 of A-Z a-z 0-9 . _ : @ - and begin with a letter or digit, got %s", quote(tenant))
		}
	}
	if n := len(r.Rules); n > maxRetentionRules {
		f.add("retention.rules", "must have %d rules at most, got %d", maxRetentionRules, n)
	}
	first := map[[2]string]int{}
	all := -1
	for i, rule := range r.Rules {
		at := list("retention.rules", i)
		rule.check(f, at)
		key := [2]string{everything(rule.Tenant), everything(rule.Instance)}
		if before, known := first[key]; known {
			f.add(at, "fits the same instances as rules[%d], which comes first and counts", before)
		} else if all >= 0 {
			f.add(at, "is never used: rules[%d] fits every instance, and comes first", all)
		}
		if _, known := first[key]; !known {
			first[key] = i
		}
		if all < 0 && key == [2]string{"*", "*"} {
			all = i
		}
	}
}

func everything(pattern string) string {
	if pattern == "" {
		return "*"
	}
	return pattern
}

func percent(f *faults, path string, n int) {
	if n < 0 || n > 100 {
		f.add(path, "must be 0 to 100 (percent), got %d", n)
	}
}

func (r KeepRule) check(f *faults, at string) {
	for name, pattern := range map[string]string{".tenant": r.Tenant, ".instance": r.Instance} {
		if _, err := path.Match(pattern, ""); err != nil {
			f.add(at+name, "must be a name, in which * stands for any text and ? for one character, got %s", quote(pattern))
		}
	}
	for _, n := range []struct {
		name string
		got  int
	}{
		{"last", r.KeepLast}, {"hourly", r.KeepHourly}, {"daily", r.KeepDaily}, {"weekly", r.KeepWeekly}, {"monthly", r.KeepMonthly}, {"yearly", r.KeepYearly},
	} {
		key := at + ".keep_" + n.name
		if _, given := f.src.at[key]; given && (n.got < 1 || n.got > maxKeep) {
			f.add(key, "must be 1 to %d, got %d; leave it out where the rule keeps none of this kind", maxKeep, n.got)
		}
	}
	none := r.with(false).policy().Empty()
	switch {
	case r.KeepAll && !none:
		f.add(at+".keep_all", "keeps all backups, so no other keep_ setting may stand beside it")
	case !r.KeepAll && none:
		f.add(at, "must have at least one keep_ setting, such as keep_daily: 7; keep_all: true keeps all backups")
	}
}

// with is the rule with another KeepAll.
func (r KeepRule) with(all bool) KeepRule {
	r.KeepAll = all
	return r
}

func list(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
