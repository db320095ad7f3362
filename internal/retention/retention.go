// Package retention decides which backups of an instance are kept, by rules over the order
// and the times of the backups. The package does no I/O and starts no goroutine. The
// commands of retention call Decide, and internal/vault marks and deletes the backups.
//
// Nobody vouches for the clocks that the times come from. So the sequence
// numbers give the order, and a time only gives a backup a place in an hour, a
// day or a month. A backup whose time can't be right is kept and reported.
package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Backup has the facts about a backup that the rules look at.
type Backup struct {
	Instance   string
	ID         string
	Seq        uint64    // orders the backups of an instance
	Time       time.Time // when the backup began, by the clock of its host
	Incomplete bool      // the backup lacks content
}

// Policy says which backups of an instance are kept: each backup that any rule keeps. The numbers
// count hours, days and so on that have a backup, in UTC and with weeks of ISO 8601; the newest
// complete backup of each is kept. The durations keep all backups, or one of each hour, day and so
// on, that are not older than the newest backup of the instance by more than that.
type Policy struct {
	Last    int // newest complete backups
	Hourly  int
	Daily   int
	Weekly  int
	Monthly int
	Yearly  int

	Within        time.Duration
	WithinHourly  time.Duration
	WithinDaily   time.Duration
	WithinWeekly  time.Duration
	WithinMonthly time.Duration
	WithinYearly  time.Duration
}

// Empty tells whether the policy has no rule. An empty policy forgets nothing.
func (p Policy) Empty() bool { return p == Policy{} }

// Protection tells why a backup is kept against the rules, in a few words for people;
// "" where the protection knows of no reason. Every reason that the rules do not know
// is a Protection: holds, readers, branches of a fork, backups that a host still needs.
type Protection func(Backup) string

// Verdict is the decision on one backup.
type Verdict struct {
	Backup Backup
	Keep   bool
	// Why names the rules and other reasons that keep the backup, such as
	// "daily 3/7" or "newest"; empty where nothing keeps the backup.
	Why []string
	// Odd says why the time of the backup can't be right, so that no rule uses the time. Such a
	// backup is kept until somebody forgets it by its id. "" where the time may be right.
	Odd string
}

const (
	// ahead is how far a backup may be in the future, since clocks of hosts differ.
	ahead = time.Hour
	// drift is how far the time of a backup may contradict the order of the backups while the
	// backup still gets a place, between its neighbours.
	drift = 24 * time.Hour
)

// firstYear is the first year in which a clock can be right: Holdfast did not exist before.
const firstYear = 2020

// Decide decides which of the backups of one instance are kept, at that time. The verdicts are in
// the order of the sequence numbers, the oldest first. Without a rule all backups are kept. Always
// kept are the backups with the greatest sequence number, the complete backups with the greatest
// sequence number of a complete backup, and each backup for which a protection has a reason.
func Decide(backups []Backup, p Policy, now time.Time, protections ...Protection) []Verdict {
	all := make([]Verdict, len(backups))
	for i, b := range backups {
		all[i].Backup = b
	}
	slices.SortFunc(all, func(a, b Verdict) int {
		return cmp.Or(cmp.Compare(a.Backup.Seq, b.Backup.Seq), cmp.Compare(a.Backup.ID, b.Backup.ID))
	})
	times := placed(all, now)
	if p.Empty() {
		for i := range all {
			all[i].keep("no rule")
		}
	}
	newest(all)
	for _, protect := range protections {
		for i := range all {
			if why := protect(all[i].Backup); why != "" {
				all[i].keep(why)
			}
		}
	}
	for i := range all {
		if all[i].Odd != "" {
			all[i].keep(all[i].Odd)
		}
	}
	last(all, p.Last)
	within(all, times, p.Within)
	for _, r := range []struct {
		name   string
		count  int
		within time.Duration
		bucket func(time.Time) string
	}{
		{"hourly", p.Hourly, p.WithinHourly, func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{"daily", p.Daily, p.WithinDaily, func(t time.Time) string { return t.Format(time.DateOnly) }},
		{"weekly", p.Weekly, p.WithinWeekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) }},
		{"monthly", p.Monthly, p.WithinMonthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", p.Yearly, p.WithinYearly, func(t time.Time) string { return t.Format("2006") }},
	} {
		counted(all, times, r.name, r.count, r.bucket)
		oneEach(all, times, r.name, r.within, r.bucket)
	}
	return all
}

