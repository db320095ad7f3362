package observe

import (
	"errors"
	"time"

	"holdfast/internal/obs"
)

// Names of the states in which a human must act. They are an interface:
// `holdfast status`, the label of the metrics and STATES.md have them.
const (
	TroubleCopied       = "host_copied"
	TroubleUndo         = "undo_fails"
	TroubleRelease      = "release_fails"
	TroubleAct          = "act_fails"
	TroubleHangs        = "job_hangs"
	TroubleUnconfigured = "instance_not_configured"
	TroubleFrozen       = "instance_frozen"
	TroubleTurns        = "hold_turns_taken"
	TroubleQueue        = "queue_full"
	TroubleReports      = "reports_fail"
	TroubleHeld         = "report_refused"
	TroubleGone         = "backup_gone"
	TroubleFork         = "fork_undecided"
	TroubleClaim        = "claimed_elsewhere"
	TroubleEvents       = "event_refused"
	TroubleStore        = "store_fails"
	TroubleJournal      = "journal_not_writable"
	TroubleJournalAside = "journal_set_aside"
	TroubleMark         = "hold_note_damaged"
	TroubleRecovery     = "recovery_blocked"
	TroubleListen       = "listen_fails"
	TroubleDrained      = "drained"
	TroubleAudit        = "audit_fails"
	TroubleAuditAside   = "audit_set_aside"
	TroubleTokens       = "tokens_broken"
	TroubleClients      = "client_certificates_broken"
	TroubleIAM          = "iam_away"
	TroubleExpires      = "certificate_expires"
	TroubleCertificate  = "certificate_broken"
	TroubleJob          = "job_failed"
	TroubleBackup       = "backup_old"
	TroubleRoom         = "room_short"
	TroubleLeftover     = "leftover_stays"
	TroubleKept         = "kept_stays"
	TroubleKeptRoom     = "kept_room_short"
	TroubleRecord       = "record_unknown"
	TroubleChanged      = "configuration_changed"
	TroubleShare        = "retention_asks"
	TroublePrune        = "prune_fails"
)

// Trouble is one state in which a human must act.
type Trouble struct {
	Name  string
	Means string // the event, its effect on instances, and the agent's reaction
	Hint  string // the human's remedy
	// After is for how long it may last before it is
	// shown: such a state comes and goes in good order.
	After time.Duration
}

