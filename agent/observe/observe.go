// Package observe reports the work of the agent and its failures to people and machines: log lines
// and metrics of each change of a job, the audit log of commands, and the states in which a human
// must act (Troubles). It also keeps the host up while instances are held for work under way.
//
// A Watcher is told of events, and a Lookout puts the Watcher's knowledge together with the journal
// and with the facts of the other parts of the agent. Neither acts on an instance, a volume or the
// store, and nothing waits for them. agent/STATES.md is made from Troubles.
package observe

import (
	"context"
	"errors"
	"time"

	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// Stages are the states whose time is measured: all but those in which a job is over.
var Stages = []string{
	string(model.Accepted), string(model.Precopying), string(model.Freezing), string(model.Frozen), string(model.Snapshotting), string(model.Snapshotted),
	string(model.Uploading), string(model.Stored), string(model.Reported), string(model.Held), string(model.Acknowledged),
	string(model.Releasing), string(model.Released), string(model.Resuming), string(model.Ending), string(model.Suspending), string(model.Failing),
	string(model.Restoring), string(model.Placing), string(model.Restored), string(model.Starting), string(model.Unknown),
}

// working has the states in which a job does something; in the others it waits.
var working = map[model.State]bool{
	model.Precopying: true, model.Freezing: true, model.Frozen: true, model.Snapshotting: true, model.Snapshotted: true, model.Uploading: true, model.Stored: true,
	model.Releasing: true, model.Released: true, model.Resuming: true, model.Ending: true, model.Suspending: true, model.Failing: true,
	model.Restoring: true, model.Placing: true, model.Restored: true, model.Starting: true,
}

// Stored is told of each request to the store. A cancelled request tells
// nothing about the store. A store that is full, or that is read-only for these
// keys, answers reads all the same: the failure of writes is not over then.
func (w *Watcher) Stored(op string, err error) {
	name := TroubleStore + "/writes"
	if op == "read" || op == "stat" || op == "list" {
		name = TroubleStore + "/reads"
	}
	if op == "delete" && errors.Is(err, obs.ErrAccess) {
		w.mayNotDelete(err) // credentials that only append are no fault of the store
		return
	}
	switch {
	case err == nil, errors.Is(err, obs.ErrNotFound), errors.Is(err, obs.ErrExists):
		w.Fault(name, nil)
	case errors.Is(err, obs.ErrUnavailable), errors.Is(err, obs.ErrNoBucket), errors.Is(err, obs.ErrAccess), errors.Is(err, obs.ErrNoSpace),
		errors.Is(err, obs.ErrWrongRegion), errors.Is(err, obs.ErrFileSystem):
		w.Fault(name, err)
	}
}

// mayNotDelete is told of each delete that the store refused to this host. It is told once in a
// life: hosts whose credentials only append are in order, and a prune says so by a state.
func (w *Watcher) mayNotDelete(err error) {
	w.mu.Lock()
	before := w.appends
	w.appends = true
	w.mu.Unlock()
	if !before {
		w.log.Warn("the store refuses a delete to this host; where its credentials are to append only, another host has to prune the vaults (retention.run)", KeyReason, err.Error())
	}
}

// KeepUp keeps the host up while instances are held for work under way, until ctx ends.
func (w *Watcher) KeepUp(ctx context.Context) { w.inhibitor.run(ctx) }

// Releases has a token when an instance left this host, or did not get here, since the last one was
// taken: the claims on it can go.
func (w *Watcher) Releases() <-chan struct{} { return w.claims }

// Begin counts the journal's jobs at the start.
func (w *Watcher) Begin(jobs []*model.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		w.count(j)
		w.adopt(j)
		w.inhibitor.note(j)
	}
}

// count brings the gauges to the job's state. The lock is held.
func (w *Watcher) count(j *model.Job) {
	if now := working[j.State]; now != w.active[j.ID] {
		if now {
			w.active[j.ID] = true
			w.metrics.JobStarted()
		} else {
			delete(w.active, j.ID)
			w.metrics.JobStopped()
		}
	}
	if now := j.Hold && !j.HeldSince.IsZero(); now != w.frozen[j.ID] {
		if now {
			w.frozen[j.ID] = true
			w.metrics.InstanceFrozen()
		} else {
			delete(w.frozen, j.ID)
			w.metrics.InstanceThawed(time.Duration(j.FreezeSeconds(0) * float64(time.Second)))
		}
	}
}

// Braked is told when work that can wait gets slower or faster, and why.
func (w *Watcher) Braked(pace float64, why string) {
	w.metrics.SetPace(pace)
	w.mu.Lock()
	before := w.brake
	w.brake = why
	w.mu.Unlock()
	switch {
	case why != "" && before == "":
		w.log.Info("the host is pressed, rounds of pre-copy go slower", KeyReason, why)
	case why == "" && before != "":
		w.log.Info("the host is not pressed any more")
	}
}

