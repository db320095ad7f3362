package agent

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/metrics"
	"holdfast/internal/evidence"
)

// sighting is one thing in trouble that was seen.
type sighting struct {
	name          string
	instance, job string
	what          string // tells sightings of one name, instance and job apart
	age           time.Duration
	dated         bool // age is known; else it counts from when it was seen first
	after         time.Duration
	err           error
}

// seen remembers since when a sighting without a date of its
// own lasts. The zero value is ready; it is for any goroutine.
type seen struct {
	mu    sync.Mutex
	first map[string]time.Duration // of the boot
}

// date gives ages to all that have none, and forgets troubles that are over.
func (s *seen) date(all []sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, first := evidence.SinceBoot(), map[string]time.Duration{}
	for i := range all {
		if all[i].dated {
			continue
		}
		key := fmt.Sprintf("%q", []string{all[i].name, all[i].instance, all[i].job, all[i].what})
		at, known := s.first[key]
		if !known {
			at = now
		}
		first[key] = at
		all[i].age = now - at
	}
	s.first = first
}

// sighted tells how things stand: all that is in trouble, the most urgent
// first and of one kind the oldest, and the figures for the metrics. It
// reads memory and the journal, and waits for no volume, runtime or store.
func (a *Agent) sighted() ([]sighting, metrics.Sight, error) {
	now := metrics.Sight{Jobs: map[string]metrics.Since{}, Troubles: map[string]metrics.Since{}}
	jobs, err := a.journal.Active()
	if err != nil {
		return nil, now, err
	}
	all := slices.Concat(a.watched.now(), a.sightOfParts(), a.sightOfUnknown(), a.sightOfClaims(), a.sightOfVaults())
	for _, j := range jobs {
		all = append(all, a.sightOfJob(j, &now)...)
	}
	a.seen.date(all)
	rank := map[string]int{}
	for i, k := range troubleKinds {
		rank[k.name] = i
	}
	all = slices.DeleteFunc(all, func(s sighting) bool {
		after := max(troubleKinds[rank[s.name]].after, s.after)
		return !a.hasty.Load() && s.age < after
	})
	slices.SortStableFunc(all, func(x, y sighting) int {
		return cmp.Or(cmp.Compare(rank[x.name], rank[y.name]), cmp.Compare(y.age, x.age), cmp.Compare(x.instance, y.instance))
	})
	for _, s := range all {
		now.Troubles[s.name] = now.Troubles[s.name].Add(s.age)
	}
	return all, now, nil
}

// sightOfJob finds the troubles of a job, and counts it.
func (a *Agent) sightOfJob(j *job.Job, now *metrics.Sight) (all []sighting) {
	add := func(name string, age time.Duration, err error) {
		all = append(all, sighting{name: name, instance: j.Instance, job: j.ID, age: age, dated: true, err: err})
	}
	boot := evidence.SinceBoot()
	a.watcher.mu.Lock()
	s, known := a.watcher.stays[j.ID]
	a.watcher.mu.Unlock()
	if !known { // it was accepted, or has ended, this instant
		return nil
	}
	entered := boot - s.entered
	now.Jobs[string(j.State)] = now.Jobs[string(j.State)].Add(entered)
	f, fails := a.watcher.failureOf(j.ID)
	name := a.actTrouble(j)
	if fails {
		now.Stuck = now.Stuck.Add(boot - f.since)
		add(name, boot-f.since, fmt.Errorf("%s: %w", f.doing, f.err))
	} else if name == troubleUnconfigured {
		add(name, entered, fmt.Errorf("its job is %s", j.State))
	} else if quick[j.State] {
		add(troubleHangs, entered, fmt.Errorf("its job is %s, and that does not end", j.State))
	}
	if err := a.changedConfiguration(j); err != nil {
		add(troubleChanged, entered, err)
	}
	switch {
	case j.State == job.Held && j.Gone != "":
		add(troubleGone, entered, errors.New(j.Gone))
	case j.State == job.Held:
		add(troubleHeld, entered, errors.New(j.Cause))
	}
	if err := forkTrouble(j); err != nil {
		add(troubleFork, boot-s.entered, err)
	}
	if s.held != 0 {
		held := boot - s.held
		now.Frozen = now.Frozen.Add(held)
		waits := ""
		if j.State == job.Acknowledged && j.Policy == job.ReleaseByAgent && j.Unproven() && !j.ReleaseAsked {
			waits = ": its runtime can't tell whether the instance ran since, so somebody has to release or resume it"
		}
		add(troubleFrozen, held, fmt.Errorf("its job is %s since %s%s", j.State, roughly(entered), waits))
	}
	return all
}

// quick are the states that take seconds, or minutes
// on a slow host, unless an act does not come back.
var quick = map[job.State]bool{
	job.Freezing: true, job.Frozen: true, job.Snapshotting: true, job.Snapshotted: true, job.Stored: true, job.Releasing: true, job.Released: true,
	job.Resuming: true, job.Ending: true, job.Suspending: true, job.Failing: true, job.Placing: true, job.Restored: true, job.Starting: true,
}

