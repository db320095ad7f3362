package prepare

import (
	"fmt"
	"strings"

	"holdfast/agent/model"
)

// Presence tells whether a volume is on this host, and whether it has content.
type Presence string

// The presences of a volume.
const (
	VolumeMissing Presence = "missing" // nothing lies at the volume's path
	VolumeEmpty   Presence = "empty"   // a folder lies at the path in which there are only folders
	VolumeContent Presence = "content" // anything else lies there
)

// Origin tells from which backup the content of a volume came, as far as this host can prove it.
type Origin string

// The origins of a volume's content.
const (
	// OriginNone belongs to a volume that is missing or empty and of which this host knows no
	// backup.
	OriginNone Origin = ""
	// OriginSame says that the content came from VolumeFacts.Backup and did not change since.
	// The comparison is of sizes and times.
	OriginSame Origin = "same"
	// OriginChanged says that the content came from VolumeFacts.Backup and changed since, or that
	// nobody can prove the contrary. No backup has the changes.
	OriginChanged Origin = "changed"
	// OriginHalf says that the content came from VolumeFacts.Backup, and that a large part of the
	// content is gone.
	OriginHalf Origin = "half"
	// OriginForeign says that the content is not the content which this host last knew there: the
	// slot was filled anew, another disk is mounted, or the volume is a copy of another one.
	OriginForeign Origin = "foreign"
	// OriginUnknown says that neither the journal nor the volume tells of any backup.
	OriginUnknown Origin = "unknown"
	// OriginTenant says that the content belongs to another tenant.
	OriginTenant Origin = "tenant"
	// OriginKind says that a folder lies where the instance has an image, or the reverse.
	OriginKind Origin = "kind"
)

// VolumeFacts is the state of one volume of an instance before a restore.
type VolumeFacts struct {
	Volume   string   `json:"volume"` // its name
	Presence Presence `json:"presence"`
	Kind     string   `json:"kind,omitempty"` // as in Root; of a volume that is not missing
	Origin   Origin   `json:"origin,omitempty"`
	// Backup is the backup from which the content came; zero where Origin names none.
	Backup model.Content `json:"backup,omitzero"`
	// Elsewhere says of a missing or empty volume that this host knew its content on another file
	// system than the one at its path now: its disk may not be mounted.
	Elsewhere bool `json:"elsewhere,omitempty"`
	// Why tells people on which facts the origin rests,
	// in one sentence without a full stop; may be empty.
	Why string `json:"why,omitempty"`
}

// Relation tells how the newest backup in the vault relates to the backup that this host knows.
type Relation string

// The relations.
const (
	RelationNone   Relation = ""       // this host knows no backup of the instance
	RelationSame   Relation = "same"   // the newest backup is the known one
	RelationAhead  Relation = "ahead"  // the newest backup descends from the known one
	RelationBehind Relation = "behind" // the vault lacks the known backup, and the newest is an older one
	RelationFork   Relation = "fork"   // the newest backup does not descend from the known one
)

// Facts is everything on which the decision of a restore rests.
type Facts struct {
	Found model.RuntimeState
	// Holds is as in Instance: false where the runtime driver neither sees nor acts.
	Holds bool
	// Start says that the restored instance is to be started.
	Start   bool
	Volumes []VolumeFacts
	// Known is the backup that the journal has of the volumes; zero where it has none.
	Known model.Content
	// Newest is the backup to restore; zero together with NewestErr.
	Newest    model.Content
	NewestErr error
	Relation  Relation
	// Chosen says that an operator named the backup, so that Newest is that one and need not be the
	// newest.
	Chosen bool
	// Accepted says that an operator accepted that the vault lacks Known, so that Newest counts.
	Accepted bool
	// KnownLost says that the vault of Newest lacks Known, as far as this host
	// could find out: Known was deleted, or belongs to another vault.
	KnownLost bool
}

// Action is the outcome of a decision.
type Action string

// The actions.
const (
	ActReady   Action = "ready"   // the instance stays as it is
	ActRestore Action = "restore" // all volumes are restored
	ActRefuse  Action = "refuse"  // the job fails, and nothing is touched
)