// Changed implements job.Observer.
func (w *Watcher) Changed(j *model.Job, from model.State) {
	w.inhibitor.note(j)
	w.released(j)
	w.mu.Lock()
	w.count(j)
	w.moved(j)
	if j.State == model.Stored {
		res, done := j.Result, w.counted[j.ID]
		w.add(model.Progress{BytesRead: res.BytesRead, BytesSent: res.BytesSent}, done)
		w.metrics.BytesDeduplicated(res.BytesDeduplicated)
		w.metrics.BytesCompressed(res.Compressed)
		w.metrics.Warnings(res.Warnings)
	}
	if j.State == model.Placing {
		res := j.Restore.Result
		w.add(model.Progress{BytesRestored: res.Bytes}, w.counted[j.ID])
		w.metrics.Warnings(res.Warnings)
	}
	if j.State != model.Uploading && j.State != model.Restoring {
		delete(w.counted, j.ID)
	}
	w.mu.Unlock()

	if took := j.Took(from, j.State); took > 0 {
		w.metrics.StageTook(string(from), took)
	}
	log := w.log.With(KeyInstance, j.Instance, KeyJob, j.ID, KeyTask, j.Task)
	switch j.State {
	case model.Accepted:
		log.Info("job accepted", "attempt", j.Attempts+1)
	case model.Reported:
		log.Info("backup stored, report waits for its acknowledgement", "backup", j.Result.BackupID, KeyBytes, j.Result.BytesRead,
			"bytes_sent", j.Result.BytesSent, "warnings", j.Result.Warnings, "losses_accepted", j.Result.LossesAccepted, KeyDuration, (j.EnteredUp[model.Stored] - j.AcceptedUp).Seconds())
	case model.Held:
		if j.Gone != "" {
			w.metrics.BackupGone()
			log.Error("instance is held: the store lost a part of its backup; resume lets it run, to be backed up again; release looks at the store once more",
				"backup", j.Result.BackupID, KeyReason, j.Gone)
			break
		}
		log.Error("instance is held frozen: the report was refused; release sends it again, resume lets the instance run", KeyReason, j.Cause)
	case model.Acknowledged:
		if j.Unproven() && j.Policy == model.ReleaseByAgent && !j.ReleaseAsked {
			log.Warn("instance is held frozen: its backup is acknowledged, but its runtime can't tell whether it ran since, so it is not powered down until " +
				"release is called; resume lets it run; a state command that prints a generation lets the agent release by itself")
		}
	case model.Released:
		log.Info("instance released", "freeze_seconds", j.FreezeSeconds(0))
	case model.Restored:
		log.Info("volumes restored and in place", "backup", j.Restore.Backup, KeyBytes, j.Restore.Result.Bytes, "bytes_fetched", j.Restore.Result.BytesFetched,
			"warnings", j.Restore.Result.Warnings)
	case model.Done:
		w.metrics.JobFinished(Kind(j), metrics.ResultSuccess, j.Entered[model.Done])
		if j.Restore != nil && j.Restore.Warning != "" {
			log.Warn("the restore ended well, and there is something to know of the instance", KeyReason, j.Restore.Warning)
		}
		log.Info("job done", "kind", Kind(j), "resumed", j.ResumeAsked, KeyDuration, (j.EnteredUp[model.Done] - j.AcceptedUp).Seconds())
	case model.Failed:
		result := metrics.ResultFailed
		if j.CancelAsked {
			result = metrics.ResultCanceled
		}
		w.metrics.JobFinished(Kind(j), result, j.Entered[model.Failed])
		log.Error("job failed", KeyReason, j.Cause)
	case model.Suspending:
		log.Warn("job is put off, its instance runs meanwhile")
	default:
		log.Debug("job advanced", KeyState, string(j.State))
	}
}

// Kind is the kind of a job's work, in the words of metrics and callers.
func Kind(j *model.Job) string {
	if j.IsRestore() {
		return string(model.KindRestore)
	}
	return string(model.KindBackup)
}

// add counts the bytes by which a job has grown. The lock is held. A later try
// of a job starts again from zero; bytes that it sends again are counted again.
func (w *Watcher) add(now, before model.Progress) {
	if now.BytesRead > before.BytesRead {
		w.metrics.BytesRead(now.BytesRead - before.BytesRead)
	}
	if now.BytesSent > before.BytesSent {
		w.metrics.BytesUploaded(now.BytesSent - before.BytesSent)
	}
	if now.BytesRestored > before.BytesRestored {
		w.metrics.BytesRestored(now.BytesRestored - before.BytesRestored)
	}
}

// Progressed implements job.Observer.
func (w *Watcher) Progressed(j *model.Job, p model.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(p, w.counted[j.ID])
	w.counted[j.ID] = p
}

// Trouble implements job.Observer.
func (w *Watcher) Trouble(instance, id, doing string, err error) {
	w.failed(id, doing, err)
	if contain.Of(err) != nil {
		w.Panicked(metrics.PanicJob, doing, err, KeyInstance, instance, KeyJob, id)
		return
	}
	w.log.Warn("an act failed and will be tried again", KeyInstance, instance, KeyJob, id, "doing", doing, KeyError, err.Error())
}

// Lacked implements job.Observer.
func (w *Watcher) Lacked(instance, id, doing string, err error) {
	if contain.Of(err) != nil {
		w.Panicked(metrics.PanicJob, doing, err, KeyInstance, instance, KeyJob, id)
		return
	}
	w.log.Warn("an act failed, and the job goes on without it", KeyInstance, instance, KeyJob, id, "doing", doing, KeyError, err.Error())
}

// Panicked counts a panic that was contained, and logs its stack.
func (w *Watcher) Panicked(where, doing string, err error, attrs ...any) {
	w.metrics.Panicked(where)
	attrs = append(attrs, "doing", doing, KeyError, err.Error())
	if p := contain.Of(err); p != nil {
		attrs = append(attrs, "stack", string(p.Stack))
	}
	w.log.Error("the program itself failed (panic); what it was doing has failed, and all else goes on; please report this line", attrs...)
}

// released tells the keeper of claims that an instance left this host, or did not get here.
func (w *Watcher) released(j *model.Job) {
	if j.State != model.Released && (j.State != model.Failed || !j.IsRestore()) {
		return
	}
	select {
	case w.claims <- struct{}{}:
	default:
	}
}
