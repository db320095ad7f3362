package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/internal/contain"
)

// What callers are told and how often things are looked at, each with its reason.
const (
	// retryFull is when a full queue may have room: a backup takes minutes.
	retryFull = time.Minute
	// retryDraining is when an agent that restarts may be back.
	retryDraining = 30 * time.Second
	// stateTime bounds one look at one instance for a list.
	stateTime = 3 * time.Second
	// lookers bounds how many instances are looked at together for a list.
	lookers = 16
	// watchPoll is how often a watcher looks into the journal, in case it missed an update.
	watchPoll = 2 * time.Second
)

// noInstance is the refusal for instances that are not here or not the caller's. One who does not see all
// tenants gets the same words and the same code for both: a difference would tell one tenant what
// another has (tenant-walls).
func noInstance(c api.Caller, ids ...string) *api.Error {
	if c.SeesAll() {
		return api.RefuseInstances(api.CodeNoInstance, ids, "does not exist on this host")
	}
	return api.RefuseInstances(api.CodeNoPermission, ids, "does not exist on this host, or is not yours")
}

// service is the agent as agent/api sees it.
type service struct{ a *Agent }

var _ api.Service = (*service)(nil)

// Backup checks the whole batch before anything starts, in the order: is the command known, do the
// instances exist, may the caller act on them, are they of one tenant, is their storage here, are they busy.
func (s *service) Backup(_ context.Context, c api.Caller, requestID string, digest [32]byte, ids []string, deadline time.Time) (api.TaskAnswer, error) {
	r := job.Request{Kind: job.KindBackup, Deadline: deadline, ID: requestID, Digest: digest, Tenant: c.Tenant, Instances: ids}
	return s.accept(r, func() error { return s.check(c, ids, true) })
}

// accept puts the command into the journal, unless it is there or check refuses it.
func (s *service) accept(r job.Request, check func() error) (api.TaskAnswer, error) {
	m := s.a.manager
	task, err := m.Known(r)
	if err == nil && task == nil {
		if err := check(); err != nil {
			return api.TaskAnswer{}, err
		}
		task, err = m.Accept(r)
	}
	var busy *job.BusyError
	switch {
	case errors.As(err, &busy) && len(busy.Restoring) > 0:
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeInRecovery, busy.Restoring, "is being restored")
	case errors.As(err, &busy):
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeInBackup, busy.Instances, "is being backed up")
	case errors.Is(err, job.ErrRequestReused):
		return api.TaskAnswer{}, api.Refuse(api.CodeParameter, "x-request-id: %s was used before with another body", api.Quote(r.ID))
	case errors.Is(err, job.ErrQueueFull):
		return api.TaskAnswer{}, api.Busy(retryFull, "the queue of this host is full")
	case errors.Is(err, job.ErrDraining):
		return api.TaskAnswer{}, api.Busy(retryDraining, "this host is shutting down")
	case err != nil:
		return api.TaskAnswer{}, err
	}
	answer := api.TaskAnswer{TaskID: task.ID}
	for _, ref := range task.Jobs {
		answer.Jobs = append(answer.Jobs, api.JobRef{InstanceID: ref.Instance, JobID: ref.Job})
	}
	return answer, nil
}

// check refuses a batch with instances that the caller can't act on together; for a backup their storage must be here.
func (s *service) check(c api.Caller, ids []string, here bool) error {
	var unknown, absent []string
	tenants := map[string]bool{}
	for _, id := range ids {
		in := s.a.instances[id]
		if in == nil || !c.Sees(in.cfg.Tenant) {
			unknown = append(unknown, id)
			continue
		}
		tenants[in.cfg.Tenant] = true
		if err := in.restored(); here && err != nil {
			s.a.log.Warn("storage of an instance is not on this host", keyInstance, id, keyError, err.Error())
			absent = append(absent, id)
		}
	}
	switch {
	case len(unknown) > 0:
		return noInstance(c, unknown...)
	case len(tenants) > 1:
		return api.RefuseInstances(api.CodeManyTenants, ids, "do not belong to one tenant")
	case len(absent) > 0:
		return api.RefuseInstances(api.CodeNotRunning, absent, "its storage is not on this host; restore it first")
	}
	return nil
}

// visible finds the instance for a caller.
func (s *service) visible(c api.Caller, id string) (*instance, error) {
	in := s.a.instances[id]
	if in == nil || !c.Sees(in.cfg.Tenant) {
		return nil, noInstance(c, id)
	}
	return in, nil
}

