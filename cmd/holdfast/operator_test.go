package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// serveAgent serves a fakeAgent at agent.sock in the script's folder, until the script
// ends or the agent is asked to watch the task "dies", and sets HOLDFAST_SOCKET to it.
func serveAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: agent")
	}
	path := filepath.Join(ts.MkAbs("."), "agent.sock")
	listener, err := net.Listen("unix", path)
	ts.Check(err)
	var server *http.Server
	fake := &fakeAgent{die: func() { _ = server.Close() }}
	server = api.NewServer(api.NewOperatorHandler(fake, api.Options{}), nil, nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // ends with ErrServerClosed
	}()
	ts.Defer(func() {
		_ = server.Close()
		<-ended
	})
	ts.Setenv("HOLDFAST_SOCKET", path)
}

// fakeAgent gives the answers that the scripts look for.
// Methods that no verb calls belong to a nil Service.
type fakeAgent struct {
	api.Service
	die    func()
	cuts   atomic.Int32 // how often the task "cut" was watched
	quiets atomic.Int32 // and "quiet"

	accepted atomic.Bool // the loss
}

var fakeTime = time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC)

func (*fakeAgent) Info(context.Context, model.Caller) (api.Info, error) {
	return api.Info{
		Version: "1.2.3", HostID: "host-07", Started: fakeTime, Store: "obs://bucket/prefix",
		Instances: 2, JobsActive: 1, JobsQueued: 3, ReportsPending: 4,
		Troubles: []api.Trouble{
			{Name: "undo_fails", InstanceID: "cp-1", JobID: "j-1", Since: fakeTime, Seconds: 7200, Error: "thaw: refused", Hint: "unpause it", More: 3},
			{Name: "store_fails", Since: fakeTime, Seconds: 60, Error: "access denied:\nrefused", Hint: "check\x1b[1m it"},
		},
		ReportsRefused: 2,
		Leftovers:      []api.Leftover{{Path: "/srv/.holdfast-snapshots/hf.a.b.c", InstanceID: "cp-1", JobID: "j-0", Since: fakeTime, Error: "read-only file system"}},
	}, nil
}

func (*fakeAgent) Instances(context.Context, model.Caller) ([]api.InstanceInfo, error) {
	return []api.InstanceInfo{
		{ID: "cp-1", Tenant: "t1", Runtime: "docker", State: "frozen", Release: "agent", Stage: "uploading", Volumes: []api.Volume{
			{Name: "data", Path: "/srv/1", Snapshot: "auto", Provider: "freeze", Means: "it is read in place"}, {Name: "new", Path: "/srv/2", Snapshot: "auto"},
		}},
		{ID: "cp-2", Tenant: "t\x1b[31m\u009b0m", Runtime: "none", State: "unknown", Release: "agent", LastBackup: "b-1", LastSuccess: fakeTime},
	}, nil
}

func (*fakeAgent) Jobs(_ context.Context, _ model.Caller, f api.JobFilter) ([]api.JobInfo, uint64, error) {
	jobs := []api.JobInfo{{
		JobID: "j-1", TaskID: "t-1", InstanceID: "cp-1", Kind: "backup", Stage: "uploading", Status: api.StatusRunning,
		Created: fakeTime, Progress: model.Progress{BytesRead: 3 << 20, BytesSent: 1 << 20},
		Trouble: &api.Trouble{Name: "act_fails", Since: fakeTime, Error: "the engine is away"},
	}}
	if !f.Active {
		jobs = append(jobs, api.JobInfo{
			JobID: "j-0", TaskID: "t-0", InstanceID: "cp-2", Kind: "backup", Stage: "failed", Status: api.StatusFailed,
			ErrorMsg: "store unavailable", Created: fakeTime,
		}, api.JobInfo{
			JobID: "j-2", TaskID: "t-2", InstanceID: "cp-3", Kind: "restore", Stage: "done", Status: api.StatusSuccess,
			BackupID: "b-3", Created: fakeTime, Progress: model.Progress{BytesRestored: 7 << 20, BytesTotal: 7 << 20},
		})
	}
	return jobs, 0, nil
}

