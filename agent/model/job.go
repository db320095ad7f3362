package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// State is where a job is. The state that names an act ("freezing") is journalled
// before the act, the state that names its outcome ("frozen") after it.
type State string

// The states. See DESIGN.md of package agent for the picture.
const (
	Accepted State = "accepted" // in the queue; the host is untouched
	// the instance runs; a round's snapshots are named, some may stand, the engine may send packs
	Precopying   State = "precopying"
	Freezing     State = "freezing"     // about to freeze (or stop), or doing it
	Frozen       State = "frozen"       // the instance does not run
	Snapshotting State = "snapshotting" // snapshots are named, some may stand
	Snapshotted  State = "snapshotted"  // all snapshots stand
	Uploading    State = "uploading"    // the engine may have sent packs
	// packs confirmed, manifest durable, read back, and it matches
	Stored       State = "stored"
	Reported     State = "reported"     // the completed report is in the outbox
	Acknowledged State = "acknowledged" // the control plane's own answer took the report
	// the control plane refused it for good, or the backup is gone
	// (Job.Gone); the instance stays frozen
	Held      State = "held"
	Releasing State = "releasing" // about to power down, or powering down
	Released  State = "released"  // seen to be down; snapshots may stand
	Resuming  State = "resuming"  // asked to let it run again after the backup was stored
	// backed up while it ran, and acknowledged; snapshots may stand
	Ending     State = "ending"
	Suspending State = "suspending" // being put off: thaw, drop the snapshots, wait again
	Failing    State = "failing"    // being undone: thaw, drop the snapshots
	Done       State = "done"       // final: backed up, and released or resumed; or restored
	Failed     State = "failed"     // final: the instance is as it was found
)

// The states of a restore, beside accepted, suspending, failing and the final ones.
const (
	// the folders beside the volumes' places are named, some may stand, in part
	Restoring State = "restoring"
	Placing   State = "placing"  // all trees are complete beside their places; some may be in them
	Restored  State = "restored" // all are in place; the replaced volumes may stand
	Starting  State = "starting" // about to start the instance, or doing it
)

// Unknown is the state of an unfinished job whose record this program does
// not understand. No job enters the state by itself; see journal.UnknownRecord.
const Unknown State = "unknown"

// Kind is the kind of a job's work.
type Kind string

// The kinds of jobs.
const (
	KindBackup  Kind = "backup"
	KindRestore Kind = "restore"
)

// nextStates is the whole machine. A write that is not in it is a fault of the program.
var nextStates = map[State][]State{
	Accepted:     {Precopying, Freezing, Snapshotting, Restoring, Placing, Starting, Done, Failing},
	Precopying:   {Precopying, Freezing, Suspending, Failing},
	Freezing:     {Frozen, Suspending, Failing},
	Frozen:       {Snapshotting, Suspending, Failing},
	Snapshotting: {Snapshotted, Suspending, Failing},
	Snapshotted:  {Uploading, Suspending, Failing},
	Uploading:    {Stored, Suspending, Failing},
	Suspending:   {Accepted, Failing},
	Stored:       {Reported, Resuming, Failing},
	Reported:     {Acknowledged, Held, Resuming, Failing},
	Held:         {Reported, Acknowledged, Resuming, Failing},
	Acknowledged: {Releasing, Held, Resuming, Ending, Failing},
	Releasing:    {Released, Acknowledged, Failing},
	Released:     {Done},
	Resuming:     {Done},
	Ending:       {Done},
	Restoring:    {Restoring, Placing, Suspending, Failing},
	Placing:      {Restored, Failing},
	Restored:     {Starting, Done, Failing},
	Starting:     {Done, Failing},
	Failing:      {Failed},
}

// LeadsTo tells whether a job in this state may enter the other state next.
func (s State) LeadsTo(next State) bool { return slices.Contains(nextStates[s], next) }

// Known tells whether this program knows the state.
func (s State) Known() bool { return len(nextStates[s]) > 0 || s.Final() || s == Unknown }

// Undoing tells whether the state lies on a way that has no other
// way out: the instance has to run again.
func (s State) Undoing() bool {
	return s == Failing || s == Suspending || s == Resuming || s == Ending || s == Released
}

// Final tells whether a job in this state is over.
func (s State) Final() bool { return s == Done || s == Failed }