func (v *Verdict) keep(why string) {
	v.Keep = true
	v.Why = append(v.Why, why)
}

// newest keeps the backups that continue the instance. Several backups have
// the greatest sequence number where hosts made them at the same time.
func newest(all []Verdict) {
	var top, whole uint64
	for _, v := range all {
		top = max(top, v.Backup.Seq)
		if !v.Backup.Incomplete {
			whole = max(whole, v.Backup.Seq)
		}
	}
	for i := range all {
		b := all[i].Backup
		switch {
		case b.Seq == whole && !b.Incomplete:
			all[i].keep("newest")
		case b.Seq == top:
			all[i].keep("newest, incomplete")
		case b.Seq > whole:
			all[i].keep("newer than the newest complete one")
		}
	}
}

// last keeps the n newest complete backups, and the incomplete ones between them.
func last(all []Verdict, n int) {
	for i := len(all) - 1; i >= 0 && n > 0; i-- {
		if all[i].Odd != "" {
			continue
		}
		all[i].keep("last")
		if !all[i].Backup.Incomplete {
			n--
		}
	}
}

// latest is the time from which ages are counted: the latest time of a backup whose time may be
// right. So an instance that sleeps for a year loses nothing.
func latest(times []time.Time) (at time.Time) {
	for _, t := range times {
		if t.After(at) {
			at = t
		}
	}
	return at
}

func within(all []Verdict, times []time.Time, d time.Duration) {
	if d <= 0 {
		return
	}
	from := latest(times).Add(-d)
	for i := range all {
		if all[i].Odd == "" && !times[i].Before(from) {
			all[i].keep("within " + FormatSpan(d))
		}
	}
}

// place is an hour, a day and so on that has backups.
type place struct {
	of   string
	best int // index of the newest complete backup, else of the newest backup
}

// places groups the backups that have a time, from the newest group to the oldest.
func places(all []Verdict, times []time.Time, bucket func(time.Time) string) []place {
	var groups []place
	at := map[string]int{}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Odd != "" {
			continue
		}
		key := bucket(times[i])
		n, ok := at[key]
		switch {
		case !ok:
			at[key] = len(groups)
			groups = append(groups, place{key, i})
		case all[groups[n].best].Backup.Incomplete && !all[i].Backup.Incomplete:
			groups[n].best = i
		}
	}
	return groups
}

// counted keeps one backup of each of the newest n places. While there are fewer than n places,
// counted keeps the oldest backup too, so that the history is as long as possible.
func counted(all []Verdict, times []time.Time, name string, n int, bucket func(time.Time) string) {
	if n <= 0 {
		return
	}
	groups := places(all, times, bucket)
	for i, g := range groups[:min(n, len(groups))] {
		all[g.best].keep(fmt.Sprintf("%s %d/%d", name, i+1, n))
	}
	if len(groups) >= n {
		return
	}
	for i := range all {
		if v := &all[i]; v.Odd == "" && !v.Backup.Incomplete {
			if !slices.ContainsFunc(groups, func(g place) bool { return g.best == i }) {
				v.keep(name + ", oldest")
			}
			return
		}
	}
}

// oneEach keeps one backup of each place whose backup is not older than d.
func oneEach(all []Verdict, times []time.Time, name string, d time.Duration, bucket func(time.Time) string) {
	if d <= 0 {
		return
	}
	from := latest(times).Add(-d)
	for _, g := range places(all, times, bucket) {
		if !times[g.best].Before(from) {
			all[g.best].keep("within " + FormatSpan(d) + " " + name)
		}
	}
}