func (*fakeAgent) RefusedReports(context.Context, model.Caller) ([]api.RefusedReport, error) {
	return []api.RefusedReport{{
		Number: 7, ID: "j-1-7", Type: "holdfast.backup.completed", Time: fakeTime, InstanceID: "cp-1", TaskID: "t-1", JobID: "j-1",
		Refused: fakeTime, Reason: "the control plane answered 410 Gone: \"a\x1b[31m\nb\"",
	}, {
		Number: 9, ID: "j-0-9", Type: "holdfast.backup.failed", Time: fakeTime, InstanceID: "cp-2", TaskID: "t-0", JobID: "j-0", Refused: fakeTime, Reason: "no",
	}, {
		Number: 11, ID: "j-3-11", Type: "holdfast.backup.started", Time: fakeTime, InstanceID: "cp-3", TaskID: "t-3", JobID: "j-3", Reason: "413",
	}}, nil
}

func (*fakeAgent) Kept(context.Context, model.Caller) ([]api.KeptContent, error) {
	return []api.KeptContent{{
		InstanceID: "cp-1", JobID: "j-1", Since: fakeTime, Seconds: 3600, Left: 7200, Files: 12, Bytes: 3 << 20, Newest: fakeTime, KnownBackup: "b-1", ReplacedBy: "b-2",
		Volumes: []api.KeptVolume{{Name: "data", Path: "/srv/.holdfast-kept-j-1-data", From: "/srv/data"}},
	}, {
		InstanceID: "cp-2", JobID: "j-0", Since: fakeTime, Files: 1, Bytes: 7, AtLeast: true, Removing: true, Error: "it is \x1b[1m mounted",
		Volumes: []api.KeptVolume{{Name: "data", Path: "/srv/.holdfast-kept-j-0-data", From: "/srv/other"}},
	}}, nil
}

func (*fakeAgent) PutBack(_ context.Context, _ model.Caller, id, job string) (api.TaskAnswer, error) {
	if id != "cp-1" || job != "" && job != "j-1" {
		return api.TaskAnswer{}, api.Refuse(api.CodeParameter, "nothing is kept of instance %q", id)
	}
	return api.TaskAnswer{TaskID: "t-9", Jobs: []model.JobRef{{Instance: id, Job: "j-9"}}}, nil
}

func (*fakeAgent) RemoveKept(_ context.Context, _ model.Caller, id, _ string) error {
	if id != "cp-1" {
		return api.Refuse(api.CodeParameter, "nothing is kept of instance %q", id)
	}
	return nil
}

func (*fakeAgent) GiveUpReport(context.Context, model.Caller, uint64) error { return nil }

func (*fakeAgent) RetryReport(context.Context, model.Caller, uint64) error { return nil }

func (*fakeAgent) DropReport(_ context.Context, _ model.Caller, number uint64) error {
	if number == 7 {
		return api.Refuse(api.CodeParameter, "number: an instance is held for report 7")
	}
	return nil
}

func (*fakeAgent) Backup(_ context.Context, _ model.Caller, id string, _ [32]byte, ids []string, _ time.Time) (api.TaskAnswer, error) {
	if ids[0] == "cp-3" {
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeInRecovery, ids[:1], "is being restored")
	}
	return api.TaskAnswer{TaskID: "t-" + id, Jobs: []model.JobRef{{Instance: ids[0], Job: "j-9"}}}, nil
}

func (f *fakeAgent) PrepareFrom(ctx context.Context, c model.Caller, id string, digest [32]byte, ids []string, backup string) (api.PrepareAnswer, error) {
	a, err := f.Backup(ctx, c, id+backup, digest, ids, time.Time{})
	return api.PrepareAnswer{TaskAnswer: a}, err
}

