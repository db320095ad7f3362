package observe

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/evidence"
)

// Sighting is one thing in trouble that was seen.
type Sighting struct {
	Name          string // of a trouble in Troubles
	Instance, Job string
	What          string // tells sightings of one name, instance and job apart
	Age           time.Duration
	Dated         bool          // Age is known; else it counts from when it was seen first
	After         time.Duration // for how long it may last before it is shown, where longer than Trouble.After
	Err           error
}

// seen remembers since when a sighting without a date of its
// own lasts. The zero value is ready; it is for any goroutine.
type seen struct {
	mu    sync.Mutex
	first map[string]time.Duration // of the boot
}

// date gives ages to all that have none, and forgets troubles that are over.
func (s *seen) date(all []Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, first := evidence.SinceBoot(), map[string]time.Duration{}
	for i := range all {
		if all[i].Dated {
			continue
		}
		key := fmt.Sprintf("%q", []string{all[i].Name, all[i].Instance, all[i].Job, all[i].What})
		at, known := s.first[key]
		if !known {
			at = now
		}
		first[key] = at
		all[i].Age = now - at
	}
	s.first = first
}

// Roughly writes a duration for people.
func Roughly(d time.Duration) string {
	switch {
	case d > time.Hour:
		return d.Round(time.Minute).String()
	case d > time.Minute:
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// trouble is what to tell of it.
func (s Sighting) trouble() api.Trouble {
	i := slices.IndexFunc(Troubles, func(k Trouble) bool { return k.Name == s.Name })
	t := api.Trouble{
		Name: s.Name, InstanceID: s.Instance, JobID: s.Job, Since: time.Now().Add(-s.Age).UTC(), Seconds: s.Age.Seconds(), Error: s.Err.Error(),
		Hint: Troubles[i].Hint,
	}
	if more := Hint(s.Err); more != "" {
		t.Hint += "; " + more
	}
	return t
}

// ForkTrouble tells of a fork of which nobody has decided; nil where there is none.
func ForkTrouble(j *model.Job) error {
	if j == nil || !j.ForkOpen() {
		return nil
	}
	other := j.Result.Fork[0]
	host := other.Host
	if host == "" {
		host = "another host"
	}
	return fmt.Errorf("its backup %s does not descend from backup %s of %s, and the reverse", j.Result.BackupID, other.Backup, host)
}

// watched is the result of the last look at the disks.
// The zero value is ready; it is for any goroutine.
type watched struct {
	mu    sync.Mutex
	found []Sighting
}

func (w *watched) now() []Sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.found)
}
