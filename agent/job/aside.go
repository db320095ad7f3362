package job

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// The content that a restore takes out of the places of volumes may hold bytes that no backup has.
// Unless the decision says for certain that a backup holds it, it is kept aside: the journal names
// it in the transaction of the state restored, and then it is renamed, beside its volume. It is
// removed after Options.KeepAside, or when an operator says so, and a put-back exchanges it again.

// Count has the figures of a tree, as restore.Measure has it.
type Count struct {
	Files   uint64    `json:"files"`
	Bytes   uint64    `json:"bytes"`
	Entries uint64    `json:"entries"` // 0: an empty folder
	Newest  time.Time `json:"newest_mtime,omitzero"`
	Changed time.Time `json:"changed,omitzero"`
	Whole   bool      `json:"whole"` // else the figures are the least there is
}

// same tells for certain that a tree did not change between two counts.
func (c Count) same(other Count) bool {
	return c.Whole && other.Whole && c.Files == other.Files && c.Bytes == other.Bytes && c.Entries == other.Entries &&
		c.Newest.Equal(other.Newest) && c.Changed.Equal(other.Changed)
}

// Replaced describes the content that a restore has taken out of the places of all volumes of an
// instance.
type Replaced struct {
	Files  uint64    `json:"files"`
	Bytes  uint64    `json:"bytes"`
	Newest time.Time `json:"newest_mtime,omitzero"` // UTC
	// Backup is the backup from which this host knew the content to come; "": the host knew of
	// none.
	Backup string `json:"known_backup,omitempty"`
	// AtLeast says that the count stopped at a bound.
	AtLeast bool `json:"at_least,omitempty"`
	// Kept says that the content is kept aside; else a backup holds it for certain, or it was
	// empty.
	Kept bool `json:"kept"`
}

// add counts the content of one more tree.
func (r *Replaced) add(c Count) {
	r.Files, r.Bytes, r.AtLeast = r.Files+c.Files, r.Bytes+c.Bytes, r.AtLeast || !c.Whole
	if c.Newest.After(r.Newest) {
		r.Newest = c.Newest
	}
}

// AsideVolume is one volume of the kept content. Its Place has Old and Aside set.
type AsideVolume struct {
	Place Place `json:"place"`
	Count Count `json:"count"`
}

// Aside is the journal's record of the content that one job has replaced, and that is kept.
type Aside struct {
	Instance string        `json:"instance"`
	Tenant   string        `json:"tenant"`
	Job      string        `json:"job"`      // that has replaced it
	Since    time.Time     `json:"since"`    // UTC, for people
	SinceUp  time.Duration `json:"since_up"` // by the journal's clock
	// Known is the backup from which this host knew the content to come; zero: the host knew of
	// none.
	Known    Content       `json:"known"`
	By       string        `json:"by,omitempty"` // the backup that took its place
	Replaced Replaced      `json:"replaced"`
	Volumes  []AsideVolume `json:"volumes"`
	// Missing are the volumes of which nothing was there.
	Missing []string `json:"missing,omitempty"`
	// Removing says that it is being removed, which nothing stops any more.
	Removing bool `json:"removing,omitempty"`
	// Adopted is when the agent found the trees, of which the journal did not know; UTC, zero for
	// others. The time for which the content is kept begins then. See seekKept.
	Adopted time.Time `json:"adopted,omitzero"`
	// Partial says that a removal of the trees had begun, of which the journal does not know, so
	// that the content may not be whole.
	Partial bool `json:"partial,omitempty"`
	// Error is of the last try to remove it, or to rename it.
	Error string `json:"error,omitempty"`
}

func asideKey(instance, job string) []byte { return []byte(instance + "\x00" + job) }

func (s *Aside) key() []byte { return asideKey(s.Instance, s.Job) }

// soundAside tells why a record of kept content can't be worked with. Opening the journal sets such
// a record aside; the trees on the disks bear notes, by which seekKept adopts them again.
func soundAside(k, v []byte) error {
	var s Aside
	if err := json.Unmarshal(v, &s); err != nil {
		return err
	}
	if !bytes.Equal(k, s.key()) {
		return fmt.Errorf("it is of job %q of instance %q", s.Job, s.Instance)
	}
	return nil
}

