package janitor

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/vault"
)

// due is the schedule of one vault. Times are of the
// process: no wall clock that is set moves them.
type due struct {
	looked time.Time // the last look at the vault
	// last is the newest record of a prune, "" where
	// there is none, since when this process sees it.
	last     string
	since    time.Time
	failures int       // of scheduled runs in a row
	again    time.Time // before it no scheduled run begins
	run      string    // the last scheduled run, whose end is not counted yet
}

func (j *Janitor) lookEvery() time.Duration { return min(lookAtMost, max(j.o.Every/16, time.Second)) }

// step is the time after which the host of the next rank takes a turn.
func (j *Janitor) step() time.Duration { return min(stepMost, max(stepLeast, j.o.Every/steps)) }

// schedule looks at one vault that was not looked at lately, and begins a
// run where it is due. A vault is also looked at where a run of it failed,
// since another host may have succeeded. It tells whether it looked.
func (j *Janitor) schedule(ctx context.Context) bool {
	tenant := j.lookFor(time.Now())
	if tenant == "" {
		return false
	}
	d := j.tenants[tenant]
	d.looked = time.Now()
	j.count(tenant, d)
	v, end, err := j.host.Open(ctx, tenant)
	if err != nil {
		return true // the next look tries again; a vault that is not made yet has nothing to prune
	}
	defer end()
	within, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	turn, err := v.Turn(within, j.o.Identity.ID, seenLately)
	if err != nil {
		return true
	}
	j.learn(tenant, turn.Runs)
	if !j.begins(d, turn, time.Now()) {
		return true
	}
	run, err := j.Accept(Request{Tenant: tenant, By: bySchedule})
	if err == nil {
		d.run = run.ID
	}
	return true
}

// lookTime bounds one look at a vault.
const lookTime = time.Minute

// lookFor is the tenant of the vault whose look is due; "" where none is.
func (j *Janitor) lookFor(now time.Time) string {
	tenants := map[string]bool{}
	if j.o.Mode != ModeCommand {
		for _, t := range j.o.Tenants {
			tenants[t] = true
		}
	}
	for _, t := range j.Troubles() {
		tenants[t.Tenant] = true
	}
	oldest := ""
	for t := range tenants {
		if j.tenants[t] == nil {
			j.tenants[t] = &due{}
		}
		d := j.tenants[t]
		if !d.looked.IsZero() && now.Sub(d.looked) < j.lookEvery() {
			continue
		}
		if oldest == "" || d.looked.Before(j.tenants[oldest].looked) {
			oldest = t
		}
	}
	return oldest
}

// count counts the end of the last scheduled run: a
// run that failed is tried again later each time.
func (j *Janitor) count(tenant string, d *due) {
	if d.run == "" {
		d.run = j.unfinished(tenant)
	}
	r, err := j.Find(d.run)
	switch {
	case errors.Is(err, ErrNoRun):
		d.run = ""
		return
	case !r.State.Over():
		return
	}
	d.run = ""
	if r.State != Failed {
		d.failures = 0
		return
	}
	d.failures++
	pause := retryMost
	if r.Problem != ProblemDelete && r.Problem != ProblemShare {
		pause = min(retryMost, retryFirst<<min(d.failures-1, 10))
	}
	d.again = time.Now().Add(pause)
}

// unfinished is the scheduled run of the tenant that an earlier life left; "" where there is none.
func (j *Janitor) unfinished(tenant string) string {
	for _, r := range j.Runs(tenant) {
		if r.Scheduled() && !r.State.Over() {
			return r.ID
		}
	}
	return ""
}

// begins tells whether this host prunes the vault now.
func (j *Janitor) begins(d *due, turn vault.Turn, now time.Time) bool {
	if j.o.Mode == ModeCommand || d.run != "" || now.Before(d.again) || turn.UnderWay != nil {
		return false
	}
	last := ""
	if len(turn.Ended) > 0 {
		last = turn.Ended[0].ID
	}
	if d.since.IsZero() || d.last != last {
		d.last, d.since = last, now
	}
	// By the own clock of this process too: a record that the store
	// dates wrong delays no prune for longer than a period.
	late := now.Sub(d.since)
	if last != "" {
		late = max(late, since(turn, now)) - j.o.Every
	}
	if late < 0 {
		return false
	}
	return j.o.Mode == ModeHere || late >= time.Duration(turn.Rank)*j.step()
}

// since is the time since the last prune: by the clock of the store, and in a store that tells no
// time by the clocks of the hosts. A prune of the future counts as a prune of now.
func since(turn vault.Turn, now time.Time) time.Duration {
	last := turn.Ended[0]
	if last.Stored.IsZero() || turn.Now.IsZero() {
		return max(0, now.Sub(last.Ended))
	}
	return max(0, turn.Now.Sub(last.Stored))
}