// taskJobs finds the jobs of a task that the caller may see.
func (s *service) taskJobs(c api.Caller, id string) ([]*job.Job, error) {
	_, jobs, err := s.a.journal.Task(id)
	if errors.Is(err, job.ErrNotFound) {
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
func (s *service) Task(_ context.Context, c api.Caller, id string) (api.TaskStatus, error) {
	jobs, err := s.taskJobs(c, id)
	if err != nil {
		return api.TaskStatus{}, err
	}
	var t api.TaskStatus
	for _, j := range jobs {
		one := api.JobStatus{JobID: j.ID, ErrorCode: api.CodeOK, ErrorMsg: "OK"}
		one.Status, _ = status(j)
		one.ExecuteMsg = message(j)
		if j.State == job.Failed {
			one.ErrorCode, one.ErrorMsg = api.CodeInternal, "the backup failed, the instance was left as it was"
			if j.IsRestore() {
				one.ErrorMsg = "the restore failed"
			}
		}
		t.Jobs = append(t.Jobs, one)
	}
	return t, nil
}

// status is the job's state in the contract's words, and its error code.
func status(j *job.Job) (int, string) {
	switch j.State {
	case job.Done:
		return api.StatusSuccess, ""
	case job.Failed:
		return api.StatusFailed, api.CodeInternal
	default:
		return api.StatusRunning, ""
	}
}

// message says for people how the job stands.
func message(j *job.Job) string {
	switch j.State {
	case job.Done:
		if j.IsRestore() {
			return restoreMessage(j)
		}
		if j.ResumeAsked {
			return "backed up; the instance runs again, as was asked"
		}
		if j.Mode == job.ModeLive {
			return "backed up; the instance ran all the time"
		}
		return "backed up; the instance is powered down"
	case job.Failed, job.Failing, job.Held:
		return string(j.State) + ": " + j.Cause
	case job.Reported:
		return "reported, not acknowledged yet"
	case job.Acknowledged:
		if j.Policy == job.ReleaseByControlPlane && !j.ReleaseAsked {
			return "backed up; the instance is frozen until it is released or resumed"
		}
		if j.Unproven() && !j.ReleaseAsked {
			return "backed up; its runtime can't tell whether the instance ran since, so it is frozen until it is released or resumed"
		}
	}
	return string(j.State)
}

// Watch implements api.Service. Updates come at once; the journal is looked at now and then, as a
// watcher that was slow has missed some.
func (s *service) Watch(ctx context.Context, c api.Caller, id string, send func(api.Event) error) error {
	updates, stop := s.a.manager.Watch(id)
	defer stop()
	seen := map[string]job.State{}
	ended := map[string]bool{}
	show := func(j *job.Job) error {
		if seen[j.ID] == j.State || ended[j.ID] {
			return nil
		}
		seen[j.ID] = j.State
		e := event(j, api.EventStage)
		if err := send(e); err != nil || !j.State.Final() {
			return err
		}
		ended[j.ID] = true
		return send(event(j, api.EventEnded))
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
					e := event(&u.Job, api.EventProgress)
					e.Progress = progress(*u.Progress)
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

func progress(p job.Progress) *api.Progress {
	return &api.Progress{
		Files: p.Files, BytesRead: p.BytesRead, BytesNew: p.BytesNew, BytesSent: p.BytesSent,
		BytesRestored: p.BytesRestored, BytesTotal: p.BytesTotal,
	}
}

func event(j *job.Job, what string) api.Event {
	e := api.Event{
		Time: time.Now().UTC(), Type: what, TaskID: j.Task, JobID: j.ID, InstanceID: j.Instance, Stage: string(j.State), Message: message(j),
	}
	if what != api.EventProgress {
		e.Time = j.Entered[j.State]
	}
	if j.Result != nil {
		e.BackupID = j.Result.BackupID
	} else if j.Restore != nil {
		e.BackupID = j.Restore.Backup
	}
	if what == api.EventEnded {
		e.Status, e.ErrorCode = status(j)
		if j.State == job.Failed {
			e.ErrorMsg = j.Cause
		}
	}
	return e
}

// Info implements api.Service.
func (s *service) Info(_ context.Context, c api.Caller) (api.Info, error) {
	a := s.a
	info := api.Info{
		Version: a.version, HostID: a.cfg.HostID, Started: a.started.UTC(), Draining: a.manager.Draining(), Store: a.store.String(),
	}
	for _, in := range a.instances {
		if c.Sees(in.cfg.Tenant) {
			info.Instances++
		}
	}
	if !c.SeesAll() {
		// What is done for others is not this caller's to know.
		active, err := a.journal.Active()
		if err != nil {
			return api.Info{}, err
		}
		for _, j := range active {
			switch {
			case !c.Sees(j.Tenant):
			case j.State == job.Accepted:
				info.JobsQueued++
			default:
				info.JobsActive++
			}
		}
		info.Store = ""
		return info, nil
	}
	info.JobsActive, info.JobsQueued = a.manager.Counts()
	left, err := a.manager.Leftovers()
	if err != nil {
		return api.Info{}, err
	}
	for _, l := range left {
		info.Leftovers = append(info.Leftovers, api.Leftover{Path: l.Path(), InstanceID: l.Instance, JobID: l.Job, Since: l.Since, Error: l.Error})
	}
	info.StoreTrouble, info.ReportTrouble = a.watcher.troubles()
	if t := a.throttle.state(); t.InForce() {
		info.Throttle = &t
	}
	info.ReportsPending, err = a.journal.PendingReports()
	return info, err
}

// Instances implements api.Service.
func (s *service) Instances(ctx context.Context, c api.Caller) ([]api.InstanceInfo, error) {
	var list []api.InstanceInfo
	var mu sync.Mutex
	group, ctx := contain.WithContext(ctx)
	group.SetLimit(lookers)
	for _, in := range s.a.instances {
		if !c.Sees(in.cfg.Tenant) {
			continue
		}
		group.Go(func() error {
			info, err := s.instanceInfo(ctx, in)
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

func (s *service) instanceInfo(ctx context.Context, in *instance) (api.InstanceInfo, error) {
	info := api.InstanceInfo{
		ID: in.cfg.ID, Tenant: in.cfg.Tenant, Runtime: in.runtime.Kind(), Release: in.cfg.Release, Volumes: volumes(in.cfg.Volumes),
	}
	active, latest, err := s.a.journal.ByInstance(in.cfg.ID)
	if err != nil {
		return api.InstanceInfo{}, err
	}
	info.State = string(in.state(ctx, active))
	if active != nil {
		info.JobID, info.Stage = active.ID, string(active.State)
	}
	if latest != nil && latest.Result != nil {
		info.LastBackup, info.LastSuccess = latest.Result.BackupID, latest.Entered[job.Stored]
	}
	return info, nil
}

func volumes(from []config.Volume) []api.Volume {
	list := make([]api.Volume, len(from))
	for i, v := range from {
		list[i] = api.Volume{Name: v.Name, Path: v.Path, Snapshot: v.Snapshot}
	}
	return list
}

// Jobs implements api.Service.
func (s *service) Jobs(_ context.Context, c api.Caller, f api.JobFilter) ([]api.JobInfo, error) {
	jobs, err := s.a.journal.Jobs(func(j *job.Job) bool {
		return c.Sees(j.Tenant) && (f.TaskID == "" || f.TaskID == j.Task) && (f.InstanceID == "" || f.InstanceID == j.Instance) &&
			(!f.Active || !j.State.Final())
	})
	if err != nil {
		return nil, err
	}
	list := make([]api.JobInfo, 0, len(jobs))
	for _, j := range slices.Backward(jobs) {
		list = append(list, s.jobInfo(j))
	}
	return list, nil
}

func (s *service) jobInfo(j *job.Job) api.JobInfo {
	info := api.JobInfo{
		JobID: j.ID, TaskID: j.Task, InstanceID: j.Instance, Tenant: j.Tenant, Kind: kind(j), Stage: string(j.State),
		Message: message(j), Created: j.AcceptedAt, Updated: j.Entered[j.State], Acknowledged: !j.AcknowledgedAt.IsZero(),
	}
	info.Status, info.ErrorCode = status(j)
	if j.State.Final() {
		info.Ended = j.Entered[j.State]
	}
	if j.State == job.Failed {
		info.ErrorMsg = j.Cause
	}
	if j.Hold {
		info.FrozenSince = j.HeldSince
	}
	if r := j.Result; r != nil {
		info.BackupID = r.BackupID
		info.Progress = api.Progress{Files: r.Files, BytesRead: r.BytesRead, BytesNew: r.BytesNew, BytesSent: r.BytesSent}
	} else if p, ok := s.a.manager.Progress(j.ID); ok {
		info.Progress = *progress(p)
	}
	if r := j.Restore; r != nil {
		info.BackupID = r.Backup
		if r.Result != nil {
			info.Progress = api.Progress{Files: r.Result.Files, BytesRestored: r.Result.Bytes, BytesTotal: r.Result.Bytes}
		}
	}
	return info
}

// Cancel implements api.Service.
func (s *service) Cancel(_ context.Context, c api.Caller, id string) error {
	jobs, err := s.taskJobs(c, id)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := s.a.manager.Cancel(j.ID); err != nil && !errors.Is(err, job.ErrState) {
			return err
		}
	}
	return nil
}

// Release implements api.Service.
func (s *service) Release(_ context.Context, c api.Caller, id string) error {
	return s.let(c, id, s.a.manager.Release, false)
}

// Resume implements api.Service.
func (s *service) Resume(_ context.Context, c api.Caller, id string) error {
	return s.let(c, id, s.a.manager.Resume, true)
}

// let releases or resumes. What was done already, by the last job of the instance, is no error.
func (s *service) let(c api.Caller, id string, do func(string) error, resume bool) error {
	if _, err := s.visible(c, id); err != nil {
		return err
	}
	err := do(id)
	if !errors.Is(err, job.ErrState) {
		return err
	}
	active, latest, lookErr := s.a.journal.ByInstance(id)
	switch {
	case lookErr != nil:
		return lookErr
	case active == nil && latest != nil && latest.ResumeAsked == resume:
		return nil
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
func (s *service) Drain(context.Context, api.Caller) error {
	s.a.log.Info("draining: no new commands are taken")
	s.a.manager.Drain()
	return nil
}

// restoreMessage says for people how a restore ended well.
func restoreMessage(j *job.Job) string {
	ended := "restored"
	if j.Restore != nil && j.Restore.Ready {
		ended = "was ready already"
	}
	if !j.Entered[job.Starting].IsZero() {
		ended += "; the instance was started"
	}
	return ended
}