// replaced looks at the content that all volumes have replaced, once all are in their places. It
// returns the places as they are to be journalled, and the record of the kept content; nil: none is
// kept.
//
// Invariant nothing-lost: content that is not kept is an empty folder, or was in a backup when the
// restore began, by the decision's word, and has not changed since.
func (w *worker) replaced(ctx context.Context, j *Job) (places []Place, sum *Replaced, kept *Aside, err error) {
	known, err := w.m.journal.Content(j.Instance)
	if err != nil {
		return nil, nil, nil, err
	}
	sum = &Replaced{Backup: known.Backup}
	places = slices.Clone(j.Restore.Places)
	counts := make([]Count, len(places))
	some, keep := false, false
	for i := range places {
		p := &places[i]
		if p.Old, counts[i], err = w.m.parts.Restorer.Count(ctx, *p, p.Stage); err != nil {
			return nil, nil, nil, fmt.Errorf("volume %q: %w", p.Volume, err)
		}
		if p.Old == "" {
			continue
		}
		c := counts[i]
		sum.add(c)
		p.Empty = c.Whole && c.Entries == 0
		certain := j.Restore.Certain && p.Was.same(c)
		some, keep = true, keep || j.PutBack != "" || !p.Empty && !certain
	}
	for _, p := range j.Restore.Out { // removed before
		sum.Files, sum.Bytes, some = sum.Files+p.Was.Files, sum.Bytes+p.Was.Bytes, true
		if p.Was.Newest.After(sum.Newest) {
			sum.Newest = p.Was.Newest
		}
	}
	if !some {
		return places, nil, nil, nil
	}
	if !keep {
		return places, sum, nil, nil
	}
	sum.Kept = true
	kept = &Aside{
		Instance: j.Instance, Tenant: j.Tenant, Job: j.ID, Since: w.m.opts.Now().UTC(), SinceUp: w.m.journal.Up(), Known: known, By: j.Restore.Backup, Replaced: *sum,
	}
	for i := range places {
		p := &places[i]
		if p.Old == "" {
			kept.Missing = append(kept.Missing, p.Volume)
			continue
		}
		p.Aside, p.Empty = asideOf(*p, j.ID), false
		kept.Volumes = append(kept.Volumes, AsideVolume{*p, counts[i]})
	}
	return places, sum, kept, nil
}

// setAside renames the content that the volume of a place has replaced. A tree that can't be
// renamed stays at the stage: the journal's record of it counts there too, and the rename is tried
// again later.
func (w *worker) setAside(j *Job, p Place) {
	err := w.act(crashpoint.SetAside, func() error {
		return contain.Call(func() error { return w.m.parts.Restorer.SetAside(p) })
	})
	if err != nil {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "rename the replaced content to "+p.Aside, err)
	}
}

// putAside writes, in the transaction of a state, the content that is kept from then on, and the
// content that is not any more.
func putAside(tx *bbolt.Tx, c change) error {
	if c.unkept != nil {
		if err := tx.Bucket(bucketAside).Delete(c.unkept); err != nil {
			return err
		}
	}
	if c.kept == nil {
		return nil
	}
	return put(tx, bucketAside, c.kept.key(), c.kept)
}

// Kept lists the kept content, the oldest first.
func (jr *Journal) Kept() (list []Aside, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketAside).ForEach(func(k, v []byte) error {
			var s Aside
			if err := json.Unmarshal(v, &s); err != nil {
				return fmt.Errorf("journal: decode the record of kept content %q: %w", k, err)
			}
			list = append(list, s)
			return nil
		})
	})
	slices.SortFunc(list, func(a, b Aside) int { return cmp.Or(cmp.Compare(a.SinceUp, b.SinceUp), cmp.Compare(a.Job, b.Job)) })
	return list, err
}

// keptBy returns the record of the content that one job has replaced, or ErrNotFound.
func (jr *Journal) keptBy(instance, job string) (s Aside, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		found, err := get(tx, bucketAside, asideKey(instance, job), &s)
		if err == nil && !found {
			err = fmt.Errorf("job %s of instance %q has no kept content: %w", job, instance, ErrNotFound)
		}
		return err
	})
	return s, err
}

// changeAside rewrites a record that is still there, or forgets it where edit returns false.
func (jr *Journal) changeAside(instance, job string, check func(tx *bbolt.Tx) error, edit func(*Aside) bool) error {
	return jr.update(func(tx *bbolt.Tx) error {
		var s Aside
		found, err := get(tx, bucketAside, asideKey(instance, job), &s)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("job %s of instance %q has no kept content: %w", job, instance, ErrNotFound)
		}
		if check != nil {
			if err := check(tx); err != nil {
				return err
			}
		}
		if !edit(&s) {
			return tx.Bucket(bucketAside).Delete(s.key())
		}
		return put(tx, bucketAside, s.key(), s)
	})
}