// Unstored tells whether the state lies between the queue and a
// stored backup: the time of work that can still fail.
func (s State) Unstored() bool { return s == Precopying || s.Holding() }

// Holding tells whether the instance does not run for the sake of
// work that can still fail (unless it is backed up live).
func (s State) Holding() bool {
	return slices.Contains([]State{Freezing, Frozen, Snapshotting, Snapshotted, Uploading}, s)
}

// StandsStill tells whether the job has, or may have, stopped an
// instance that ran, for work that can still fail.
func (j *Job) StandsStill() bool {
	return j.State.Holding() && !j.HeldSince.IsZero() && j.Found != IsStopped
}

// Policy says who decides that a backed-up instance is powered down.
type Policy string

// The policies.
const (
	ReleaseByAgent        Policy = "agent"         // as soon as the report is acknowledged
	ReleaseByControlPlane Policy = "control-plane" // when Release is called
)

// Mode says how an instance is held for its last snapshot, and what comes before.
type Mode string

// The modes. The state in which the instance is held for the last
// snapshot is the one it is powered down in.
const (
	// ModePrecopy stores most of it while it runs, where the storage can
	// make snapshots of a running instance, and freezes it for the rest.
	ModePrecopy Mode = "precopy"
	// ModeFrozen freezes it before the first byte is read.
	ModeFrozen Mode = "frozen"
	// ModeStop is ModePrecopy, but the instance is stopped in its own way and not frozen.
	ModeStop Mode = "stop"
	// ModeLive never holds it. Such a backup is as a power cut would
	// leave the storage, and no release follows.
	ModeLive Mode = "live"
)

// Precopies tells whether rounds before the hold are wanted.
func (m Mode) Precopies() bool { return m == ModePrecopy || m == ModeStop }

// Round is one round of pre-copy that was finished.
type Round struct {
	Read    uint64  `json:"bytes_read"` // of content that had changed since the round before
	Sent    uint64  `json:"bytes_sent"`
	Seconds float64 `json:"seconds"`
}

// Task is one command. It never changes after it was accepted.
type Task struct {
	ID        string    `json:"id"`
	RequestID string    `json:"request_id"`
	Digest    [32]byte  `json:"digest"` // of the command's body
	Tenant    string    `json:"tenant"`
	Jobs      []JobRef  `json:"jobs"` // in the order of the command
	Accepted  time.Time `json:"accepted"`
}

// JobRef names the job of one instance of a task, in the journal and in answers to commands.
type JobRef struct {
	Instance string `json:"instance_id"`
	Job      string `json:"job_id"`
}

// Ref names a snapshot on this host, also a planned one. It is opaque to jobs. Its fields are the
// fields of snapshot.Ref, to which a conversion leads and back.
type Ref struct {
	Provider string `json:"provider"`
	Path     string `json:"path"`
	Volume   string `json:"volume"` // absolute path of the volume
}

// Snapshot is a planned or standing snapshot of one volume.
type Snapshot struct {
	Name  string    `json:"name"` // of the volume
	Ref   Ref       `json:"ref"`
	Root  string    `json:"root,omitempty"` // where to read it; empty until it stands
	Taken time.Time `json:"taken,omitzero"` // when its making began; zero until it stands
	// Live says that the snapshot can be made and read while the instance runs.
	Live bool `json:"live,omitempty"`
	// Warm says that the volume itself is read, and that a round of pre-copy
	// can read it while the instance runs: what changes meanwhile shows in
	// the times of its files. No snapshot is made for such a round.
	Warm bool `json:"warm,omitempty"`
	// Mounted is the mount of the file system that the snapshot is of, and
	// Clock how far the wall clock was ahead of the time since the boot,
	// ns, when it was made. The engine gets both; they are opaque here.
	Mounted string `json:"mounted,omitempty"`
	Clock   int64  `json:"clock,omitempty"`
	// Held says, in words, for how long the instance is held for this snapshot. It is for reports.
	Held string `json:"held,omitempty"`
	// Comparable says that later snapshots can be compared with it, so that it is of use as a base.
	Comparable bool `json:"comparable,omitempty"`
	// Ino is what later snapshots have to know of one of an image, as snapshot.Snapshot has it.
	Ino uint64 `json:"ino,omitempty"`
	// At is where the volume lies that is not in its place yet (see
	// job.Snapshotter.PlanRestored); empty: in its place.
	At string `json:"at,omitempty"`
}