// Decision is the decision about a restore.
type Decision struct {
	Action Action
	// Err is why the restore is refused, with the remedy; nil for the other actions.
	Err error
	// Warning tells people a fact about an instance that is ready, or that is to be restored; may
	// be empty.
	Warning string
	// Certain says that all content which the restore replaces is in a backup, byte for byte.
	// Without it the replaced content may be newer than every backup, so it is kept aside.
	Certain bool
}

func ready(warning string, args ...any) Decision {
	return Decision{Action: ActReady, Warning: fmt.Sprintf(warning, args...)}
}

func refuse(format string, args ...any) Decision {
	return Decision{Action: ActRefuse, Err: fmt.Errorf(format, args...)}
}

// Decide decides a restore. It is a pure function.
//
// Invariant nothing-lost: content that may be newer than the newest backup is never destroyed. It
// is ready as it is, or kept aside, or the restore is refused.
func Decide(f Facts) Decision {
	d := decide(f)
	if d.Action == ActRestore {
		d.Warning = f.otherDisks()
	}
	return d
}

func decide(f Facts) Decision {
	for _, rule := range []func(Facts) (Decision, bool){
		foreignToAll, notWhole, notMounted, whileItRunsOnOther, partlyWhileItRuns, whileItRuns, withoutBackup, againstTheChain, inDoubt, partly, handedOver, asItIs,
	} {
		if d, ok := rule(f); ok {
			return d
		}
	}
	return Decision{Action: ActRestore, Certain: certain(f)}
}

// foreignToAll refuses where the volumes are not the instance's at all.
func foreignToAll(f Facts) (Decision, bool) {
	for _, v := range f.Volumes {
		switch v.Origin {
		case OriginTenant:
			return refuse("volume %q has content of another tenant%s; move it away, so that the volume can be restored", v.Volume, because(v)), true
		case OriginKind:
			return refuse("volume %q is not of the kind that the backup has%s; correct the configuration, or move away the content", v.Volume, because(v)), true
		}
	}
	if f.Found == model.IsFrozen {
		return refuse("the instance is frozen, and not by this agent"), true
	}
	return Decision{}, false
}

// notWhole refuses where one volume is missing and another one has content: the content may be
// newer than the backup, and alone it is not the instance.
func notWhole(f Facts) (Decision, bool) {
	missing, content := f.names(VolumeMissing), f.names(VolumeContent)
	switch {
	case len(missing) > 0 && f.Found == model.IsRunning && len(content) == 0:
		return refuse("the instance runs, but not all of its volumes are there (missing: %s); stop it, so that they can be restored", list(missing)), true
	case len(missing) > 0 && f.Found == model.IsRunning:
		return refuse("the instance runs, and volume %s is missing, but %s has content that may be in no backup; "+
			"see that all disks are mounted", list(missing), list(content)), true
	case len(missing) > 0 && len(content) > 0:
		return refuse("volume %s is missing, but %s has content that may be in no backup; see that all disks are mounted; "+
			"if the content is not needed, move it away, so that all volumes can be restored", list(missing), list(content)), true
	}
	return Decision{}, false
}

// whileItRuns decides about an instance that runs with all of its volumes. It is never restored.
func whileItRuns(f Facts) (Decision, bool) {
	if f.Found != model.IsRunning {
		if f.Found == model.IsMissing && f.Start {
			return refuse("the runtime does not know the instance, so it can't be started after a restore; make it first"), true
		}
		return Decision{}, false
	}
	for _, v := range f.Volumes {
		if v.Origin == OriginForeign || v.Origin == OriginHalf {
			return refuse("the instance runs, but on content that is not the instance's%s (volume %q); stop it, so that its volumes can be restored", because(v), v.Volume), true
		}
	}
	switch {
	case f.NewestErr == nil && (f.Relation == RelationAhead || f.Relation == RelationFork):
		return ready("the instance runs here on backup %s, but the vault has a newer one, %s", f.Known.Backup, f.Newest.Backup), true
	case f.NewestErr == nil && f.Relation == RelationBehind:
		return ready("the instance runs here on backup %s, which the vault does not have; the newest one there is %s", f.Known.Backup, f.Newest.Backup), true
	}
	return ready(""), true
}