func (f *fakeAgent) Loss(_ context.Context, _ model.Caller, id string) (api.Loss, error) {
	l := api.Loss{InstanceID: id}
	if id == "cp-2" {
		return l, nil
	}
	l.Lost = []api.KnownBackup{{BackupID: "b-2", Sequence: 2, Created: fakeTime}}
	if id != "cp-3" {
		l.Newest = &api.KnownBackup{BackupID: "b-1", Sequence: 1, Created: fakeTime}
	}
	if f.accepted.Load() {
		l.Accepted, l.AcceptedBy, l.AcceptedAt = true, "uid 0", fakeTime
	}
	return l, nil
}

func (f *fakeAgent) AcceptLoss(ctx context.Context, c model.Caller, id string, confirmed api.LossConfirmed) (api.Loss, error) {
	if len(confirmed.Lost) != 1 || confirmed.Lost[0] != "b-2" || confirmed.BackupID != "b-1" {
		return api.Loss{}, api.Refuse(api.CodeParameter, "lost: the store lacks other backups")
	}
	f.accepted.Store(true)
	return f.Loss(ctx, c, id)
}

func (*fakeAgent) Abandon(_ context.Context, _ model.Caller, id, job string) (api.Abandoned, error) {
	if id != "cp-1" || job != "j-1" {
		return api.Abandoned{}, api.Refuse(api.CodeParameter, "job_id: another one")
	}
	return api.Abandoned{JobID: job, Ended: true, Message: "the agent leaves the instance as it is\nindeed"}, nil
}

func (*fakeAgent) Claims(_ context.Context, _ model.Caller, id string) ([]api.ClaimInfo, error) {
	if id == "cp-9" {
		return nil, nil
	}
	claims := []api.ClaimInfo{
		{InstanceID: "cp-1", Host: "host-08", JobID: "j-8", BackupID: "b-1", Since: fakeTime, Renewed: fakeTime, SilentSeconds: 7200},
		{InstanceID: "cp-2", Host: "host-07", ThisHost: true, JobID: "j-2", Since: fakeTime, Renewed: fakeTime, Took: 1, Reason: "it burnt\ndown"},
	}
	switch id {
	case "cp-1":
		return claims[:1], nil
	case "cp-2":
		return claims[1:], nil
	}
	return claims, nil
}

func (f *fakeAgent) TakeOverClaim(ctx context.Context, c model.Caller, id, _ string, force bool) ([]api.ClaimInfo, error) {
	if !force {
		return nil, api.RefuseInstances(api.CodeInRecovery, []string{id}, "host \"host-08\" gave a sign of life within 1h0m0s; release the instance there, or force the takeover")
	}
	return f.Claims(ctx, c, id)
}

// Prune takes every command; a prune of the tenant t-2 fails.
func (*fakeAgent) Prune(_ context.Context, _ model.Caller, _ string, _ [32]byte, tenant string, p api.PruneCommand) (api.PruneAnswer, error) {
	switch {
	case tenant == "t-2":
		return api.PruneAnswer{TaskID: "prune-2"}, nil
	case p.DryRun:
		return api.PruneAnswer{TaskID: "prune-3"}, nil
	}
	return api.PruneAnswer{TaskID: "prune-1"}, nil
}

