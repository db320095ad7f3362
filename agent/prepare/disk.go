package prepare

import (
	"errors"
	"fmt"

	"holdfast/agent/model"
)

// These are the rules about the content of the disk: whether a
// volume is the known volume, and whether it is the newest backup's.

// Settle combines the facts of the volumes, the journal and the vault.
func (f *Facts) Settle(tenant string) {
	if f.Known.Tenant != "" && f.Known.Tenant != tenant {
		f.Known = model.Content{} // of another vault, whose sequence numbers say nothing here
	}
	for _, v := range f.Volumes {
		// The journal was set back to an earlier state, or lost, and the volume knows more.
		if v.derived() && v.Backup.Seq > f.Known.Seq {
			doubt := f.Known.Doubt
			f.Known = v.Backup
			f.Known.Doubt = doubt
		}
	}
	for i := range f.Volumes {
		v := &f.Volumes[i]
		b, ok := f.Newest.Volumes[v.Volume]
		switch {
		case !ok || b.Kind == "" || v.Presence == VolumeMissing || v.Origin == OriginTenant:
		case v.Kind != "" && v.Kind != b.Kind:
			v.Origin, v.Why = OriginKind, fmt.Sprintf("backup %s has %s there, and %s lies at the path", f.Newest.Backup, article(b.Kind), article(v.Kind))
		case v.Presence == VolumeEmpty && b.Entries == 0:
			v.Origin, v.Backup, v.Why = OriginSame, f.Newest, "" // nothing can be missing
		}
	}
}

func article(kind string) string {
	if kind == model.KindImage {
		return "an image"
	}
	return "a " + kind
}

// derived tells whether the content came from Backup.
func (v VolumeFacts) derived() bool {
	return v.Backup.Backup != "" && (v.Origin == OriginSame || v.Origin == OriginChanged || v.Origin == OriginHalf)
}

// from tells whether the volume holds a backup, or content that came from the backup on this host.
func (v VolumeFacts) from(backup string) bool {
	return v.Presence != VolumeMissing && v.Backup.Backup == backup && (v.Origin == OriginSame || v.Origin == OriginChanged)
}

// newestHas tells whether the newest backup has content of a volume, or may have.
func (f Facts) newestHas(volume string) bool {
	b, ok := f.Newest.Volumes[volume]
	return f.NewestErr == nil && f.Newest.Backup != "" && (!ok || b.Kind == "" || b.Entries > 0)
}

// whileItRunsOnOther refuses where an instance runs on volumes of which nothing says that they came
// from a backup, although there is one: a slot that was filled from a template looks so.
func whileItRunsOnOther(f Facts) (Decision, bool) {
	if f.Found != model.IsRunning {
		return Decision{}, false
	}
	for _, v := range f.Volumes {
		unknown := v.Presence == VolumeEmpty && v.Origin == OriginNone || v.Origin == OriginUnknown
		switch {
		case unknown && f.NewestErr != nil && !errors.Is(f.NewestErr, model.ErrNoBackup):
			return Decision{Action: ActRefuse, Err: fmt.Errorf("the instance runs, and nothing tells whether the content of volume %q came from a backup, for the vault can't be asked: %w",
				v.Volume, f.NewestErr)}, true
		case !f.newestHas(v.Volume):
		case v.Presence == VolumeEmpty && v.Origin == OriginNone:
			return refuse("the instance runs, but volume %q is empty, unlike in backup %s; see that its disk is mounted, or stop the instance, so that its volumes can be restored",
				v.Volume, f.Newest.Backup), true
		case v.Presence == VolumeContent && v.Origin == OriginUnknown:
			return refuse("the instance runs, and nothing tells whether the content of volume %q came from backup %s; back the instance up, if its content is to be the newest, "+
				"or stop the instance, so that its volumes can be restored", v.Volume, f.Newest.Backup), true
		}
	}
	return Decision{}, false
}

// partly refuses where some volumes have changes that no backup has, and other volumes are not as
// the same backup has them: together they are no state of the instance.
func partly(f Facts) (Decision, bool) {
	if f.Chosen || f.Newest.Backup == "" || f.Found != model.IsRunning && f.released() {
		return Decision{}, false
	}
	for _, v := range f.Volumes {
		if v.Origin != OriginChanged || v.Presence != VolumeContent || !v.from(f.Newest.Backup) {
			continue
		}
		for _, other := range f.Volumes {
			if !other.from(f.Newest.Backup) {
				return refuse("volume %q changed since backup %s, and no backup has the changes, but volume %q is not what that backup has%s: "+
					"bring the right volume back, back up the instance as it is, or move its volumes away", v.Volume, f.Newest.Backup, other.Volume, because(other)), true
			}
		}
	}
	return Decision{}, false
}

// partlyWhileItRuns is partly for an instance that runs: stopping it would mend nothing.
func partlyWhileItRuns(f Facts) (Decision, bool) {
	if f.Found != model.IsRunning {
		return Decision{}, false
	}
	return partly(f)
}

// handedOver lets volumes be restored that changed after the instance was released on the backup
// from which they came: the instance ran elsewhere since. What changed is kept aside.
func handedOver(f Facts) (Decision, bool) {
	if !f.released() || !f.Holds || f.Found == model.IsUnknown {
		return Decision{}, false
	}
	if len(f.Volumes) == 0 || f.all(func(v VolumeFacts) bool { return v.from(f.Newest.Backup) }) {
		return Decision{}, false
	}
	return Decision{Action: ActRestore, Certain: certain(f)}, true
}

// released tells whether all content is known to be of a backup on which the instance was released.
func (f Facts) released() bool {
	return f.Known.Released && f.all(func(v VolumeFacts) bool { return v.Presence != VolumeContent || v.from(f.Known.Backup) })
}

func (f Facts) all(is func(VolumeFacts) bool) bool {
	for _, v := range f.Volumes {
		if !is(v) {
			return false
		}
	}
	return true
}

// replaceable tells whether the content of a volume is in a backup, byte for byte. Equal
// sizes and times are not enough by themselves, since a power cut can keep content and
// lose its times; they are enough for an instance that was powered down on the backup.
func (f Facts) replaceable(v VolumeFacts) bool {
	return v.Presence != VolumeContent || v.Origin == OriginSame && f.Known.Released && v.Backup.Backup == f.Known.Backup
}

// inDoubt refuses where nobody knows the content of the volumes (Content.Doubt),
// unless each volume proves by itself from which backup its content came. With a
// backup that an operator chose the content is replaced, and kept aside.
func inDoubt(f Facts) (Decision, bool) {
	if f.Known.Doubt == "" || f.Chosen {
		return Decision{}, false
	}
	for _, v := range f.Volumes {
		if v.Presence == VolumeContent && v.Origin != OriginSame {
			return refuse("it is not known what volume %q holds: %s; look at the content, then move it away, or name the backup to restore "+
				"(holdfast request prepare --backup), which keeps the content aside", v.Volume, f.Known.Doubt), true
		}
	}
	return Decision{}, false
}
