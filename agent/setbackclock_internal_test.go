package agent

import (
	"testing"

	"holdfast/agent/job"
	"holdfast/internal/backup/known"
	"holdfast/internal/origin"
)

// TestBelievedTimes: times of change before the backup show a disk that was set back, unless the
// volume bears the mark of that very backup, written on that very folder.
func TestBelievedTimes(t *testing.T) {
	here := origin.Place{FileSystem: "ext4 1", Root: "handle-1"}
	elsewhere := origin.Place{FileSystem: "ext4 1", Root: "handle-2"}
	f := job.VolumeFacts{Volume: "data", Origin: job.OriginChanged, Backup: job.Content{Backup: "b5"}}
	for name, c := range map[string]struct {
		mark origin.Mark
		err  error
		want job.Origin
	}{
		"its own mark":               {mark: origin.Mark{Backup: "b5", At: here}, want: job.OriginChanged},
		"the mark of an earlier one": {mark: origin.Mark{Backup: "b4", At: here}, want: job.OriginForeign},
		"the mark of a copy":         {mark: origin.Mark{Backup: "b5", At: elsewhere}, want: job.OriginForeign},
		"no mark":                    {err: origin.ErrNoMark, want: job.OriginForeign},
	} {
		s := volumeSight{presence: job.VolumeContent, root: job.Root{FileSystem: here.FileSystem, Handle: here.Root}, mark: c.mark, markErr: c.err}
		if got := likened(f, believed(s, f, known.Comparison{Looked: 4, Same: 3, Changed: 1, Back: 1})); got.Origin != c.want {
			t.Errorf("%s: %q (%s), want %q", name, got.Origin, got.Why, c.want)
		}
	}
}
