package agent

import "holdfast/agent/model"

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

// warnOfStrays says at the start which unfinished jobs have instances that the configuration does
// not have any more.
func (a *Agent) warnOfStrays(active []*model.Job) {
	for _, j := range active {
		if a.instances.Configured(j.Instance) == nil {
			a.log.Warn("the instance of an unfinished job is not in the configuration any more; its job goes on by what the journal keeps of it: "+
				"holdfast resume or holdfast release ends a hold, and putting the instance back into the configuration does no harm",
				keyInstance, j.Instance, keyJob, j.ID, keyState, string(j.State), "held", j.Hold)
		}
	}
}

// warnOfChanges says at the start which unfinished jobs
// go by another configuration than the present one.
func (a *Agent) warnOfChanges(active []*model.Job) {
	for _, j := range active {
		if err := a.instances.Changed(j); err != nil {
			a.log.Warn("the configuration of an instance changed while its job is unfinished; the job goes on by what the journal keeps, "+
				"and the change counts from the next job on: end the job (holdfast resume, holdfast release), or take the change back",
				keyInstance, j.Instance, keyJob, j.ID, keyState, string(j.State), "held", j.Hold, keyReason, err.Error())
		}
	}
}
