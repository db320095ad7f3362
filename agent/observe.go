package agent

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// Keys of log lines.
const (
	keyInstance = "instance"
	keyJob      = "job"
	keyTask     = "task"
	keyState    = "state"
	keyError    = "error"
	keyReason   = "reason"
	keyDuration = "duration_seconds"
	keyBytes    = "bytes"
)

// stages are the states whose time is measured: all but those in which a job is over.
var stages = []string{
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

// watcher turns what happens to jobs into log lines and metrics. It calls nothing of the manager's.
type watcher struct {
	log       *slog.Logger
	metrics   *metrics.Metrics
	inhibitor *inhibitor
	claims    chan struct{} // 1 token: an instance was released, or its restore failed

	mu      sync.Mutex
	active  map[string]bool           // jobs counted as working
	frozen  map[string]bool           // jobs counted as holding their instance
	counted map[string]model.Progress // bytes of a job that are in the counters

	stays   map[string]stay    // of the unfinished jobs, by id
	failing map[string]failure // what fails now, by job
	reports reporting
	lines   map[string]failure // reports that are not delivered, by instance
	faults  map[string]failure // of parts of the agent, by the name of the trouble
	brake   string             // why rounds of pre-copy are slowed down; "" when they are not
}

// hint is the operator's remedy for an error of the
// store; "" where the agent's own next try is all.
func hint(err error) string {
	if errors.Is(err, obs.ErrUnavailable) {
		return ""
	}
	return obs.Hint(err)
}

// stored is told of each request to the store. A cancelled request tells
// nothing about the store. A store that is full, or that is read-only for these
// keys, answers reads all the same: the failure of writes is not over then.
func (w *watcher) stored(op string, err error) {
	name := troubleStore + "/writes"
	if op == "read" || op == "stat" || op == "list" {
		name = troubleStore + "/reads"
	}
	switch {
	case err == nil, errors.Is(err, obs.ErrNotFound), errors.Is(err, obs.ErrExists):
		w.fault(name, nil)
	case errors.Is(err, obs.ErrUnavailable), errors.Is(err, obs.ErrNoBucket), errors.Is(err, obs.ErrAccess), errors.Is(err, obs.ErrNoSpace),
		errors.Is(err, obs.ErrWrongRegion), errors.Is(err, obs.ErrFileSystem):
		w.fault(name, err)
	}
}

func newWatcher(log *slog.Logger, m *metrics.Metrics) *watcher {
	return &watcher{
		log: log, metrics: m, claims: make(chan struct{}, 1), active: map[string]bool{}, frozen: map[string]bool{}, counted: map[string]model.Progress{},
		stays: map[string]stay{}, failing: map[string]failure{}, lines: map[string]failure{}, faults: map[string]failure{},
	}
}

// begin counts the journal's jobs at the start.
func (w *watcher) begin(jobs []*model.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		w.count(j)
		w.adopt(j)
		w.inhibitor.note(j)
	}
}

