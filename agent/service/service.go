package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/engine"
	"holdfast/agent/janitor"
	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/agent/observe"
	"holdfast/internal/contain"
)

// What callers are told and how often things are looked at, each with its reason.
const (
	// retryFull is when a full queue may have room: a backup takes minutes.
	retryFull = time.Minute
	// retryDraining is when an agent that restarts may be back.
	retryDraining = 30 * time.Second
	// lookers bounds how many instances are looked at together for a list.
	lookers = 16
	// watchPoll is how often a watcher looks into the journal, in case it missed an update.
	watchPoll = 2 * time.Second
)

// Backup checks the whole batch before anything starts, in the order:
// is the command known, do the instances exist, may the caller act on
// them, are they of one tenant, are they busy, is their storage here.
func (s *service) Backup(ctx context.Context, c model.Caller, requestID string, digest [32]byte, ids []string, deadline time.Time) (api.TaskAnswer, error) {
	r := job.Request{Kind: model.KindBackup, Deadline: deadline, ID: requestID, Digest: digest, Tenant: c.Tenant, Instances: ids}
	return s.accept(r, func() error { return s.check(ctx, c, ids, true) })
}

// accept puts the command into the journal, unless it is there or check refuses it.
func (s *service) accept(r job.Request, check func() error) (api.TaskAnswer, error) {
	m := s.jobs
	task, err := m.Known(r)
	if err == nil && task == nil {
		if err := check(); err != nil {
			return api.TaskAnswer{}, err
		}
		task, err = m.Accept(r)
	}
	var busy *model.BusyError
	switch {
	case errors.As(err, &busy):
		return api.TaskAnswer{}, refuseBusy(busy)
	case errors.Is(err, model.ErrRequestReused):
		return api.TaskAnswer{}, api.Refuse(api.CodeParameter, "x-request-id: %s was used before with another body", api.Quote(r.ID))
	case errors.Is(err, model.ErrQueueFull):
		return api.TaskAnswer{}, api.Busy(retryFull, "the queue of this host is full")
	case errors.Is(err, job.ErrDraining):
		return api.TaskAnswer{}, api.Busy(retryDraining, "this host is shutting down")
	case err != nil:
		return api.TaskAnswer{}, err
	}
	return api.TaskAnswer{TaskID: task.ID, Jobs: task.Jobs}, nil
}

// check refuses a batch with instances that the caller can't act on
// together; for a backup their storage must be here.
func (s *service) check(ctx context.Context, c model.Caller, ids []string, here bool) error {
	known, err := s.batch(c, ids)
	if err != nil {
		return err
	}
	err = s.journal.Busy(ids...)
	var busy *model.BusyError
	switch {
	case errors.As(err, &busy):
		return refuseBusy(busy)
	case err != nil || !here:
		return err
	}
	absent, hung := s.absent(ctx, known)
	switch {
	case len(hung) > 0:
		return api.RefuseInstances(api.CodeNotRunning, hung, "its storage does not answer")
	case len(absent) > 0:
		return api.RefuseInstances(api.CodeNotRunning, absent, "its storage is not on this host; restore it first")
	}
	return nil
}

// taskJobs finds the jobs of a task that the caller may see.
func (s *service) taskJobs(c model.Caller, id string) ([]*model.Job, error) {
	_, jobs, err := s.journal.Task(id)
	if errors.Is(err, model.ErrNotFound) {
		return nil, api.UnknownTask(id)
	}
	if err != nil {
		return nil, err
	}
	for _, j := range jobs { // all of one tenant
		if !c.Sees(j.Tenant) {
			return nil, api.UnknownTask(id)
		}
	}
	return jobs, nil
}

// Task implements api.Service.
func (s *service) Task(_ context.Context, c model.Caller, id string) (api.TaskStatus, error) {
	if janitor.IsRun(id) {
		return s.pruneTask(c, id)
	}
	jobs, err := s.taskJobs(c, id)
	if err != nil {
		return api.TaskStatus{}, err
	}
	var t api.TaskStatus
	for _, j := range jobs {
		one := api.JobStatus{JobID: j.ID, ErrorCode: api.CodeOK, ErrorMsg: "OK"}
		one.Status, _ = status(j)
		one.ExecuteMsg = s.message(c, j)
		if j.State == model.Failed {
			one.ErrorCode, one.ErrorMsg = api.CodeInternal, "the backup failed, the instance was left as it was"
			if j.IsRestore() {
				one.ErrorMsg = "the restore failed"
			}
		}
		t.Jobs = append(t.Jobs, one)
	}
	return t, nil
}

