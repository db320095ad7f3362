package api

import (
	"context"
	"time"

	"holdfast/agent/model"
)

// Service does the work of the calls. All methods may be called from many goroutines
// at the same time. An error that is an *Error is answered as it is; any other
// becomes .9999 with a reference, and its text goes to the log only. Methods check
// whose the things are (Caller.Sees); the handlers have checked the role already.
type Service interface {
	Preparer
	Throttler
	Refuser
	Forker
	Keeper
	WaysOut
	Claims
	Vaults
	// Backup accepts one command for all of instanceIDs or for none, and returns once the task
	// is in the journal. The ids have the right form and no duplicates. The same requestID of
	// the same tenant with the same digest gives the first answer again, with another digest an
	// Error with CodeParameter. Request ids of different tenants (Caller.Tenant) are different
	// commands. The deadline is when the host is needed; zero when there is no haste.
	Backup(ctx context.Context, c model.Caller, requestID string, digest [32]byte, instanceIDs []string, deadline time.Time) (TaskAnswer, error)
	// Reports calls send for each report after the report with the number after, or
	// with nil for the reports from now on, until the context ends (nil), or send
	// fails (its error). The caller gets the reports that it may see. A ReportEvent
	// of ReportGap comes first where some in between are no longer kept, and an
	// event without a type now and then, to find readers that are gone.
	Reports(ctx context.Context, c model.Caller, after *uint64, send func(ReportEvent) error) error
	// Task tells how a task stands. A task that is not there and one
	// that the caller may not see are the same UnknownTask error.
	Task(ctx context.Context, c model.Caller, taskID string) (TaskStatus, error)
	// Watch calls send for what happened to the task's jobs so far in short (at
	// least their present stage), then for each event as it comes, and returns nil
	// when all jobs have ended, the context's error, or the error of send. send is
	// called on the goroutine of Watch. Unknown tasks as in Task, before any event.
	Watch(ctx context.Context, c model.Caller, taskID string, send func(Event) error) error
	// Info is about the agent as a whole.
	Info(ctx context.Context, c model.Caller) (Info, error)
	// Instances lists the instances that the caller may see, sorted by id.
	Instances(ctx context.Context, c model.Caller) ([]InstanceInfo, error)
	// Jobs lists the jobs that the caller may see and the filter lets through, newest first,
	// at most f.Limit of them. next is f.Before for the jobs that follow; 0 when none do.
	Jobs(ctx context.Context, c model.Caller, f JobFilter) (list []JobInfo, next uint64, err error)
	// Cancel undoes those jobs of a task that are not past their commit point;
	// each instance is left running. A job that was cancelled before is no error; where no
	// job of the task can be cancelled, the refusal says of each why.
	Cancel(ctx context.Context, c model.Caller, taskID string) error
	// Release powers down an instance that is held with a backup
	// reported and acknowledged. Done twice is no error.
	Release(ctx context.Context, c model.Caller, instanceID string) error
	// Resume lets an instance that is held run again; its backup stays. Done twice is no error.
	Resume(ctx context.Context, c model.Caller, instanceID string) error
	// Drain stops taking commands; what runs is finished. It returns
	// at once; Info tells when it is done.
	Drain(ctx context.Context, c model.Caller) error
}

// Preparer is the part of a Service that brings instances back to this host.
type Preparer interface {
	// Prepare accepts one command to restore all of instanceIDs or none, by the
	// rules of Service.Backup. The statuses are of the moment: the same request,
	// sent again, gives the same task with the statuses of its own moment.
	Prepare(ctx context.Context, c model.Caller, requestID string, digest [32]byte, instanceIDs []string) (PrepareAnswer, error)
	// PrepareProgress tells how far an instance is from being ready.
	PrepareProgress(ctx context.Context, c model.Caller, instanceID string) (PrepareProgress, error)
	// Status tells for each of instanceIDs, in their order, one of the
	// Instance constants. An instance that the caller may not see refuses all.
	Status(ctx context.Context, c model.Caller, instanceIDs []string) ([]InstanceStatus, error)
}

