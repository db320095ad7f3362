package observe

import (
	"errors"
	"fmt"
)

// sightOfUnknown finds the records of the journal that can't be understood.
func (l *Lookout) sightOfUnknown() (all []Sighting) {
	list, err := l.Journal.Unknown()
	if err != nil {
		return []Sighting{{Name: TroubleRecord, Err: errors.Join(errors.New("the journal can't be read"), err)}}
	}
	for _, r := range list {
		all = append(all, Sighting{Name: TroubleRecord, Instance: r.Instance, Job: r.Job, What: r.About(), Err: fmt.Errorf("%s: %s", r.About(), r.Why)})
	}
	return all
}
