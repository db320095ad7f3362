package retention_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/retention"
)

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// series makes backups of one instance, numbered from 1, at those times before now.
func series(ages ...time.Duration) []retention.Backup {
	all := make([]retention.Backup, len(ages))
	for i, age := range ages {
		all[i] = retention.Backup{Instance: "i", ID: fmt.Sprint(i + 1), Seq: uint64(i + 1), Time: now.Add(-age)}
	}
	return all
}

// daily is n backups, one a day, the last one now.
func daily(n int) []retention.Backup {
	ages := make([]time.Duration, n)
	for i := range ages {
		ages[i] = time.Duration(n-1-i) * 24 * time.Hour
	}
	return series(ages...)
}

func kept(verdicts []retention.Verdict) string {
	var ids []string
	for _, v := range verdicts {
		if v.Keep {
			ids = append(ids, v.Backup.ID)
		}
	}
	return strings.Join(ids, " ")
}

const day = 24 * time.Hour

// TestRules: what each rule keeps.
func TestRules(t *testing.T) {
	incomplete := func(all []retention.Backup, ids ...string) []retention.Backup {
		for i := range all {
			all[i].Incomplete = slices.Contains(ids, all[i].ID)
		}
		return all
	}
	for name, c := range map[string]struct {
		backups []retention.Backup
		policy  retention.Policy
		want    string
	}{
		"no rule keeps all":                    {daily(3), retention.Policy{}, "1 2 3"},
		"none":                                 {nil, retention.Policy{Last: 1}, ""},
		"last":                                 {daily(5), retention.Policy{Last: 2}, "4 5"},
		"last, of complete ones":               {incomplete(daily(5), "4"), retention.Policy{Last: 2}, "3 4 5"},
		"last, of a newest that is incomplete": {incomplete(daily(5), "5"), retention.Policy{Last: 1}, "4 5"},
		"daily, newest of each day":            {series(26*time.Hour, 25*time.Hour, 2*time.Hour, time.Hour), retention.Policy{Daily: 2}, "2 4"},
		"daily, complete before newer incomplete":   {incomplete(series(26*time.Hour, 25*time.Hour, 2*time.Hour, time.Hour), "2"), retention.Policy{Daily: 2}, "1 4"},
		"daily, days without a backup do not count": {series(40*day, 30*day, 2*day, 0), retention.Policy{Daily: 3}, "2 3 4"},
		"the oldest stays until the count is full":  {series(50*time.Hour, 49*time.Hour, 1*time.Hour), retention.Policy{Daily: 7}, "1 2 3"},
		"weekly":                          {daily(15), retention.Policy{Weekly: 2}, "14 15"},
		"monthly":                         {daily(60), retention.Policy{Monthly: 2}, "45 60"},
		"yearly":                          {daily(200), retention.Policy{Yearly: 2}, "34 200"},
		"hourly":                          {series(90*time.Minute, 80*time.Minute, 0), retention.Policy{Hourly: 2}, "2 3"},
		"within":                          {daily(5), retention.Policy{Within: 2 * day}, "3 4 5"},
		"within, counted from the newest": {series(400*day, 399*day, 390*day), retention.Policy{Within: 9 * day}, "2 3"},
		"within daily":                    {series(25*time.Hour, 24*time.Hour, time.Hour, 0), retention.Policy{WithinDaily: 2 * day}, "2 4"},
		"rules add up":                    {daily(40), retention.Policy{Last: 1, Daily: 3, Monthly: 2}, "25 38 39 40"},
	} {
		verdicts := retention.Decide(c.backups, c.policy, now)
		if got := kept(verdicts); got != c.want {
			t.Errorf("%s: keeps %s, want %s", name, got, c.want)
		}
		for _, v := range verdicts {
			if v.Keep != (len(v.Why) > 0) {
				t.Errorf("%s: backup %s: keep %v because of %q", name, v.Backup.ID, v.Keep, v.Why)
			}
		}
	}
}