// Troubles are all states in which a human must
// act, the most urgent first. STATES.md is made of it.
var Troubles = []Trouble{
	{
		Name: TroubleCopied, Means: "The state folder is not known to be this host's own: it was copied, restored, set back to an earlier state, or its hardware was replaced. The agent stands still: " +
			"it sends no report, does nothing to any instance, snapshot, volume or vault, and takes no command. Instances stay as they are, frozen ones too.",
		Hint: "find out whether another machine works with a copy of this state folder; then stop the daemon and run `holdfastd adopt --take-over` where this machine goes on " +
			"as the host, or `holdfastd adopt --new` where the other machine does and this one is another host, and start the daemon",
	},
	{
		Name: TroubleJournal, Means: "A write to the journal fails or hangs: the disk is full, read-only or broken. No job advances, and instances stay as they are, frozen ones too. " +
			"The agent tries again every minute, and is not ready meanwhile.",
		Hint: "make room on the disk of state_dir, or mount it writable again; the jobs go on by themselves within a minute",
	},
	{
		Name: TroubleUndo, Means: "An instance has to run again, or the end of its job has to be written, and the act fails: a thaw is refused, the engine does not answer. " +
			"The instance may stand still. The agent tries again every minute, for ever.",
		Hint: "let the instance run by hand (docker unpause, virsh resume); the job ends at the next try, which looks at the instance first",
	},
	{
		Name: TroubleRelease, Means: "An instance whose backup is stored and acknowledged can't be powered down. It stands still. The agent tries again every minute.",
		Hint: "look at what the runtime says; `holdfast resume INSTANCE` is refused by now, so power it down by hand, and the job ends at the next try",
	},
	{
		Name: TroubleUnconfigured, Means: "A job is not finished, and its instance is not in the configuration any more. The job goes on by what the journal keeps of the instance, which may be frozen.",
		Hint: "`holdfast resume INSTANCE` or `holdfast release INSTANCE` ends a hold; or put the instance back into the configuration and restart the daemon",
	},
	{
		Name: TroubleRecord, Means: "A record of the journal can't be understood: it is damaged, or a later program wrote it. Where it is of an unfinished job, the instance stays as it is, " +
			"perhaps frozen, and every command for the instance is refused. All other jobs go on.",
		Hint: "start the program that wrote the record, or give the job up with `holdfast abandon INSTANCE` and bring the instance into order by hand; " +
			"a record that is of no unfinished job is told of until the next start",
	},
	{
		Name: TroubleChanged, Means: "The configuration gives an instance with an unfinished job another tenant, host id, runtime or other volumes. The job goes on by what the journal keeps, " +
			"and the change counts from the next job on.",
		Hint: "end the job (`holdfast resume INSTANCE`, `holdfast release INSTANCE`, `holdfast cancel TASK`), or take the change back and restart the daemon",
	},
	{
		Name: TroubleAct, Means: "An act of a job fails, and the job waits for it: the runtime does not answer, the receipt can't be signed. The instance may stand still. " +
			"The agent tries again every minute.",
		Hint: "see the reason; `holdfast cancel TASK` undoes a job whose backup is not stored, `holdfast resume INSTANCE` lets a held instance run",
	},
	{
		Name: TroubleHangs, Means: "A job is in a state that takes seconds for long, and nothing has failed: an act does not come back, as of a volume or runtime that hangs. " +
			"The instance may stand still.",
		Hint: "look at the runtime and the volumes of the instance (a network file system whose server is away, a suspended device)", After: 15 * time.Minute,
	},
	{
		Name: TroubleHeld, Means: "The control plane refused the report of a backup. The instance stays frozen, and nothing is tried again.",
		Hint: "`holdfast release INSTANCE` sends the report again, `holdfast resume INSTANCE` lets the instance run; the backup stays",
	},
	{
		Name: TroubleGone, Means: "The store has lost a part of a backup that it had confirmed, and the instance was to be powered down for that backup. The instance stays frozen, " +
			"since its bytes may be nowhere else.",
		Hint: "`holdfast resume INSTANCE` lets the instance run, so that it can be backed up again; once the store has all of the backup again, `holdfast release INSTANCE` " +
			"powers it down; look for who or what removes objects",
	},
	{
		Name: TroubleFork, Means: "The last backup of an instance does not descend from another newest backup in the vault: two hosts ran the instance, or a host ran an old copy. " +
			"Each backup lacks what the other has. The release waits, so that the bytes stay on the host, and no host restores the instance.",
		Hint: "`holdfast list` shows the branches; `holdfast accept-fork INSTANCE` takes the backup of this host, with `--backup ID` another one; " +
			"the other branch stays in the vault; `holdfast resume INSTANCE` lets a held instance run",
	},
	{
		Name: TroubleClaim, Means: "Another host has claimed an instance whose content is on this host, and that was not released here: it was prepared there, perhaps while this host was away. " +
			"Where both hosts run the instance, the next backup of one of them is a fork. This host goes on as before, and renews no claim.",
		Hint: "see that only one of the two hosts runs the instance: back it up and release it on the other one; `holdfast claim list INSTANCE` shows the claims, and " +
			"`holdfast claim take-over INSTANCE` gives the claim to this host",
	},
	{
		Name: TroubleFrozen, Means: "An instance stands still for long. Either its job still works, or the control plane has not acknowledged the report, or has not asked for a release.",
		Hint: "`holdfast jobs --active` tells what its job waits for; `holdfast resume INSTANCE` lets it run once its backup is stored", After: 15 * time.Minute,
	},
	{
		Name: TroubleMark, Means: "A note that an instance is held can't be read. Should the journal be lost, nobody lets that instance go.",
		Hint: "look whether the instance is frozen and has no job, let it run by hand, and remove its file from the folder held in state_dir",
	},
	{
		Name: TroubleJournalAside, Means: "The journal was damaged and set aside; a new one began. What the old one knew of commands is lost, and instances that were held were let go.",
		Hint: "tell the control plane to ask again; find out what damaged the disk, and remove the file journal.db.damaged-* from state_dir",
	},
	{
		Name: TroubleRecovery, Means: "The agent has started and takes no commands: it waits for an instance or a volume of an unfinished job, or the start found a fault and only lets go of held instances.",
		Hint: "see with `holdfast jobs --active` which instances have jobs: a runtime or a volume of one of them does not answer; after a start with a fault, mend it and " +
			"restart the daemon", After: time.Minute,
	},
	{
		Name: TroubleListen, Means: "Nothing is served at an address of the configuration: the address is not on this host, another program has it, or a file of the listener is no good. " +
			"Jobs go on, and the agent tries again every two seconds.",
		Hint: "bring the address up, end the other program (`ss -ltnp`), or correct listen or metrics_listen and restart the daemon", After: 10 * time.Second,
	},
	{
		Name: TroubleTurns, Means: "Jobs wait for their turn to hold an instance (limits.held), and no turn was given for a while. No other backup comes on.",
		Hint: "`holdfast jobs --active` has the jobs that hold instances; let theirs go, or raise limits.held", After: 5 * time.Minute,
	},
	{
		Name: TroubleQueue, Means: "As many jobs wait as limits.queue allows. Further commands are refused until some have ended.",
		Hint: "`holdfast jobs --active` tells what the jobs wait for; raise limits.jobs or limits.queue if that is how much work there is",
	},
	{
		Name: TroubleStore, Means: "The object store does not do what is asked. Jobs wait until their deadline, or fail.",
		Hint: "see the reason, and mend store, network, keys or clock; the agent tries again by itself",
	},
	{
		Name: TroubleReports, Means: "The reports of an instance are not delivered, perhaps while those of others are. An instance with a stored backup stays frozen meanwhile. " +
			"The agent tries again for ever.",
		Hint: "see the reason, and mend report.url, its certificate or token, or the control plane; `holdfast resume INSTANCE` lets a held instance run",
	},
	{
		Name: TroubleEvents, Means: "The control plane refused an event for which no instance is held (released, resumed, failed, …). It does not know what happened. The event is kept.",
		Hint: "`holdfast reports list` tells which and why, `retry` sends them again, `drop` forgets them; correct what the control plane believes of the instance",
	},
	{
		Name: TroubleJob, Means: "The last job of an instance has failed. The instance is as it was found.",
		Hint: "see the reason in `holdfast jobs --instance INSTANCE`, mend it, and command the job again",
	},
	{
		Name: TroubleBackup, Means: "An instance whose data is on this host has had no backup for longer than limits.backup_age.",
		Hint: "command a backup of it, or find out why the control plane does not; limits.backup_age: 0s turns this off",
	},
	{
		Name: TroubleRoom, Means: "An instance that was released from this host could not be brought back: its last backup is larger than what is free where its volumes go.",
		Hint: "remove what the released instances have left, or enlarge the file system, before `prepare` is commanded",
	},
	{
		Name: TroubleShare, Means: "The rules of retention would forget more than retention.max_share percent of the backups of an instance, or of a vault. Nothing is forgotten, and the vault is not pruned, " +
			"until a human has looked.",
		Hint: "`holdfast retention run TENANT --dry-run --wait` counts what would be forgotten; correct retention.rules, or forget it with `holdfast retention run TENANT --accept-share`",
	},
	{
		Name: TroublePrune, Means: "The last prune of a vault failed: the store refuses deletes, the clocks of host and store differ, an object does not open, packs are missing, or a backup or reader " +
			"did not end in time. The vault grows; no backup is lost. The state ends with the next prune that succeeds, on any host.",
		Hint: "see the reason; `holdfast retention run TENANT` tries again; where this host may not delete, let another host prune (retention.run), or `holdfast vault sessions` lists the sessions for which a prune waits",
	},
	{
		Name: TroubleLeftover, Means: "Snapshots or replaced volumes that nothing needs can't be removed, and take up space. The agent tries again every hour at least.",
		Hint: "see the reason beside each path below; a file system may be read-only, or a folder belong to another user",
	},
	{
		Name: TroubleKept, Means: "Content that a restore has replaced, and that is kept, can't be removed after its time, or is not where it was kept. The agent tries again every hour at least. " +
			"Or something has the name of kept content, and neither the journal nor a note on it tells whose content it is; the agent leaves it alone.",
		Hint: "`holdfast kept list` tells where it lies and why; unmount what is mounted in it, or mount its disk again; `holdfast kept remove INSTANCE` forgets what is gone; look at what nobody knows, and rename or remove it by hand",
	},
	{
		Name: TroubleKeptRoom, Means: "A file system on which replaced content is kept has less free than prepare.min_free. Instances there may soon be unable to write, and restores are refused.",
		Hint: "`holdfast kept list` lists it: look whether anybody needs that, and remove it with `holdfast kept remove INSTANCE`, or enlarge the file system", After: time.Minute,
	},
	{
		Name: TroubleDrained, Means: "Somebody drained the agent (`holdfast drain`), and it goes on to run: every command is refused.",
		Hint: "restart the daemon; it takes commands again then", After: 10 * time.Minute,
	},
	{
		Name: TroubleTokens, Means: "The file of tokens has a fault. Nobody is let in by it.",
		Hint: "correct tokens_file; it is read again within a second",
	},
	{
		Name: TroubleClients, Means: "The authorities or revocation lists of callers can't be read, or are out of date. Nobody whom they concern is let in by certificate.",
		Hint: "put good files at tls.client_ca_file and tls.client_crl_file; they are read again within a second",
	},
	{
		Name: TroubleIAM, Means: "IAM does not answer. Callers whose token is not remembered are refused.",
		Hint: "check iam.url, its certificate and the account; jobs that were accepted go on",
	},
	{
		Name: TroubleCertificate, Means: "The files of the listener's certificate are no good. The last good certificate is served until it expires, or until the next restart, which fails.",
		Hint: "put a certificate and its key at tls.cert_file and tls.key_file; they are read again within a second",
	},
	{
		Name: TroubleExpires, Means: "The listener's certificate has expired, or expires within 21 days. The control plane refuses an expired one.",
		Hint: "put a new certificate and its key at tls.cert_file and tls.key_file; they are read again within a second",
	},
	{
		Name: TroubleAudit, Means: "The last command could not be written to the audit log. It was done all the same.",
		Hint: "make room on the disk of audit.file, and run `holdfast audit verify` on it",
	},
	{
		Name: TroubleAuditAside, Means: "The audit log was damaged and set aside; a new chain began.",
		Hint: "find out who or what changed it, keep the file FILE.damaged-* in another place, and remove it there",
	},
}

// TroubleNames are the names of Troubles.
func TroubleNames() []string {
	names := make([]string, len(Troubles))
	for i, k := range Troubles {
		names[i] = k.Name
	}
	return names
}

// Hint is the operator's remedy for an error of the
// store; "" where the agent's own next try is all.
func Hint(err error) string {
	if errors.Is(err, obs.ErrUnavailable) {
		return ""
	}
	return obs.Hint(err)
}