func (*fakeAgent) Vaults(_ context.Context, _ model.Caller, tenant string) ([]api.VaultInfo, error) {
	vaults := []api.VaultInfo{
		{Tenant: "t-1", Run: "elected", LastPrune: fakeTime, LastHost: "host-08", Runs: []api.PruneRun{
			{
				TaskID: "prune-1", Tenant: "t-1", State: "done", Status: api.StatusSuccess, Backups: 40, Forget: 7, Forgotten: 7, Needed: 1, Odd: 1, OddBackups: []string{"cp-1/b-1: from the\nfuture"},
				DeletedBackups: 5, GarbagePacks: 3, GarbageBytes: 48 << 20, DeletedPacks: 3, DeletedBytes: 48 << 20,
			},
			{TaskID: "prune-3", Tenant: "t-1", State: "done", DryRun: true, Status: api.StatusSuccess, Backups: 40, Forget: 30, DeletedBackups: 1, Share: "it is too much"},
		}},
		{Tenant: "t-2", Run: "elected", Trouble: "the clocks differ", Runs: []api.PruneRun{{TaskID: "prune-2", State: "failed", Status: api.StatusFailed, Problem: "clock", Reason: "the clocks differ"}}},
		{Tenant: "t-3", Run: "elected", Runs: []api.PruneRun{{TaskID: "prune-4", State: "at_work", Status: api.StatusRunning, Step: "waits for backups", Waits: []string{"backup of cp-9 on host host-08"}}}},
		{Tenant: "t-4", Run: "elected"},
	}
	for _, v := range vaults {
		if v.Tenant == tenant {
			return []api.VaultInfo{v}, nil
		}
	}
	return vaults, nil
}

func (*fakeAgent) AcceptFork(_ context.Context, _ model.Caller, id, _ string, again bool) error {
	if !again {
		return api.RefuseInstances(api.CodeParameter, []string{id}, "the fork is decided already")
	}
	return nil
}

func (*fakeAgent) Drain(context.Context, model.Caller) error { return nil }

func (*fakeAgent) Cancel(_ context.Context, _ model.Caller, task string) error {
	if task != "t-1" {
		return api.UnknownTask(task)
	}
	return nil
}

func (*fakeAgent) Release(context.Context, model.Caller, string) error { return nil }

func (*fakeAgent) Resume(_ context.Context, _ model.Caller, id string) error {
	return api.Refuse(api.CodeParameter, "instance_id: instance %q is not held with a stored backup", id)
}

func (f *fakeAgent) Watch(ctx context.Context, _ model.Caller, task string, send func(api.Event) error) error {
	event := func(e api.Event) error {
		e.Time, e.TaskID = fakeTime, task
		return send(e)
	}
	stage := func(stage string) func() error {
		return func() error {
			return event(api.Event{Type: api.EventStage, JobID: "j-cp-1", InstanceID: "cp-1", Stage: stage})
		}
	}
	ended := func(instance string, status int, why string) error {
		return event(api.Event{Type: api.EventEnded, JobID: "j-" + instance, InstanceID: instance, Status: status, ErrorMsg: why})
	}
	good := func() error { return ended("cp-1", api.StatusSuccess, "") }
	bad := func() error { return ended("cp-2", api.StatusFailed, "two\nlines") }
	crash := func() error { panic(http.ErrAbortHandler) }
	var events []func() error
	switch task {
	case "good":
		events = []func() error{
			stage("uploading"),
			func() error {
				return event(api.Event{Type: api.EventProgress, JobID: "j-cp-1", InstanceID: "cp-1", Progress: &model.Progress{BytesRead: 5}})
			},
			good,
		}
	case "half":
		events = []func() error{good, bad}
	case "bad":
		events = []func() error{bad}
	case "cut": // twice; then the agent tells how things stand, as after a restart
		switch f.cuts.Add(1) {
		case 1:
			events = []func() error{stage("frozen"), crash}
		case 2:
			events = []func() error{stage("frozen"), stage("uploading"), good, crash}
		default:
			events = []func() error{stage("done"), good, bad}
		}
	case "quiet": // for longer than anybody has patience with an agent that is away
		if f.quiets.Add(1) == 1 {
			events = []func() error{stage("reported"), func() error { time.Sleep(500 * time.Millisecond); return crash() }}
		} else {
			events = []func() error{stage("done"), good}
		}
	case "dies":
		events = []func() error{stage("frozen"), func() error { f.die(); return crash() }}
	case "hangs":
		events = []func() error{
			stage("frozen"),
			func() error { <-ctx.Done(); return ctx.Err() },
		}
	default:
		return api.UnknownTask(task)
	}
	for _, e := range events {
		if err := e(); err != nil {
			return err
		}
	}
	return nil
}