// Watch implements api.Service. Updates come at once; the journal is looked at now and then, as a
// watcher that was slow has missed some.
func (s *service) Watch(ctx context.Context, c model.Caller, id string, send func(api.Event) error) error {
	updates, stop := s.jobs.Watch(id)
	defer stop()
	seen := map[string]model.State{}
	ended := map[string]bool{}
	warned := map[string]string{}
	show := func(j *model.Job) error {
		if seen[j.ID] == j.State || ended[j.ID] {
			return nil
		}
		seen[j.ID] = j.State
		e := s.event(c, j, api.EventStage)
		if err := send(e); err != nil || !j.State.Final() {
			return err
		}
		ended[j.ID] = true
		return send(s.event(c, j, api.EventEnded))
	}
	tick := time.NewTicker(watchPoll)
	defer tick.Stop()
	for {
		jobs, err := s.taskJobs(c, id)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if err := show(j); err != nil {
				return err
			}
			if err := s.warn(c, j, warned, send); err != nil {
				return err
			}
		}
		if len(ended) == len(jobs) {
			return nil
		}
		for poll := false; !poll; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
				poll = true
			case u := <-updates:
				if u.Progress != nil {
					e := s.event(c, &u.Job, api.EventProgress)
					e.Progress = u.Progress
					err = send(e)
				} else {
					err = show(&u.Job)
					poll = u.Job.State.Final()
				}
				if err != nil {
					return err
				}
			}
		}
	}
}

// Info implements api.Service.
func (s *service) Info(_ context.Context, c model.Caller) (api.Info, error) {
	info := api.Info{
		Version: s.self.Version, HostID: s.self.Host, Started: s.started.UTC(), Draining: s.jobs.Draining(), Store: s.store,
	}
	for _, in := range s.instances.All() {
		if c.Sees(in.Config().Tenant) {
			info.Instances++
		}
	}
	if !c.SeesAll() {
		// Work for others is not this caller's to know.
		active, err := s.journal.Active()
		if err != nil {
			return api.Info{}, err
		}
		for _, j := range active {
			switch {
			case !c.Sees(j.Tenant):
			case j.State == model.Accepted:
				info.JobsQueued++
			default:
				info.JobsActive++
			}
		}
		info.Store = ""
		return info, nil
	}
	info.JobsActive, info.JobsQueued = s.jobs.Counts()
	left, err := s.jobs.Leftovers()
	if err != nil {
		return api.Info{}, err
	}
	for _, l := range left {
		info.Leftovers = append(info.Leftovers, api.Leftover{Path: l.Path(), InstanceID: l.Instance, JobID: l.Job, Since: l.Since, Error: l.Error})
	}
	if info.Troubles, err = s.lookout.Troubles(); err != nil {
		return api.Info{}, err
	}
	if t := s.throttle.state(); t.InForce() {
		info.Throttle = &t
	}
	if info.ReportsRefused, err = s.journal.RefusedReports(); err != nil {
		return api.Info{}, err
	}
	info.ReportsPending, err = s.journal.PendingReports()
	return info, err
}

