package engine

import (
	"testing"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/origin"
)

// TestElsewhere: a missing or empty volume was on another file system, where the journal of the
// same tenant knows content of it there, and both file systems tell their UUIDs.
func TestElsewhere(t *testing.T) {
	known := func(fileSystem string, entries uint64) model.Content {
		return model.Content{Backup: "b5", Seq: 5, Tenant: "acme", Volumes: map[string]model.Root{
			"data": {Kind: model.KindFolder, FileSystem: fileSystem, Handle: "handle-1", Entries: entries},
		}}
	}
	for name, c := range map[string]struct {
		presence prepare.Presence
		known    model.Content
		tenant   string
		now      string
		want     bool
	}{
		"missing":                {prepare.VolumeMissing, known("ext4 1", 5), "acme", "ext4 2", true},
		"empty":                  {prepare.VolumeEmpty, known("ext4 1", 5), "acme", "ext4 2", true},
		"another kind":           {prepare.VolumeMissing, known("ext4 1", 5), "acme", "xfs 2", true},
		"content":                {prepare.VolumeContent, known("ext4 1", 5), "acme", "ext4 2", false},
		"the same file system":   {prepare.VolumeMissing, known("ext4 1", 5), "acme", "ext4 1", false},
		"no UUID before":         {prepare.VolumeMissing, known("ext4", 5), "acme", "ext4 2", false},
		"no UUID now":            {prepare.VolumeMissing, known("ext4 1", 5), "acme", "tmpfs", false},
		"nothing was there":      {prepare.VolumeEmpty, known("ext4 1", 0), "acme", "ext4 2", false},
		"another tenant's":       {prepare.VolumeMissing, known("ext4 1", 5), "other", "ext4 2", false},
		"the journal knows none": {prepare.VolumeMissing, model.Content{}, "acme", "ext4 2", false},
	} {
		s := volumeSight{presence: c.presence, root: model.Root{Kind: model.KindFolder, FileSystem: c.now, Handle: "handle-2"}, markErr: origin.ErrNoMark}
		if got := originOf(s, c.known, belongs{tenant: c.tenant, instance: "phone-1", volume: "data"}); got.Elsewhere != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
