package engine

import (
	"holdfast/agent/prepare"
	"holdfast/internal/backup/known"
)

// believed is a comparison as far as the mark on the volume leaves it. A time of change before
// the backup shows a disk that was set back, or a clock of the host that was. The mark of a
// backup comes onto the volume after the backup, so a disk that was set back to a time before
// does not bear the mark. Where it does, the clock was set back, and the instance has written
// since: the content is newer than the backup.
func believed(s volumeSight, f prepare.VolumeFacts, c known.Comparison) known.Comparison {
	if s.markErr == nil && s.mark.At.Same(place(s.root)) && s.mark.Backup == f.Backup.Backup {
		c.Back = 0 // they count as changed, too
	}
	return c
}