// Instances implements api.Service.
func (s *service) Instances(ctx context.Context, c model.Caller) ([]api.InstanceInfo, error) {
	var list []api.InstanceInfo
	var mu sync.Mutex
	group, ctx := contain.WithContext(ctx)
	group.SetLimit(lookers)
	all, err := s.instances.Strays(c.Sees) // listed too: they can be let go of
	if err != nil {
		return nil, err
	}
	for _, in := range s.instances.All() {
		if c.Sees(in.Config().Tenant) {
			all = append(all, in)
		}
	}
	for _, in := range all {
		group.Go(func() error {
			info, err := s.instanceInfo(ctx, c, in)
			mu.Lock()
			defer mu.Unlock()
			list = append(list, info)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b api.InstanceInfo) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

func (s *service) instanceInfo(ctx context.Context, c model.Caller, in *engine.Instance) (api.InstanceInfo, error) {
	info := api.InstanceInfo{
		ID: in.Config().ID, Tenant: in.Config().Tenant, Runtime: in.Runtime().Kind(), Release: in.Config().Release, Volumes: s.volumesOf(c, in.Config()),
	}
	active, latest, err := s.journal.ByInstance(in.Config().ID)
	if err != nil {
		return api.InstanceInfo{}, err
	}
	info.State = string(in.State(ctx, active))
	if active != nil {
		info.JobID, info.Stage = active.ID, string(active.State)
	}
	if latest != nil && latest.Result != nil {
		info.LastBackup, info.LastSuccess = latest.Result.BackupID, latest.Entered[model.Stored]
	}
	return info, nil
}

// Jobs implements api.Service.
func (s *service) Jobs(_ context.Context, c model.Caller, f api.JobFilter) ([]api.JobInfo, uint64, error) {
	jobs, next, err := s.journal.List(journal.Query{
		All: c.SeesAll(), Tenant: c.Tenant, Task: f.TaskID, Instance: f.InstanceID, Active: f.Active, Before: f.Before, Limit: f.Limit,
	})
	if err != nil {
		return nil, 0, err
	}
	list := make([]api.JobInfo, 0, len(jobs))
	for _, j := range jobs {
		list = append(list, s.jobInfo(c, j))
	}
	return list, next, nil
}

func (s *service) jobInfo(c model.Caller, j *model.Job) api.JobInfo {
	info := api.JobInfo{
		JobID: j.ID, TaskID: j.Task, InstanceID: j.Instance, Tenant: j.Tenant, Kind: observe.Kind(j), Stage: string(j.State),
		Message: s.message(c, j), Created: j.AcceptedAt, Updated: j.Entered[j.State], Acknowledged: !j.AcknowledgedAt.IsZero(),
	}
	info.Status, info.ErrorCode = status(j)
	if j.State.Final() {
		info.Ended = j.Entered[j.State]
	}
	if j.State == model.Failed {
		info.ErrorMsg = s.words.cause(c, j)
	} else {
		info.Trouble = s.jobTrouble(c, j)
	}
	if j.Hold {
		info.FrozenSince = j.HeldSince
	}
	if r := j.Result; r != nil {
		info.BackupID = r.BackupID
		info.Progress = model.Progress{Files: r.Files, BytesRead: r.BytesRead, BytesNew: r.BytesNew, BytesSent: r.BytesSent}
	} else if p, ok := s.jobs.Progress(j.ID); ok {
		info.Progress = p
	}
	if r := j.Restore; r != nil {
		info.BackupID = r.Backup
		if r.Result != nil {
			info.Progress = model.Progress{Files: r.Result.Files, BytesRestored: r.Result.Bytes, BytesTotal: r.Result.Bytes}
		}
	}
	return info
}

// Release implements api.Service.
func (s *service) Release(_ context.Context, c model.Caller, id string) error {
	return s.releaseOrResume(c, id, s.jobs.Release, false)
}

// Resume implements api.Service.
func (s *service) Resume(_ context.Context, c model.Caller, id string) error {
	return s.releaseOrResume(c, id, s.jobs.Resume, true)
}

// releaseOrResume releases or resumes. An act that the last job
// of the instance did already is no error.
func (s *service) releaseOrResume(c model.Caller, id string, do func(string) error, resume bool) error {
	if _, err := s.visible(c, id); err != nil {
		return err
	}
	err := do(id)
	if !errors.Is(err, model.ErrState) {
		return err
	}
	active, _, lookErr := s.journal.ByInstance(id)
	last, endErr := s.journal.Ended(id)
	switch {
	case lookErr != nil || endErr != nil:
		return errors.Join(lookErr, endErr)
	case active == nil && doneAlready(last, resume):
		return nil
	case active != nil && active.State == model.Unknown:
		return api.RefuseInstances(api.CodeParameter, []string{id}, notUnderstood)
	case active != nil && active.IsRestore():
		return api.RefuseInstances(api.CodeInRecovery, []string{id}, "is being restored")
	case active != nil && active.Result == nil:
		return api.RefuseInstances(api.CodeInBackup, []string{id}, "is being backed up; its backup is not stored yet")
	case active != nil:
		return api.RefuseInstances(api.CodeParameter, []string{id}, "is on its way already, its job is "+string(active.State))
	}
	return api.RefuseInstances(api.CodeParameter, []string{id}, "is not held with a stored backup")
}

// Drain implements api.Service.
func (s *service) Drain(context.Context, model.Caller) error {
	s.log.Info("draining: no new commands are taken")
	s.jobs.Drain()
	return nil
}