// Result describes a stored backup, by the engine.
type Result struct {
	BackupID string `json:"backup_id"`
	// orders the backups of the instance
	Seq uint64 `json:"sequence"`
	// the backup from which the volumes' content came; "" where none is known
	Parent string `json:"parent,omitempty"`
	// Fork are the other newest backups of the instance, which this one does not descend from.
	Fork           []Fork `json:"fork,omitempty"`
	VaultID        string `json:"vault_id"`
	Object         string `json:"object"` // the manifest's key in the store
	ManifestSHA256 string `json:"manifest_sha256"`
	Files          uint64 `json:"files"`
	Dirs           uint64 `json:"dirs"`
	// content of the backup, holes not counted
	Bytes uint64 `json:"bytes"`
	// bytes of the content that was read; the rest was known to be unchanged
	BytesRead uint64 `json:"bytes_read"`
	// not in the vault before, before compression
	BytesNew          uint64 `json:"bytes_new"`
	BytesSent         uint64 `json:"bytes_sent"` // to the store
	BytesDeduplicated uint64 `json:"bytes_deduplicated"`
	Packs             int    `json:"packs"`
	// Compressed is the new content by its level of compression, bytes before
	// compression, and CompressedWhy tells in words how the levels were chosen.
	Compressed    map[string]uint64 `json:"compressed,omitempty"`
	CompressedWhy string            `json:"compressed_why,omitempty"`
	Sampled       int               `json:"sampled"` // chunks read back and compared
	// of those, chunks that the vault had before
	SampledReused int `json:"sampled_reused"`
	// the extent of the verification, in words
	Depth    string `json:"depth"`
	Warnings int    `json:"warnings"`
	// places without their content, where the configuration accepts it
	LossesAccepted int       `json:"losses_accepted,omitempty"`
	Created        time.Time `json:"created"`
	// when the manifest was read back and matched
	Verified     time.Time          `json:"verified"`
	StageSeconds map[string]float64 `json:"stage_seconds,omitempty"`
	// Catalogues has, by volume, the id of the engine's
	// catalogue of the snapshot that it read; see Base.
	Catalogues map[string]string `json:"catalogues,omitempty"`
	// Roots identifies, by volume, the content that was backed up.
	Roots map[string]Root `json:"roots,omitempty"`
}