// count brings the gauges to the job's state. The lock is held.
func (w *watcher) count(j *model.Job) {
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

// braked is told when work that can wait gets slower or faster, and why.
func (w *watcher) braked(pace float64, why string) {
	w.metrics.SetPace(pace)
	w.mu.Lock()
	before := w.brake
	w.brake = why
	w.mu.Unlock()
	switch {
	case why != "" && before == "":
		w.log.Info("the host is pressed, rounds of pre-copy go slower", keyReason, why)
	case why == "" && before != "":
		w.log.Info("the host is not pressed any more")
	}
}

// Changed implements job.Observer.
func (w *watcher) Changed(j *model.Job, from model.State) {
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
	log := w.log.With(keyInstance, j.Instance, keyJob, j.ID, keyTask, j.Task)
	switch j.State {
	case model.Accepted:
		log.Info("job accepted", "attempt", j.Attempts+1)
	case model.Reported:
		log.Info("backup stored, report waits for its acknowledgement", "backup", j.Result.BackupID, keyBytes, j.Result.BytesRead,
			"bytes_sent", j.Result.BytesSent, "warnings", j.Result.Warnings, "losses_accepted", j.Result.LossesAccepted, keyDuration, (j.EnteredUp[model.Stored] - j.AcceptedUp).Seconds())
	case model.Held:
		if j.Gone != "" {
			w.metrics.BackupGone()
			log.Error("instance is held: the store lost a part of its backup; resume lets it run, to be backed up again; release looks at the store once more",
				"backup", j.Result.BackupID, keyReason, j.Gone)
			break
		}
		log.Error("instance is held frozen: the report was refused; release sends it again, resume lets the instance run", keyReason, j.Cause)
	case model.Acknowledged:
		if j.Unproven() && j.Policy == model.ReleaseByAgent && !j.ReleaseAsked {
			log.Warn("instance is held frozen: its backup is acknowledged, but its runtime can't tell whether it ran since, so it is not powered down until " +
				"release is called; resume lets it run; a state command that prints a generation lets the agent release by itself")
		}
	case model.Released:
		log.Info("instance released", "freeze_seconds", j.FreezeSeconds(0))
	case model.Restored:
		log.Info("volumes restored and in place", "backup", j.Restore.Backup, keyBytes, j.Restore.Result.Bytes, "bytes_fetched", j.Restore.Result.BytesFetched,
			"warnings", j.Restore.Result.Warnings)
	case model.Done:
		w.metrics.JobFinished(kind(j), metrics.ResultSuccess, j.Entered[model.Done])
		if j.Restore != nil && j.Restore.Warning != "" {
			log.Warn("the restore ended well, and there is something to know of the instance", keyReason, j.Restore.Warning)
		}
		log.Info("job done", "kind", kind(j), "resumed", j.ResumeAsked, keyDuration, (j.EnteredUp[model.Done] - j.AcceptedUp).Seconds())
	case model.Failed:
		result := metrics.ResultFailed
		if j.CancelAsked {
			result = metrics.ResultCanceled
		}
		w.metrics.JobFinished(kind(j), result, j.Entered[model.Failed])
		log.Error("job failed", keyReason, j.Cause)
	case model.Suspending:
		log.Warn("job is put off, its instance runs meanwhile")
	default:
		log.Debug("job advanced", keyState, string(j.State))
	}
}

// kind is the kind of a job's work, in the words of metrics and callers.
func kind(j *model.Job) string {
	if j.IsRestore() {
		return string(model.KindRestore)
	}
	return string(model.KindBackup)
}

// add counts the bytes by which a job has grown. The lock is held. A later try
// of a job starts again from zero; bytes that it sends again are counted again.
func (w *watcher) add(now, before model.Progress) {
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
func (w *watcher) Progressed(j *model.Job, p model.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(p, w.counted[j.ID])
	w.counted[j.ID] = p
}

// Trouble implements job.Observer.
func (w *watcher) Trouble(instance, id, doing string, err error) {
	w.failed(id, doing, err)
	if contain.Of(err) != nil {
		w.panicked(metrics.PanicJob, doing, err, keyInstance, instance, keyJob, id)
		return
	}
	w.log.Warn("an act failed and will be tried again", keyInstance, instance, keyJob, id, "doing", doing, keyError, err.Error())
}

// Lacked implements job.Observer.
func (w *watcher) Lacked(instance, id, doing string, err error) {
	if contain.Of(err) != nil {
		w.panicked(metrics.PanicJob, doing, err, keyInstance, instance, keyJob, id)
		return
	}
	w.log.Warn("an act failed, and the job goes on without it", keyInstance, instance, keyJob, id, "doing", doing, keyError, err.Error())
}

// panicked counts a panic that was contained, and logs its stack.
func (w *watcher) panicked(where, doing string, err error, attrs ...any) {
	w.metrics.Panicked(where)
	attrs = append(attrs, "doing", doing, keyError, err.Error())
	if p := contain.Of(err); p != nil {
		attrs = append(attrs, "stack", string(p.Stack))
	}
	w.log.Error("the program itself failed (panic); what it was doing has failed, and all else goes on; please report this line", attrs...)
}
