package engine

import (
	"testing"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/backup/known"
	"holdfast/internal/origin"
)

// TestBelievedTimes: times of change before the backup show a disk that was set back, unless the
// volume bears the mark of that very backup, written on that very folder.
func TestBelievedTimes(t *testing.T) {
	here := origin.Place{FileSystem: "ext4 1", Root: "handle-1"}
	elsewhere := origin.Place{FileSystem: "ext4 1", Root: "handle-2"}
	f := prepare.VolumeFacts{Volume: "data", Origin: prepare.OriginChanged, Backup: model.Content{Backup: "b5"}}
	for name, c := range map[string]struct {
		mark origin.Mark
		err  error
		want prepare.Origin
	}{
		"its own mark":               {mark: origin.Mark{Backup: "b5", At: here}, want: prepare.OriginChanged},
		"the mark of an earlier one": {mark: origin.Mark{Backup: "b4", At: here}, want: prepare.OriginForeign},
		"the mark of a copy":         {mark: origin.Mark{Backup: "b5", At: elsewhere}, want: prepare.OriginForeign},
		"no mark":                    {err: origin.ErrNoMark, want: prepare.OriginForeign},
	} {
		s := volumeSight{presence: prepare.VolumeContent, root: model.Root{FileSystem: here.FileSystem, Handle: here.Root}, mark: c.mark, markErr: c.err}
		if got := likened(f, believed(s, f, known.Comparison{Looked: 4, Same: 3, Changed: 1, Back: 1})); got.Origin != c.want {
			t.Errorf("%s: %q (%s), want %q", name, got.Origin, got.Why, c.want)
		}
	}
}