// Job is the journal's record of the work on one instance. Values of it are copies.
type Job struct {
	ID       string `json:"id"`
	Task     string `json:"task"`
	Seq      uint64 `json:"seq"` // order of acceptance
	Instance string `json:"instance"`
	Tenant   string `json:"tenant"`
	// "" in journals of version 1, which knew backups only; see IsRestore
	Kind   Kind   `json:"kind,omitempty"`
	Policy Policy `json:"policy"`
	Mode   Mode   `json:"mode,omitempty"`
	State  State  `json:"state"`
	// Deadline is when the host is needed, UTC; zero when there is no haste.
	Deadline time.Time `json:"deadline,omitzero"`
	// AcceptedAt is when the command was accepted, UTC.
	AcceptedAt time.Time `json:"accepted_at"`
	// Entered has the last time of entering each state, UTC, for people. EnteredUp
	// has the same by the journal's clock (Journal.Up): durations come from there.
	Entered   map[State]time.Time     `json:"entered"`
	EnteredUp map[State]time.Duration `json:"entered_up"`
	// of the acceptance, by the journal's clock
	AcceptedUp time.Duration `json:"accepted_up"`

	// Rounds are the rounds of pre-copy that were finished since the job last began.
	Rounds []Round `json:"rounds,omitempty"`

	// Found is how the instance was before the job touched it.
	Found RuntimeState `json:"found,omitempty"`
	// Kept is job.Instance.Keep of the job's instance, while the job is unfinished.
	Kept json.RawMessage `json:"kept,omitempty"`
	// Identity is the engine's own of the instance that the job is
	// about to hold, or holds. From then on the job knows the instance
	// by it, and not by its name. "" where the driver knows none.
	Identity string `json:"identity,omitempty"`
	// Held is the sight of the instance once it was held;
	// zero before. Unless it looks the same it has run since.
	Held Sight `json:"held,omitzero"`
	// Hold says that the job may have frozen the instance and has not let go of it since.
	Hold bool `json:"hold,omitempty"`
	// HeldSince is when freezing began, HeldUntil when the instance
	// ran again or was down. UTC, for people.
	HeldSince time.Time `json:"held_since,omitzero"`
	HeldUntil time.Time `json:"held_until,omitzero"`
	// HeldUp is when freezing began, by the journal's clock, and
	// HeldFor how long it was once the instance ran again or was down.
	HeldUp    time.Duration `json:"held_up,omitempty"`
	HeldFor   time.Duration `json:"held_for,omitempty"`
	BootID    string        `json:"boot_id,omitempty"` // of the host when it froze
	Snapshots []Snapshot    `json:"snapshots,omitempty"`
	Attempts  int           `json:"attempts,omitempty"` // how often it was put off
	// StoreWaits is how often of those the store had not answered,
	// and the instance was let go until it would.
	StoreWaits int `json:"store_waits,omitempty"`
	// ForStore says that it is being put off for that.
	ForStore bool `json:"for_store,omitempty"`
	// Fruitless counts how often in a row the job was put off without anything new
	// of it in the store: no pack beyond PacksBefore, which the journal names.
	Fruitless   int     `json:"fruitless,omitempty"`
	PacksBefore int     `json:"packs_before,omitempty"`
	Result      *Result `json:"result,omitempty"`
	// Fork is the decision about the fork in Result; zero before.
	Fork ForkDecision `json:"fork,omitzero"`

	// PutBack is the job whose replaced volumes, which are kept aside, a restore puts back; "": a
	// restore of a backup.
	PutBack string `json:"put_back,omitempty"`
	// Chosen is the id of the backup that an operator named for a restore; "" is the newest.
	Chosen string `json:"chosen,omitempty"`
	// Restore is the record of a restore's work; nil until it is decided, and for backups.
	Restore *Restore `json:"restore,omitempty"`

	ReportSeq      uint64    `json:"report_seq,omitempty"` // of the completed event
	AcknowledgedAt time.Time `json:"acknowledged_at,omitzero"`
	ReleaseAsked   bool      `json:"release_asked,omitempty"`
	ResumeAsked    bool      `json:"resume_asked,omitempty"`
	CancelAsked    bool      `json:"cancel_asked,omitempty"`
	AbandonAsked   bool      `json:"abandon_asked,omitempty"` // see job.Manager.Abandon
	// data of the completed event, to send again
	CompletedReport json.RawMessage `json:"completed_report,omitempty"`
	// why it failed or is held, in plain words
	Cause string `json:"cause,omitempty"`
	// the parts of the stored backup that the store lacks, while the job is held for that
	Gone string `json:"gone,omitempty"`
}

// IsRestore tells restores from backups.
func (j *Job) IsRestore() bool { return j.Kind == KindRestore }

// Undoable tells whether the job can still be cancelled: before its backup
// is stored, or before the volumes that it restores get into their places.
func (j *Job) Undoable() bool {
	return j.State == Accepted || j.State == Suspending || j.State == Restoring || j.State.Unstored()
}

// Abandonable tells whether an operator can give the job up: its record is not
// understood, or the job is on the way back and an act of that way may fail for ever. In
// all other states a cancel, a release or a resume leads to the way back or to the end.
func (j *Job) Abandonable() bool {
	return j.State == Unknown || j.State == Failing || j.State == Suspending || j.State == Resuming
}

// LeftBehind says in what state an abandoned job leaves the host.
func (j *Job) LeftBehind() string {
	was := string(j.State)
	if j.Cause != "" {
		was += ": " + j.Cause
	}
	text := "an operator gave the job up (it was " + was + "); the agent leaves the instance as it is"
	if j.Hold {
		text += ", which may be frozen or stopped"
	}
	if r := j.Restore; r != nil && !r.Placed && len(r.Places) > 0 {
		text += "; for each volume, one of two places has what was there before and the other what was restored"
		for _, p := range r.Places {
			text += fmt.Sprintf(", %s: %s and %s", p.Volume, p.Target, p.Stage)
		}
	}
	return text
}

// Complete tells whether the result says all that a release rests on.
func (r *Result) Complete() error {
	if r == nil || r.BackupID == "" || r.Object == "" || r.ManifestSHA256 == "" || r.Verified.IsZero() {
		return errors.New("the backup engine did not say that the manifest was stored and verified")
	}
	return nil
}