// noPutBack fails while a job of the instance puts back the content that the named job has
// replaced, or has only just replaced it.
func noPutBack(instance, job string) func(tx *bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		id := tx.Bucket(bucketActive).Get([]byte(instance))
		if id == nil {
			return nil
		}
		active, err := getJob(tx, string(id))
		if err != nil {
			return err
		}
		if active.PutBack == job || active.ID == job {
			return fmt.Errorf("the kept content of %q is in use by job %s, which is %s: %w", instance, active.ID, active.State, ErrState)
		}
		return nil
	}
}

// Kept lists the kept content, the oldest first.
func (m *Manager) Kept() ([]Aside, error) { return m.journal.Kept() }

// KeptFor tells for how long a record is kept already, and whether that is as long as it should be.
func (m *Manager) KeptFor(s *Aside) (age time.Duration, over bool) {
	age = max(0, m.journal.Up()-s.SinceUp)
	return age, age >= m.opts.KeepAside
}

// findKept names the one record of an instance: the record of the job, or the only record.
func (m *Manager) findKept(instance, job string) (Aside, error) {
	all, err := m.journal.Kept()
	if err != nil {
		return Aside{}, err
	}
	all = slices.DeleteFunc(all, func(s Aside) bool { return s.Instance != instance || job != "" && s.Job != job })
	switch {
	case len(all) == 0 && job != "":
		return Aside{}, fmt.Errorf("job %s of instance %q has no kept content: %w", job, instance, ErrNotFound)
	case len(all) == 0:
		return Aside{}, fmt.Errorf("instance %q has no kept content: %w", instance, ErrNotFound)
	case len(all) > 1:
		return Aside{}, fmt.Errorf("instance %q has kept content of %d jobs; name the job (`holdfast kept list`): %w", instance, len(all), ErrAmbiguous)
	}
	return all[0], nil
}

// ErrAmbiguous says that a request fits several records.
var ErrAmbiguous = errors.New("not one alone")

// RemoveKept removes the kept content of an instance: of the job that has replaced it, or "" where
// only one has. The intent is journalled first; with an error after that the removal is tried again
// until it succeeds. ErrNotFound, ErrAmbiguous, and ErrState while a job uses it, change nothing.
func (m *Manager) RemoveKept(instance, job string) error {
	s, err := m.findKept(instance, job)
	if err != nil {
		return err
	}
	return m.removeAside(s, true)
}

// removeAside journals that a record is being removed, removes the trees, and forgets the record.
// Where an operator wants that, the control plane is told.
func (m *Manager) removeAside(s Aside, told bool) error {
	if !s.Removing {
		m.hit(crashpoint.WriteRemoving + crashpoint.Before)
		may := func(tx *bbolt.Tx) error {
			if err := noPutBack(s.Instance, s.Job)(tx); err != nil || !told {
				return err
			}
			return tell(tx, m.opts.Now(), EventDecided, decidedData{
				Instance: s.Instance, Tenant: s.Tenant, Job: s.Job, Decision: decidedRemoval, By: "an operator", BackupID: s.Known.Backup, Replaced: &s.Replaced,
			})
		}
		err := m.journal.changeAside(s.Instance, s.Job, may, func(s *Aside) bool { s.Removing = true; return true })
		if err != nil {
			return err
		}
		wake(m.outbox)
		m.hit(crashpoint.WriteRemoving + crashpoint.After)
	}
	var errs []error
	for _, v := range s.Volumes {
		m.hit(crashpoint.RemoveAside + crashpoint.Before)
		errs = append(errs, contain.Call(func() error { return m.removeTree(v.Place) }))
		m.hit(crashpoint.RemoveAside + crashpoint.After)
	}
	failed := errors.Join(errs...)
	err := m.journal.changeAside(s.Instance, s.Job, nil, func(s *Aside) bool {
		if failed != nil {
			s.Error = failed.Error()
		}
		return failed != nil
	})
	if errors.Is(err, ErrNotFound) {
		err = nil // somebody else removed it at the same time
	}
	return errors.Join(failed, err)
}

