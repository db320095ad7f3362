package service

import (
	"holdfast/agent/api"
	"holdfast/agent/model"
)

// noInstance is the refusal for instances that are not here or not the caller's. A
// caller that does not see all tenants gets the same words and the same code for
// both: a difference would tell one tenant about another's instances (tenant-walls).
func noInstance(c model.Caller, ids ...string) *api.Error {
	if c.SeesAll() {
		return api.RefuseInstances(api.CodeNoInstance, ids, "does not exist on this host")
	}
	return api.RefuseInstances(api.CodeNoPermission, ids, "does not exist on this host, or is not yours")
}

// refuseBusy is the refusal of a command for instances that have unfinished jobs.
func refuseBusy(busy *model.BusyError) *api.Error {
	switch {
	case len(busy.Unknown) > 0 && len(busy.Restoring) > 0:
		return api.RefuseInstances(api.CodeInRecovery, busy.Unknown, notUnderstood)
	case len(busy.Unknown) > 0:
		return api.RefuseInstances(api.CodeInBackup, busy.Unknown, notUnderstood)
	case len(busy.Restoring) > 0:
		return api.RefuseInstances(api.CodeInRecovery, busy.Restoring, "is being restored")
	}
	return api.RefuseInstances(api.CodeInBackup, busy.Instances, "is being backed up")
}

// notUnderstood tells the meaning of the state model.Unknown for an instance.
const notUnderstood = "has an unfinished job whose record this agent does not understand; an operator of the host has to give the job up"
