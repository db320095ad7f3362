package agent

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