// TestWrongClocks: a time that can't be right never costs another backup, and its own backup stays.
func TestWrongClocks(t *testing.T) {
	at := func(backups []retention.Backup, id string, when time.Time) []retention.Backup {
		for i := range backups {
			if backups[i].ID == id {
				backups[i].Time = when
			}
		}
		return backups
	}
	for name, c := range map[string]struct {
		backups []retention.Backup
		want    string
		odd     string // id
	}{
		"all is well":                        {daily(6), "4 5 6", ""},
		"years ahead":                        {at(daily(6), "5", now.AddDate(5, 0, 0)), "3 4 5 6", "5"},
		"the newest years ahead":             {at(daily(6), "6", now.AddDate(5, 0, 0)), "3 4 5 6", "6"},
		"a dead clock":                       {at(daily(6), "5", time.Unix(0, 0)), "3 4 5 6", "5"},
		"months behind":                      {at(daily(6), "5", now.AddDate(0, -3, 0)), "3 4 5 6", "5"},
		"an hour before the one before it":   {at(daily(6), "5", now.Add(-2*day-time.Hour)), "3 5 6", ""},
		"half an hour ahead is in the limit": {at(daily(6), "6", now.Add(30*time.Minute)), "4 5 6", ""},
	} {
		verdicts := retention.Decide(c.backups, retention.Policy{Daily: 3}, now)
		if got := kept(verdicts); got != c.want {
			t.Errorf("%s: keeps %s, want %s", name, got, c.want)
		}
		for _, v := range verdicts {
			if (v.Odd != "") != (v.Backup.ID == c.odd) {
				t.Errorf("%s: backup %s: odd %q", name, v.Backup.ID, v.Odd)
			}
		}
	}
}

// TestProtected: a protected backup stays, and says so; both branches of a fork do.
func TestProtected(t *testing.T) {
	all := daily(5)
	all = append(all, retention.Backup{Instance: "i", ID: "5b", Seq: 5, Time: now})
	verdicts := retention.Decide(all, retention.Policy{Last: 1}, now, func(b retention.Backup) string {
		if b.ID == "2" {
			return "held: court"
		}
		return ""
	})
	if got := kept(verdicts); got != "2 5 5b" {
		t.Errorf("keeps %s", got)
	}
	if got := verdicts[1].Why; !slices.Equal(got, []string{"held: court"}) {
		t.Errorf("backup 2 is kept because of %q", got)
	}
}

func TestShare(t *testing.T) {
	decide := func(n, last int) []retention.Verdict {
		return retention.Decide(daily(n), retention.Policy{Last: last}, now)
	}
	for name, c := range map[string]struct {
		verdicts map[string][]retention.Verdict
		of       string // instance; "-" is within the share
	}{
		"nothing":             {nil, "-"},
		"half":                {map[string][]retention.Verdict{"a": decide(4, 2)}, "-"},
		"more than half":      {map[string][]retention.Verdict{"a": decide(5, 2), "b": decide(100, 100)}, "a"},
		"the worst is named":  {map[string][]retention.Verdict{"a": decide(5, 2), "b": decide(5, 1)}, "b"},
		"none of the backups": {map[string][]retention.Verdict{"a": decide(3, 3)}, "-"},
	} {
		err := retention.CheckShare(c.verdicts, 50)
		var share *retention.ShareError
		if is := errors.As(err, &share); is != (c.of != "-") || is && share.Instance != c.of {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDecideProperties: for all backups and rules, the newest stays, a rule more
// keeps no backup less, and a second run forgets no backup that the first one kept.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		count := func(name string) int { return rapid.IntRange(0, 5).Draw(rt, name) }
		p := retention.Policy{
			Last: count("last"), Hourly: count("hourly"), Daily: count("daily"), Weekly: count("weekly"), Monthly: count("monthly"), Yearly: count("yearly"),
			Within: time.Duration(count("within")) * day, WithinWeekly: time.Duration(count("within weekly")) * 10 * day,
		}
		var ages []time.Duration
		age := time.Duration(0)
		for range rapid.IntRange(1, 40).Draw(rt, "backups") {
			age += time.Duration(rapid.IntRange(1, 2000).Draw(rt, "hours")) * time.Hour / 10
			ages = append(ages, age)
		}
		slices.Reverse(ages)
		all := series(ages...)
		for i := range all {
			all[i].Incomplete = rapid.IntRange(0, 4).Draw(rt, "incomplete") == 0
		}
		first := retention.Decide(all, p, now)
		if !first[len(first)-1].Keep {
			rt.Fatal("the newest is not kept")
		}
		var left []retention.Backup
		for _, v := range first {
			if v.Odd == "" && v.Keep {
				left = append(left, v.Backup)
			}
		}
		for _, v := range retention.Decide(left, p, now) {
			if !v.Keep {
				rt.Fatalf("a second run forgets %s, which the first one kept", v.Backup.ID)
			}
		}
		more := p
		more.Daily++
		more.Last++
		for i, v := range retention.Decide(all, more, now) {
			if first[i].Keep && !v.Keep && !slices.ContainsFunc(first[i].Why, func(w string) bool { return strings.HasSuffix(w, ", oldest") }) {
				rt.Fatalf("with more rules %s is not kept any more", v.Backup.ID)
			}
		}
	})
}
