package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/agent/api"
	"holdfast/agent/engine"
	"holdfast/agent/janitor"
	"holdfast/agent/job"
	"holdfast/agent/model"
)

// batch finds the instances of a command or a question, by one rule for all calls
// with several ids: an instance that is not here and an instance that the caller may
// not see refuse the batch with one answer, and so do instances of several tenants.
// Whose an instance is its unfinished job says, and else the configuration.
func (s *service) batch(c model.Caller, ids []string) ([]*engine.Instance, error) {
	var unknown []string
	found := make([]*engine.Instance, len(ids))
	tenants := map[string]bool{}
	for i, id := range ids {
		in, tenant, err := s.instances.Found(id)
		if err != nil {
			return nil, err
		}
		if in == nil || !c.Sees(tenant) {
			unknown = append(unknown, id)
			continue
		}
		found[i], tenants[tenant] = in, true
	}
	switch {
	case len(unknown) > 0:
		return nil, noInstance(c, unknown...)
	case len(tenants) > 1:
		return nil, api.RefuseInstances(api.CodeManyTenants, ids, "do not belong to one tenant")
	}
	return found, nil
}

// Cancel implements api.Service. A task of which no job can
// be cancelled is refused, with the reason of each job.
func (s *service) Cancel(_ context.Context, c model.Caller, id string) error {
	if janitor.IsRun(id) {
		return s.cancelPrune(c, id)
	}
	jobs, err := s.taskJobs(c, id)
	if err != nil {
		return err
	}
	byReason := map[string][]string{}
	for _, j := range jobs {
		err := s.jobs.Cancel(j.ID)
		switch now, lookErr := s.journal.Job(j.ID); {
		case err == nil:
			continue
		case !errors.Is(err, job.ErrEnded) && !errors.Is(err, model.ErrState):
			return err
		case lookErr != nil:
			return lookErr
		default:
			byReason[tooLate(now)] = append(byReason[tooLate(now)], j.Instance)
		}
	}
	refused := 0
	var why []string
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		of := byReason[reason]
		refused += len(of)
		if more := len(of) - maxNamed; more > 0 {
			of = append(slices.Clone(of[:maxNamed]), fmt.Sprintf("and %d more", more))
		}
		why = append(why, fmt.Sprintf("%s: %s", strings.Join(of, ", "), reason))
	}
	if len(jobs) == 0 || refused < len(jobs) {
		return nil
	}
	return api.Refuse(api.CodeParameter, "task_id: nothing of task %s can be cancelled: %s", api.Quote(id), strings.Join(why, "; "))
}

// maxNamed bounds how many instances a refusal names for one reason.
const maxNamed = 3

// doneAlready tells whether the last job of an instance, which is over,
// did the requested act: a release or a resume that is requested twice is
// no error. After a restore, or a backup that failed, nothing is done.
func doneAlready(last *model.Job, resume bool) bool {
	if last == nil || last.IsRestore() || last.State != model.Done {
		return false
	}
	if resume {
		return last.ResumeAsked
	}
	return !last.Entered[model.Released].IsZero()
}

// tooLate says why a job can't be cancelled.
func tooLate(j *model.Job) string {
	switch {
	case j.State == model.Done:
		return "the job has ended already, with success"
	case j.State == model.Failed:
		return "the job has ended already, and failed"
	case j.State == model.Unknown:
		return notUnderstood
	case j.IsRestore():
		return "the job is " + string(j.State) + ", and its volumes are restored"
	}
	return "the job is " + string(j.State) + ", and its backup is stored; resume the instance instead"
}

// visible finds the instance for a caller.
func (s *service) visible(c model.Caller, id string) (*engine.Instance, error) {
	in, tenant, err := s.instances.Found(id)
	if err != nil {
		return nil, err
	}
	if in == nil || !c.Sees(tenant) {
		return nil, noInstance(c, id)
	}
	return in, nil
}
