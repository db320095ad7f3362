// Package job has the state machine that takes one instance from a command to its release.
//
// Package agent opens the journal (agent/journal), makes a Manager over it, and gives it the parts
// that touch the host: Runtime, Snapshotter, Backuper and Signer, all interfaces
// of this package. The journal is the only truth about a job: every step writes
// its intent, fsynced, before it acts, and takes the next step from the journal.
// Run starts one goroutine per unfinished job and waits for all of them.
//
// A crash leaves the journal whole (one transaction per step), and on
// the host at most the things that the journal names: a frozen instance,
// snapshots. The next Run looks at the host and finishes or undoes each job.
package job