// removeTree removes a tree that is kept, or condemned.
func (m *Manager) removeTree(p Place) error {
	at, err := m.parts.Restorer.LiesAside(p)
	if err != nil || at == "" {
		return err
	}
	p.Stage = at
	return m.discardTree(p)
}

// asideEvery is how often the kept content is looked at: a minute more or less is nothing to hours.
const asideEvery = time.Minute

// watchAside removes content that was kept for long enough, until ctx ends, and goes on with
// removals.
func (m *Manager) watchAside(ctx context.Context) {
	type due struct {
		at    time.Time
		pause time.Duration
	}
	next := map[string]due{}
	tick := time.NewTicker(asideEvery)
	defer tick.Stop()
	var looked time.Time
	for {
		if now := time.Now(); looked.IsZero() || now.Sub(looked) >= seekEvery {
			looked = now
			m.contained("look for kept content of which the journal does not know", func() { m.seekKept(ctx) })
		}
		all, err := m.journal.Kept()
		if err != nil {
			m.parts.Observer.Trouble("", "", "look for kept content", err)
		}
		for _, s := range all {
			key := string(s.key())
			d := next[key]
			if time.Now().Before(d.at) || ctx.Err() != nil {
				continue
			}
			delete(next, key)
			if !m.tendAside(s) {
				d.pause = min(max(2*d.pause, firstLeftoverPause), lastLeftoverPause)
				d.at = time.Now().Add(d.pause)
				next[key] = d
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tendAside does the act that is due with a record, and tells whether nothing failed.
func (m *Manager) tendAside(s Aside) bool {
	_, over := m.KeptFor(&s)
	var err error
	doing := "remove the kept content of " + s.Instance
	switch {
	case s.Removing || over:
		if err = m.removeAside(s, false); errors.Is(err, ErrState) {
			return true // a job uses it
		}
	default:
		doing = "rename the replaced content of " + s.Instance
		err = m.renameAside(s)
	}
	if err != nil {
		m.parts.Observer.Trouble(s.Instance, s.Job, doing, err)
	}
	return err == nil
}

// renameAside goes on with a rename that failed, or that a crash cut off. The job that did not end
// yet does that by itself.
func (m *Manager) renameAside(s Aside) error {
	active, _, err := m.journal.ByInstance(s.Instance)
	if err != nil || active != nil && (active.ID == s.Job || active.PutBack == s.Job) {
		return err
	}
	var errs []error
	for _, v := range s.Volumes {
		at, err := m.parts.Restorer.LiesAside(v.Place)
		switch {
		case err != nil:
			errs = append(errs, err)
		case at == "":
			errs = append(errs, fmt.Errorf("volume %q: the tree that was kept at %s is not there any more; "+
				"bring it back, or remove the record (`holdfast kept remove %s`)", v.Place.Volume, v.Place.Aside, s.Instance))
		case at != v.Place.Aside:
			errs = append(errs, m.parts.Restorer.SetAside(v.Place))
		}
	}
	failed := errors.Join(errs...)
	text := ""
	if failed != nil {
		text = failed.Error()
	}
	if text == s.Error {
		return failed
	}
	err = m.journal.changeAside(s.Instance, s.Job, nil, func(s *Aside) bool { s.Error = text; return true })
	return errors.Join(failed, err)
}

// planReplacing counts the content in the places of the volumes, where a backup holds it for
// certain: content that is still the same once it is out of its place need not be kept. Then it
// looks for room. The facts of the decision are gathered once more after the count, so that nothing
// changes in between unseen.
func (w *worker) planReplacing(ctx context.Context, j *Job, instance Instance, r *Restore) error {
	olds := map[string]string{}
	for i := range r.Places {
		p := &r.Places[i]
		if !r.Certain {
			continue
		}
		old, was, err := w.m.parts.Restorer.Count(ctx, *p, p.Target)
		if err != nil {
			return fmt.Errorf("count the content of volume %q: %w", p.Volume, err)
		}
		if old != "" {
			p.Was, olds[p.Volume] = was, old
		}
	}
	if len(olds) > 0 {
		f, err := w.facts(ctx, j, instance)
		if err != nil {
			return err
		}
		d := Decide(f)
		switch {
		case d.Action == ActRefuse:
			return d.Err
		case d.Action == ActReady || f.Newest.Backup != r.Backup:
			return errors.New("the volumes or the vault changed while the restore was decided; command it again")
		}
		r.Certain = d.Certain
	}
	if err := w.planRoom(ctx, j, r, olds); err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	return nil
}
