package agent

import "time"

// Names of the states in which a human must act. They are an interface:
// `holdfast status`, the label of the metrics and STATES.md have them.
const (
	troubleCopied       = "host_copied"
	troubleUndo         = "undo_fails"
	troubleRelease      = "release_fails"
	troubleAct          = "act_fails"
	troubleHangs        = "job_hangs"
	troubleUnconfigured = "instance_not_configured"
	troubleFrozen       = "instance_frozen"
	troubleTurns        = "hold_turns_taken"
	troubleQueue        = "queue_full"
	troubleReports      = "reports_fail"
	troubleHeld         = "report_refused"
	troubleGone         = "backup_gone"
	troubleFork         = "fork_undecided"
	troubleClaim        = "claimed_elsewhere"
	troubleEvents       = "event_refused"
	troubleStore        = "store_fails"
	troubleJournal      = "journal_not_writable"
	troubleJournalAside = "journal_set_aside"
	troubleMark         = "hold_note_damaged"
	troubleRecovery     = "recovery_blocked"
	troubleListen       = "listen_fails"
	troubleDrained      = "drained"
	troubleAudit        = "audit_fails"
	troubleAuditAside   = "audit_set_aside"
	troubleTokens       = "tokens_broken"
	troubleClients      = "client_certificates_broken"
	troubleIAM          = "iam_away"
	troubleExpires      = "certificate_expires"
	troubleCertificate  = "certificate_broken"
	troubleJob          = "job_failed"
	troubleBackup       = "backup_old"
	troubleRoom         = "room_short"
	troubleLeftover     = "leftover_stays"
	troubleKept         = "kept_stays"
	troubleKeptRoom     = "kept_room_short"
	troubleRecord       = "record_unknown"
	troubleChanged      = "configuration_changed"
	troubleShare        = "retention_asks"
	troublePrune        = "prune_fails"
)

// troubleKind is one state in which a human must act.
type troubleKind struct {
	name  string
	means string // the event, its effect on instances, and the agent's reaction
	hint  string // the human's remedy
	// after is for how long it may last before it is
	// shown: such a state comes and goes in good order.
	after time.Duration
}