// withoutBackup refuses where there is no backup to restore.
func withoutBackup(f Facts) (Decision, bool) {
	if f.NewestErr != nil {
		return Decision{Action: ActRefuse, Err: fmt.Errorf("look for the newest backup: %w", f.NewestErr)}, true
	}
	return Decision{}, false
}

// againstTheChain refuses where the backup to restore
// does not continue the backup that this host knows.
func againstTheChain(f Facts) (Decision, bool) {
	if f.Chosen || f.Accepted {
		return Decision{}, false
	}
	switch f.Relation {
	case RelationBehind:
		return refuse("the newest backup in the vault is %s, but this host knows of a newer one, %s: it was deleted, or the store shows an older state; "+
			"if the deletion was meant, accept it (holdfast accept-loss), or name the backup to restore (holdfast request prepare --backup)",
			f.Newest.Backup, f.Known.Backup), true
	case RelationFork:
		return refuse("the newest backup in the vault is %s, and it does not continue backup %s, which this host knows: name the one to restore",
			f.Newest.Backup, f.Known.Backup), true
	}
	return Decision{}, false
}

// asItIs decides about volumes that are all there and come from the backup to restore, and about
// content that must not be replaced.
func asItIs(f Facts) (Decision, bool) {
	content := f.names(VolumeContent)
	fromNewest, changed := len(f.Volumes) > 0, []string(nil)
	for _, v := range f.Volumes {
		known := v.Backup.Backup == f.Newest.Backup && (v.Origin == OriginSame || v.Origin == OriginChanged)
		fromNewest = fromNewest && known && v.Presence != VolumeMissing
		if v.Origin == OriginChanged {
			changed = append(changed, v.Volume)
		}
	}
	switch {
	case fromNewest && len(changed) > 0:
		return ready("volume %s changed since backup %s", list(changed), f.Newest.Backup), true
	case fromNewest:
		return ready(""), true
	case len(changed) > 0 && !f.Chosen && !f.Accepted:
		return refuse("volume %s changed since backup %s, and the vault has a newer one, %s: back up the instance here, or move its volumes away",
			list(changed), f.Known.Backup, f.Newest.Backup), true
	case !f.Holds && len(content) > 0:
		return refuse("nothing tells whether a program uses volume %s (runtime: none): move the content away, so that the volume can be restored", list(content)), true
	case f.Found == model.IsUnknown && f.Holds && len(content) > 0:
		return refuse("volume %s has content, and the runtime can't tell whether the instance runs; empty the volume, or configure how the state is told", list(content)), true
	}
	return Decision{}, false
}

// certain tells whether everything that a restore replaces is in a backup.
func certain(f Facts) bool {
	for _, v := range f.Volumes {
		lost := f.KnownLost && v.Backup.Backup == f.Known.Backup
		if !f.replaceable(v) || v.Presence == VolumeContent && lost {
			return false
		}
	}
	return true
}

// names are the volumes with that presence.
func (f Facts) names(p Presence) (names []string) {
	for _, v := range f.Volumes {
		if v.Presence == p {
			names = append(names, v.Volume)
		}
	}
	return names
}

func list(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(quoted, ", ")
}

func because(v VolumeFacts) string {
	if v.Why == "" {
		return ""
	}
	return " (" + v.Why + ")"
}

// Relate compares two backups of an instance by their sequence numbers alone. Where the chain of
// the backups can be read, the chain tells more.
func Relate(known, newest model.Content) Relation {
	switch {
	case known.Backup == "" || newest.Backup == "":
		return RelationNone
	case known.Backup == newest.Backup:
		return RelationSame
	case newest.Seq < known.Seq:
		return RelationBehind
	case newest.Seq == known.Seq:
		return RelationFork
	}
	return RelationAhead
}