// actTrouble names the trouble when an act of the job fails in its present state.
func (a *Agent) actTrouble(j *job.Job) string {
	if a.instances[j.Instance] == nil {
		return troubleUnconfigured
	}
	switch j.State {
	case job.Failing, job.Suspending, job.Resuming, job.Ending, job.Released:
		return troubleUndo
	case job.Releasing:
		return troubleRelease
	}
	return troubleAct
}

// roughly writes a duration for people.
func roughly(d time.Duration) string {
	switch {
	case d > time.Hour:
		return d.Round(time.Minute).String()
	case d > time.Minute:
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// staleAnswer is when the last answer of IAM or of the store says
// nothing any more: nobody has asked since.
const staleAnswer = 15 * time.Minute

// sightOfParts finds the troubles of the agent's own parts.
func (a *Agent) sightOfParts() (all []sighting) {
	add := func(name string, err error) {
		if err != nil {
			all = append(all, sighting{name: name, err: err})
		}
	}
	boot, w := evidence.SinceBoot(), a.watcher
	w.mu.Lock()
	for name, f := range w.faults {
		name, _, _ = strings.Cut(name, "/")
		if (name == troubleIAM || name == troubleStore) && boot-f.last > staleAnswer {
			continue
		}
		all = append(all, sighting{name: name, age: boot - f.since, dated: true, err: f.err})
	}
	for instance, f := range w.lines {
		all = append(all, sighting{name: troubleReports, instance: instance, age: boot - f.since, dated: true, err: f.err})
	}
	w.mu.Unlock()
	add(troubleJournal, a.journalHangs())
	switch {
	case a.serving.Load() || a.stopping.Load() || a.standing.reason() != nil:
	case a.recovers:
		add(troubleRecovery, errors.New("the configuration, or something that it names, has a fault, which the log tells; this start lets go of held instances and ends when none is held"))
	default:
		add(troubleRecovery, errors.New("the jobs of the last life are not all looked at yet"))
	}
	add(troubleCopied, a.standing.reason())
	if a.manager.Draining() && a.standing.reason() == nil && !a.stopping.Load() && !a.recovers {
		add(troubleDrained, errors.New("the agent was told to drain, and refuses every command"))
	}
	if a.manager.Full() {
		add(troubleQueue, fmt.Errorf("%d jobs wait", a.cfg.Limits.Queue))
	}
	if waiting, granted := a.manager.HoldTurns(); waiting > 0 {
		all = append(all, sighting{
			name: troubleTurns, what: fmt.Sprint(granted), err: fmt.Errorf("%d jobs wait for their turn to hold their instance, limits.held is %d", waiting, a.cfg.Limits.Held),
		})
	}
	if refused, err := a.journal.Refused(); err == nil {
		for _, r := range refused {
			if r.Type != job.EventCompleted { // for a refused backup an instance is held
				all = append(all, sighting{
					name: troubleEvents, instance: r.Instance, job: r.Job, what: r.ID, age: max(0, time.Since(r.Since)), dated: true,
					err: fmt.Errorf("%s: %s", r.Type, r.Reason),
				})
			}
		}
	}
	if left, err := a.manager.Leftovers(); err == nil && len(left) > 0 {
		add(troubleLeftover, fmt.Errorf("%d snapshots or replaced volumes can't be removed", len(left)))
	}
	add(troubleListen, a.listeners.control.fault())
	add(troubleListen, a.listeners.metrics.fault())
	if t := a.listeners.tls.Load(); t != nil { // and so is all else that tells who calls
		if a.static != nil {
			add(troubleTokens, a.static.Fault())
		}
		add(troubleClients, t.ClientFault())
		expiry, err := t.Expiry()
		add(troubleCertificate, err)
		if left := time.Until(expiry); left < certificateWarning {
			add(troubleExpires, fmt.Errorf("it expires at %s", expiry.UTC().Format("2006-01-02 15:04:05Z")))
		}
	}
	return all
}

// maxShownTroubles bounds the list of one kind of trouble.
const maxShownTroubles = 10

// troubles lists the troubles for operators.
func (a *Agent) troubles() ([]api.Trouble, error) {
	all, _, err := a.sighted()
	if err != nil {
		return nil, err
	}
	list := []api.Trouble{}
	shown := map[string]int{}
	for _, s := range all {
		if shown[s.name]++; shown[s.name] > maxShownTroubles {
			for i := range list {
				if list[i].Name == s.name {
					list[i].More++
					break
				}
			}
			continue
		}
		list = append(list, s.trouble())
	}
	return list, nil
}

// trouble is what to tell of it.
func (s sighting) trouble() api.Trouble {
	i := slices.IndexFunc(troubleKinds, func(k troubleKind) bool { return k.name == s.name })
	t := api.Trouble{
		Name: s.name, InstanceID: s.instance, JobID: s.job, Since: time.Now().Add(-s.age).UTC(), Seconds: s.age.Seconds(), Error: s.err.Error(),
		Hint: troubleKinds[i].hint,
	}
	if more := hint(s.err); more != "" {
		t.Hint += "; " + more
	}
	return t
}
