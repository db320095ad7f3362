package agent

import (
	"errors"
	"fmt"
)

// warnOfUnknown says at the start which records of the journal could not be understood.
func (a *Agent) warnOfUnknown() {
	all, err := a.journal.Unknown()
	if err != nil {
		a.log.Error("the journal can't be read", keyError, err.Error())
	}
	for _, r := range all {
		a.log.Error("a record of the journal can't be understood, and was set aside alone; all other jobs go on. Where the record is of an unfinished job, the agent does "+
			"nothing to the instance until the job is given up (holdfast abandon), or a program that understands the record is started",
			"record", r.About(), keyInstance, r.Instance, keyJob, r.Job, keyReason, r.Why)
	}
}

// sightOfUnknown finds the records of the journal that can't be understood.
func (a *Agent) sightOfUnknown() (all []sighting) {
	list, err := a.journal.Unknown()
	if err != nil {
		return []sighting{{name: troubleRecord, err: errors.Join(errors.New("the journal can't be read"), err)}}
	}
	for _, r := range list {
		all = append(all, sighting{name: troubleRecord, instance: r.Instance, job: r.Job, what: r.About(), err: fmt.Errorf("%s: %s", r.About(), r.Why)})
	}
	return all
}