// troubleKinds are all states in which a human must
// act, the most urgent first. STATES.md is made of it.
var troubleKinds = []troubleKind{
	{
		name: troubleCopied, means: "The state folder is not known to be this host's own: it was copied, restored, set back to an earlier state, or its hardware was replaced. The agent stands still: " +
			"it sends no report, does nothing to any instance, snapshot, volume or vault, and takes no command. Instances stay as they are, frozen ones too.",
		hint: "find out whether another machine works with a copy of this state folder; then stop the daemon and run `holdfastd adopt --take-over` where this machine goes on " +
			"as the host, or `holdfastd adopt --new` where the other machine does and this one is another host, and start the daemon",
	},
	{
		name: troubleJournal, means: "A write to the journal fails or hangs: the disk is full, read-only or broken. No job advances, and instances stay as they are, frozen ones too. " +
			"The agent tries again every minute, and is not ready meanwhile.",
		hint: "make room on the disk of state_dir, or mount it writable again; the jobs go on by themselves within a minute",
	},
	{
		name: troubleUndo, means: "An instance has to run again, or the end of its job has to be written, and the act fails: a thaw is refused, the engine does not answer. " +
			"The instance may stand still. The agent tries again every minute, for ever.",
		hint: "let the instance run by hand (docker unpause, virsh resume); the job ends at the next try, which looks at the instance first",
	},
	{
		name: troubleRelease, means: "An instance whose backup is stored and acknowledged can't be powered down. It stands still. The agent tries again every minute.",
		hint: "look at what the runtime says; `holdfast resume INSTANCE` is refused by now, so power it down by hand, and the job ends at the next try",
	},
	{
		name: troubleUnconfigured, means: "A job is not finished, and its instance is not in the configuration any more. The job goes on by what the journal keeps of the instance, which may be frozen.",
		hint: "`holdfast resume INSTANCE` or `holdfast release INSTANCE` ends a hold; or put the instance back into the configuration and restart the daemon",
	},
	{
		name: troubleRecord, means: "A record of the journal can't be understood: it is damaged, or a later program wrote it. Where it is of an unfinished job, the instance stays as it is, " +
			"perhaps frozen, and every command for the instance is refused. All other jobs go on.",
		hint: "start the program that wrote the record, or give the job up with `holdfast abandon INSTANCE` and bring the instance into order by hand; " +
			"a record that is of no unfinished job is told of until the next start",
	},
	{
		name: troubleChanged, means: "The configuration gives an instance with an unfinished job another tenant, host id, runtime or other volumes. The job goes on by what the journal keeps, " +
			"and the change counts from the next job on.",
		hint: "end the job (`holdfast resume INSTANCE`, `holdfast release INSTANCE`, `holdfast cancel TASK`), or take the change back and restart the daemon",
	},
	{
		name: troubleAct, means: "An act of a job fails, and the job waits for it: the runtime does not answer, the receipt can't be signed. The instance may stand still. " +
			"The agent tries again every minute.",
		hint: "see the reason; `holdfast cancel TASK` undoes a job whose backup is not stored, `holdfast resume INSTANCE` lets a held instance run",
	},
	{
		name: troubleHangs, means: "A job is in a state that takes seconds for long, and nothing has failed: an act does not come back, as of a volume or runtime that hangs. " +
			"The instance may stand still.",
		hint: "look at the runtime and the volumes of the instance (a network file system whose server is away, a suspended device)", after: 15 * time.Minute,
	},
	{
		name: troubleHeld, means: "The control plane refused the report of a backup. The instance stays frozen, and nothing is tried again.",
		hint: "`holdfast release INSTANCE` sends the report again, `holdfast resume INSTANCE` lets the instance run; the backup stays",
	},
	{
		name: troubleGone, means: "The store has lost a part of a backup that it had confirmed, and the instance was to be powered down for that backup. The instance stays frozen, " +
			"since its bytes may be nowhere else.",
		hint: "`holdfast resume INSTANCE` lets the instance run, so that it can be backed up again; once the store has all of the backup again, `holdfast release INSTANCE` " +
			"powers it down; look for who or what removes objects",
	},
	{
		name: troubleFork, means: "The last backup of an instance does not descend from another newest backup in the vault: two hosts ran the instance, or a host ran an old copy. " +
			"Each backup lacks what the other has. The release waits, so that the bytes stay on the host, and no host restores the instance.",
		hint: "`holdfast list` shows the branches; `holdfast accept-fork INSTANCE` takes the backup of this host, with `--backup ID` another one; " +
			"the other branch stays in the vault; `holdfast resume INSTANCE` lets a held instance run",
	},
	{
		name: troubleClaim, means: "Another host has claimed an instance whose content is on this host, and that was not released here: it was prepared there, perhaps while this host was away. " +
			"Where both hosts run the instance, the next backup of one of them is a fork. This host goes on as before, and renews no claim.",
		hint: "see that only one of the two hosts runs the instance: back it up and release it on the other one; `holdfast claim list INSTANCE` shows the claims, and " +
			"`holdfast claim take-over INSTANCE` gives the claim to this host",
	},
	{
		name: troubleFrozen, means: "An instance stands still for long. Either its job still works, or the control plane has not acknowledged the report, or has not asked for a release.",
		hint: "`holdfast jobs --active` tells what its job waits for; `holdfast resume INSTANCE` lets it run once its backup is stored", after: 15 * time.Minute,
	},
	{
		name: troubleMark, means: "A note that an instance is held can't be read. Should the journal be lost, nobody lets that instance go.",
		hint: "look whether the instance is frozen and has no job, let it run by hand, and remove its file from the folder held in state_dir",
	},
	{
		name: troubleJournalAside, means: "The journal was damaged and set aside; a new one began. What the old one knew of commands is lost, and instances that were held were let go.",
		hint: "tell the control plane to ask again; find out what damaged the disk, and remove the file journal.db.damaged-* from state_dir",
	},
	{
		name: troubleRecovery, means: "The agent has started and takes no commands: it waits for an instance or a volume of an unfinished job, or the start found a fault and only lets go of held instances.",
		hint: "see with `holdfast jobs --active` which instances have jobs: a runtime or a volume of one of them does not answer; after a start with a fault, mend it and " +
			"restart the daemon", after: time.Minute,
	},
	{
		name: troubleListen, means: "Nothing is served at an address of the configuration: the address is not on this host, another program has it, or a file of the listener is no good. " +
			"Jobs go on, and the agent tries again every two seconds.",
		hint: "bring the address up, end the other program (`ss -ltnp`), or correct listen or metrics_listen and restart the daemon", after: 10 * time.Second,
	},
	{
		name: troubleTurns, means: "Jobs wait for their turn to hold an instance (limits.held), and no turn was given for a while. No other backup comes on.",
		hint: "`holdfast jobs --active` has the jobs that hold instances; let theirs go, or raise limits.held", after: 5 * time.Minute,
	},
	{
		name: troubleQueue, means: "As many jobs wait as limits.queue allows. Further commands are refused until some have ended.",
		hint: "`holdfast jobs --active` tells what the jobs wait for; raise limits.jobs or limits.queue if that is how much work there is",
	},
	{
		name: troubleStore, means: "The object store does not do what is asked. Jobs wait until their deadline, or fail.",
		hint: "see the reason, and mend store, network, keys or clock; the agent tries again by itself",
	},
	{
		name: troubleReports, means: "The reports of an instance are not delivered, perhaps while those of others are. An instance with a stored backup stays frozen meanwhile. " +
			"The agent tries again for ever.",
		hint: "see the reason, and mend report.url, its certificate or token, or the control plane; `holdfast resume INSTANCE` lets a held instance run",
	},
	{
		name: troubleEvents, means: "The control plane refused an event for which no instance is held (released, resumed, failed, …). It does not know what happened. The event is kept.",
		hint: "`holdfast reports list` tells which and why, `retry` sends them again, `drop` forgets them; correct what the control plane believes of the instance",
	},
	{
		name: troubleJob, means: "The last job of an instance has failed. The instance is as it was found.",
		hint: "see the reason in `holdfast jobs --instance INSTANCE`, mend it, and command the job again",
	},
	{
		name: troubleBackup, means: "An instance whose data is on this host has had no backup for longer than limits.backup_age.",
		hint: "command a backup of it, or find out why the control plane does not; limits.backup_age: 0s turns this off",
	},
	{
		name: troubleRoom, means: "An instance that was released from this host could not be brought back: its last backup is larger than what is free where its volumes go.",
		hint: "remove what the released instances have left, or enlarge the file system, before `prepare` is commanded",
	},
	{
		name: troubleShare, means: "The rules of retention would forget more than retention.max_share percent of the backups of an instance, or of a vault. Nothing is forgotten, and the vault is not pruned, " +
			"until a human has looked.",
		hint: "`holdfast retention run TENANT --dry-run --wait` counts what would be forgotten; correct retention.rules, or forget it with `holdfast retention run TENANT --accept-share`",
	},
	{
		name: troublePrune, means: "The last prune of a vault failed: the store refuses deletes, the clocks of host and store differ, an object does not open, packs are missing, or a backup or reader " +
			"did not end in time. The vault grows; no backup is lost. The state ends with the next prune that succeeds, on any host.",
		hint: "see the reason; `holdfast retention run TENANT` tries again; where this host may not delete, let another host prune (retention.run), or `holdfast vault sessions` shows who is waited for",
	},
	{
		name: troubleLeftover, means: "Snapshots or replaced volumes that nothing needs can't be removed, and take up space. The agent tries again every hour at least.",
		hint: "see the reason beside each path below; a file system may be read-only, or a folder belong to another user",
	},
	{
		name: troubleKept, means: "Content that a restore has replaced, and that is kept, can't be removed after its time, or is not where it was kept. The agent tries again every hour at least. " +
			"Or something has the name of kept content, and neither the journal nor a note on it tells whose content it is; the agent leaves it alone.",
		hint: "`holdfast kept list` tells where it lies and why; unmount what is mounted in it, or mount its disk again; `holdfast kept remove INSTANCE` forgets what is gone; look at what nobody knows, and rename or remove it by hand",
	},
	{
		name: troubleKeptRoom, means: "A file system on which replaced content is kept has less free than prepare.min_free. Instances there may soon be unable to write, and restores are refused.",
		hint: "`holdfast kept list` lists it: look whether anybody needs that, and remove it with `holdfast kept remove INSTANCE`, or enlarge the file system", after: time.Minute,
	},
	{
		name: troubleDrained, means: "Somebody drained the agent (`holdfast drain`), and it goes on to run: every command is refused.",
		hint: "restart the daemon; it takes commands again then", after: 10 * time.Minute,
	},
	{
		name: troubleTokens, means: "The file of tokens has a fault. Nobody is let in by it.",
		hint: "correct tokens_file; it is read again within a second",
	},
	{
		name: troubleClients, means: "The authorities or revocation lists of callers can't be read, or are out of date. Nobody whom they concern is let in by certificate.",
		hint: "put good files at tls.client_ca_file and tls.client_crl_file; they are read again within a second",
	},
	{
		name: troubleIAM, means: "IAM does not answer. Callers whose token is not remembered are refused.",
		hint: "check iam.url, its certificate and the account; jobs that were accepted go on",
	},
	{
		name: troubleCertificate, means: "The files of the listener's certificate are no good. The last good certificate is served until it expires, or until the next restart, which fails.",
		hint: "put a certificate and its key at tls.cert_file and tls.key_file; they are read again within a second",
	},
	{
		name: troubleExpires, means: "The listener's certificate has expired, or expires within 21 days. The control plane refuses an expired one.",
		hint: "put a new certificate and its key at tls.cert_file and tls.key_file; they are read again within a second",
	},
	{
		name: troubleAudit, means: "The last command could not be written to the audit log. It was done all the same.",
		hint: "make room on the disk of audit.file, and run `holdfast audit verify` on it",
	},
	{
		name: troubleAuditAside, means: "The audit log was damaged and set aside; a new chain began.",
		hint: "find out who or what changed it, keep the file FILE.damaged-* in another place, and remove it there",
	},
}

// troubleNames are the names of troubleKinds.
func troubleNames() []string {
	names := make([]string, len(troubleKinds))
	for i, k := range troubleKinds {
		names[i] = k.name
	}
	return names
}
