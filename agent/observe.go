package agent

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/metrics"
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
	string(job.Accepted), string(job.Precopying), string(job.Freezing), string(job.Frozen), string(job.Snapshotting), string(job.Snapshotted),
	string(job.Uploading), string(job.Stored), string(job.Reported), string(job.Held), string(job.Acknowledged),
	string(job.Releasing), string(job.Released), string(job.Resuming), string(job.Ending), string(job.Suspending), string(job.Failing),
	string(job.Restoring), string(job.Placing), string(job.Restored), string(job.Starting), string(job.Unknown),
}

// working has the states in which a job does something; in the others it waits.
var working = map[job.State]bool{
	job.Precopying: true, job.Freezing: true, job.Frozen: true, job.Snapshotting: true, job.Snapshotted: true, job.Uploading: true, job.Stored: true,
	job.Releasing: true, job.Released: true, job.Resuming: true, job.Ending: true, job.Suspending: true, job.Failing: true,
	job.Restoring: true, job.Placing: true, job.Restored: true, job.Starting: true,
}

// watcher turns what happens to jobs into log lines and metrics. It calls nothing of the manager's.
type watcher struct {
	log       *slog.Logger
	metrics   *metrics.Metrics
	inhibitor *inhibitor
	claims    chan struct{} // 1 token: an instance was released, or its restore failed

	mu      sync.Mutex
	active  map[string]bool         // jobs counted as working
	frozen  map[string]bool         // jobs counted as holding their instance
	counted map[string]job.Progress // bytes of a job that are in the counters

	stays   map[string]stay    // of the unfinished jobs, by id
	failing map[string]failure // what fails now, by job
	reports reporting
	lines   map[string]failure // reports that are not delivered, by instance
	faults  map[string]failure // of parts of the agent, by the name of the trouble
	appends bool               // the store refused a delete to this host
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
	if op == "delete" && errors.Is(err, obs.ErrAccess) {
		w.mayNotDelete(err) // credentials that only append are no fault of the store
		return
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
		log: log, metrics: m, claims: make(chan struct{}, 1), active: map[string]bool{}, frozen: map[string]bool{}, counted: map[string]job.Progress{},
		stays: map[string]stay{}, failing: map[string]failure{}, lines: map[string]failure{}, faults: map[string]failure{},
	}
}

// begin counts the journal's jobs at the start.
func (w *watcher) begin(jobs []*job.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		w.count(j)
		w.adopt(j)
		w.inhibitor.note(j)
	}
}

// count brings the gauges to the job's state. The lock is held.
func (w *watcher) count(j *job.Job) {
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
func (w *watcher) Changed(j *job.Job, from job.State) {
	w.inhibitor.note(j)
	w.released(j)
	w.mu.Lock()
	w.count(j)
	w.moved(j)
	if j.State == job.Stored {
		res, done := j.Result, w.counted[j.ID]
		w.add(job.Progress{BytesRead: res.BytesRead, BytesSent: res.BytesSent}, done)
		w.metrics.BytesDeduplicated(res.BytesDeduplicated)
		w.metrics.BytesCompressed(res.Compressed)
		w.metrics.Warnings(res.Warnings)
	}
	if j.State == job.Placing {
		res := j.Restore.Result
		w.add(job.Progress{BytesRestored: res.Bytes}, w.counted[j.ID])
		w.metrics.Warnings(res.Warnings)
	}
	if j.State != job.Uploading && j.State != job.Restoring {
		delete(w.counted, j.ID)
	}
	w.mu.Unlock()

	if took := j.Took(from, j.State); took > 0 {
		w.metrics.StageTook(string(from), took)
	}
	log := w.log.With(keyInstance, j.Instance, keyJob, j.ID, keyTask, j.Task)
	switch j.State {
	case job.Accepted:
		log.Info("job accepted", "attempt", j.Attempts+1)
	case job.Reported:
		log.Info("backup stored, report waits for its acknowledgement", "backup", j.Result.BackupID, keyBytes, j.Result.BytesRead,
			"bytes_sent", j.Result.BytesSent, "warnings", j.Result.Warnings, "losses_accepted", j.Result.LossesAccepted, keyDuration, (j.EnteredUp[job.Stored] - j.AcceptedUp).Seconds())
	case job.Held:
		if j.Gone != "" {
			w.metrics.BackupGone()
			log.Error("instance is held: the store lost a part of its backup; resume lets it run, to be backed up again; release looks at the store once more",
				"backup", j.Result.BackupID, keyReason, j.Gone)
			break
		}
		log.Error("instance is held frozen: the report was refused; release sends it again, resume lets the instance run", keyReason, j.Cause)
	case job.Acknowledged:
		if j.Unproven() && j.Policy == job.ReleaseByAgent && !j.ReleaseAsked {
			log.Warn("instance is held frozen: its backup is acknowledged, but its runtime can't tell whether it ran since, so it is not powered down until " +
				"release is called; resume lets it run; a state command that prints a generation lets the agent release by itself")
		}
	case job.Released:
		log.Info("instance released", "freeze_seconds", j.FreezeSeconds(0))
	case job.Restored:
		log.Info("volumes restored and in place", "backup", j.Restore.Backup, keyBytes, j.Restore.Result.Bytes, "bytes_fetched", j.Restore.Result.BytesFetched,
			"warnings", j.Restore.Result.Warnings)
	case job.Done:
		w.metrics.JobFinished(kind(j), metrics.ResultSuccess, j.Entered[job.Done])
		if j.Restore != nil && j.Restore.Warning != "" {
			log.Warn("the restore ended well, and there is something to know of the instance", keyReason, j.Restore.Warning)
		}
		log.Info("job done", "kind", kind(j), "resumed", j.ResumeAsked, keyDuration, (j.EnteredUp[job.Done] - j.AcceptedUp).Seconds())
	case job.Failed:
		result := metrics.ResultFailed
		if j.CancelAsked {
			result = metrics.ResultCanceled
		}
		w.metrics.JobFinished(kind(j), result, j.Entered[job.Failed])
		log.Error("job failed", keyReason, j.Cause)
	case job.Suspending:
		log.Warn("job is put off, its instance runs meanwhile")
	default:
		log.Debug("job advanced", keyState, string(j.State))
	}
}

// kind is the kind of a job's work, in the words of metrics and callers.
func kind(j *job.Job) string {
	if j.IsRestore() {
		return string(job.KindRestore)
	}
	return string(job.KindBackup)
}

// add counts the bytes by which a job has grown. The lock is held. A later try
// of a job starts again from zero; bytes that it sends again are counted again.
func (w *watcher) add(now, before job.Progress) {
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
func (w *watcher) Progressed(j *job.Job, p job.Progress) {
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
