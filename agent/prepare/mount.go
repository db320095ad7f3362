package prepare

import "fmt"

// A volume whose disk is not mounted looks like a missing volume, or like an empty one. Its newest
// bytes are on the disk. Nobody can tell such a disk from a disk that broke and was replaced.

// notMounted refuses where a volume is empty and on another file system than before, and another
// volume has content: notWhole refuses the same of a volume that is missing.
func notMounted(f Facts) (Decision, bool) {
	content := f.names(VolumeContent)
	for _, v := range f.Volumes {
		if v.Presence == VolumeEmpty && v.Elsewhere && v.Origin != OriginSame && len(content) > 0 {
			return refuse("volume %q is empty, and on another file system than at backup %s, but %s has content that may be in no backup; see that all disks are mounted; "+
				"if the content is not needed, move it away, so that all volumes can be restored", v.Volume, f.Known.Backup, list(content)), true
		}
	}
	return Decision{}, false
}

// otherDisks is the warning of a restore to other file systems than before; "" where there is none.
func (f Facts) otherDisks() string {
	var names []string
	for _, v := range f.Volumes {
		if v.Elsewhere && v.Origin != OriginSame {
			names = append(names, v.Volume)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("volume %s was on another file system at backup %s; if that disk is only not mounted, it has the content of before, which may be newer", list(names), f.Known.Backup)
}