// Throttler is the part of a Service that bounds the traffic of the host's store.
type Throttler interface {
	// Throttle tells which limits hold now, and why.
	Throttle(ctx context.Context, c model.Caller) (Throttle, error)
	// SetThrottle replaces the operator's limits by s, for calls under way too, until the agent
	// ends. The configuration gives the limits that s leaves out. It returns the limits in force.
	SetThrottle(ctx context.Context, c model.Caller, s ThrottleSetting) (Throttle, error)
}

// Refuser is the part of a Service about reports that the control plane does not take.
type Refuser interface {
	// RefusedReports lists the reports that were refused for good and, of the reports that
	// wait for their acknowledgement, the oldest of each instance; each kind oldest first.
	RefusedReports(ctx context.Context, c model.Caller) ([]RefusedReport, error)
	// GiveUpReport takes a waiting report out of its line, as if the control plane had refused it.
	GiveUpReport(ctx context.Context, c model.Caller, number uint64) error
	// RetryReport sends one again, with the id that it had. An
	// instance that is held for it goes on when it is acknowledged.
	RetryReport(ctx context.Context, c model.Caller, number uint64) error
	// DropReport forgets one: the control plane never gets it. It is
	// refused while an instance is held for the report.
	DropReport(ctx context.Context, c model.Caller, number uint64) error
}

// Forker is the part of a Service about backups that do not descend from each other.
type Forker interface {
	// AcceptFork decides that a backup is the newest one of its instance:
	// the one of that id, or with "" the last that this host made. It is
	// refused where that one makes no fork, and where the fork is decided already for
	// another backup, unless it is to be decided again. Done twice is no error.
	AcceptFork(ctx context.Context, c model.Caller, instanceID, backup string, again bool) error
}

// Keeper is the part of a Service about content that restores have replaced, and that is kept.
// job names the restore that has replaced it; "" is the only one of the instance.
type Keeper interface {
	// Kept lists the kept content, the oldest first.
	Kept(ctx context.Context, c model.Caller) ([]KeptContent, error)
	// PutBack accepts a task that exchanges the volumes of the instance with its kept content.
	// It is refused while the instance has a job; that the instance runs shows in the job.
	PutBack(ctx context.Context, c model.Caller, instanceID, job string) (TaskAnswer, error)
	// RemoveKept removes kept content. Trees that can't be removed yet are removed later.
	RemoveKept(ctx context.Context, c model.Caller, instanceID, job string) error
}

// WaysOut is the part of a Service by which an operator
// leads an instance out of a state that nothing else ends.
type WaysOut interface {
	// PrepareFrom is Prepare for an operator, and restores the backup of that id instead
	// of the newest; "" is the newest. With an id the command is for one instance.
	PrepareFrom(ctx context.Context, c model.Caller, requestID string, digest [32]byte, instanceIDs []string, backupID string) (PrepareAnswer, error)
	// Loss tells which backups of the instance this host knows and the store lacks.
	Loss(ctx context.Context, c model.Caller, instanceID string) (Loss, error)
	// AcceptLoss accepts a loss that Loss told of, so that the newest backup in the store
	// counts from now on. It is refused where the loss is another than the confirmed one.
	AcceptLoss(ctx context.Context, c model.Caller, instanceID string, confirmed LossConfirmed) (Loss, error)
	// Abandon gives up the unfinished job of that id, and leaves the instance as it is. It is
	// refused where the job has another way out, or is not the job of the instance.
	Abandon(ctx context.Context, c model.Caller, instanceID, jobID string) (Abandoned, error)
}

// Claims is the part of a Service about the claims by which hosts say that they have instances.
type Claims interface {
	// Claims lists the claims on an instance, or on all instances
	// of this host with "", in the order of the instances.
	Claims(ctx context.Context, c model.Caller, instanceID string) ([]ClaimInfo, error)
	// TakeOverClaim gives this host the claim on an instance, and returns the claims of other hosts
	// that it took. It is refused where no other host has a claim, and, without force, where
	// the other host gave a sign of life lately. reason is for people.
	TakeOverClaim(ctx context.Context, c model.Caller, instanceID, reason string, force bool) ([]ClaimInfo, error)
}
