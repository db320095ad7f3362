// Package crashpoint names the instants at which a crash is interesting: just before and just after
// the journal, a snapshot, the runtime, the store or the control plane is touched.
//
// In a normal build Hit does nothing. A binary built with the tag "crashpoints" kills itself with
// SIGKILL at the point that HOLDFAST_CRASH_AT names ("name" or "name:n" for the n-th hit), so that
// a test can restart it and check the promises from outside. List gives every name, so that the
// matrix of crashes is made by the code and can't fall behind it.
package crashpoint

import "slices"

// Before and After are the two ends of an act: the name of a point
// is the act's name and one of them.
const (
	Before = ".before"
	After  = ".after"
)

// Acts of a job, in the order in which a successful job does them.
const (
	WriteTask = "job.write-task" // the command enters the journal
	// the names of the snapshots of a round enter the journal
	WritePrecopying   = "job.write-precopying"
	WriteFreezing     = "job.write-freezing"     // the intent to freeze enters the journal
	Freeze            = "job.freeze"             // the runtime freezes or stops the instance
	WriteFrozen       = "job.write-frozen"       // that it is frozen enters the journal
	WriteSnapshotting = "job.write-snapshotting" // the names of the snapshots enter the journal
	Snapshot          = "job.snapshot"           // one snapshot is made
	WriteSnapshotted  = "job.write-snapshotted"  // that all stand enters the journal
	WriteUploading    = "job.write-uploading"    // that the upload begins enters the journal
	// the id of a pack about to be sent enters the journal
	WritePack = "job.write-pack"
	Upload    = "job.upload" // the whole run of the backup engine
	// the id of a backup whose manifest is about to be written enters the journal
	WriteBackup = "job.write-backup"
	// that the manifest is stored and read back enters the journal
	WriteStored       = "job.write-stored"
	Mark              = "job.mark"               // the volumes get the mark of their backup
	Sign              = "job.sign"               // the receipt is signed
	WriteReported     = "job.write-reported"     // the completed report enters the outbox
	Deliver           = "report.deliver"         // one event goes to the control plane
	WriteAcknowledged = "job.write-acknowledged" // the control plane's answer enters the journal
	WriteReleasing    = "job.write-releasing"    // the intent to power down enters the journal
	PowerDown         = "job.power-down"         // the runtime powers the instance down
	WriteReleased     = "job.write-released"     // that it is down enters the journal
	RemoveSnapshot    = "job.remove-snapshot"    // one snapshot is removed
	WriteDone         = "job.write-done"         // the job ends
)

// Acts of a job that is undone, put off or resumed.
const (
	WriteFailing = "job.write-failing" // the cause of a failure enters the journal
	// the runtime lets the instance run again, or starts it
	Thaw            = "job.thaw"
	WriteFailed     = "job.write-failed"     // the failure and its report enter the journal
	WriteSuspending = "job.write-suspending" // the intent to put the job off enters the journal
	WriteAccepted   = "job.write-accepted"   // the job that was put off waits again
	WriteHeld       = "job.write-held"       // the control plane refused the report for good
	// the intent to let a held instance run enters the journal
	WriteResuming = "job.write-resuming"
	// that a backup of a running instance is over enters the journal
	WriteEnding = "job.write-ending"
)

// Acts of a restore, beside the acts that it shares with a backup.
const (
	// the names of the folders beside the volumes' places enter the journal
	WriteRestoring = "job.write-restoring"
	Restore        = "job.restore"        // the whole run of the restore engine
	WritePlacing   = "job.write-placing"  // that all trees are complete enters the journal
	Place          = "job.place"          // one volume is put into its place
	WriteRestored  = "job.write-restored" // that all are in their places enters the journal
	// removes the content that one volume has replaced, or the content that was to replace it
	Discard       = "job.discard"
	WriteStarting = "job.write-starting" // the intent to start the instance enters the journal
	Start         = "job.start"          // the runtime starts the instance
	PutBack       = "job.put-back"       // one volume is taken out of its place again
	// the content that one volume has replaced is renamed
	SetAside = "job.set-aside"
	// the intent to remove kept content enters the journal
	WriteRemoving = "job.write-removing"
	RemoveAside   = "job.remove-aside" // one tree that was kept is removed
	TakeOut       = "job.take-out"     // one old volume is taken out of its place, to be removed before the restore
	Return        = "job.return"       // one old volume goes back to its place
	RemoveOld     = "job.remove-old"   // one old volume is removed before the restore
)

var acts = []string{
	WriteTask, WritePrecopying, WriteFreezing, Freeze, WriteFrozen, WriteSnapshotting, Snapshot, WriteSnapshotted,
	WriteUploading, WritePack, WriteBackup, Upload, WriteStored, Mark, Sign, WriteReported, Deliver, WriteAcknowledged,
	WriteReleasing, PowerDown, WriteReleased, RemoveSnapshot, WriteDone,
	WriteFailing, Thaw, WriteFailed, WriteSuspending, WriteAccepted, WriteHeld, WriteResuming,
	WriteEnding,
	WriteRestoring, Restore, WritePlacing, Place, WriteRestored, Discard, WriteStarting, Start, PutBack,
	SetAside, WriteRemoving, RemoveAside, TakeOut, Return, RemoveOld,
}

// List returns the names of all points, in the order in which a job that goes well
// reaches them, then the names of the points on the ways back. The slice is the caller's.
func List() []string {
	points := make([]string, 0, 2*len(acts))
	for _, act := range acts {
		points = append(points, act+Before, act+After)
	}
	return slices.Clip(points)
}

// Hit marks that the program is at the point. It may be called from any goroutine.
func Hit(name string) { hit(name) }
