package agent

import (
	"testing"

	"holdfast/agent/job"
	"holdfast/internal/origin"
)

// TestElsewhere: a missing or empty volume was on another file system, where the journal of the
// same tenant knows content of it there, and both file systems tell their UUIDs.
func TestElsewhere(t *testing.T) {
	known := func(fileSystem string, entries uint64) job.Content {
		return job.Content{Backup: "b5", Seq: 5, Tenant: "acme", Volumes: map[string]job.Root{
			"data": {Kind: job.KindFolder, FileSystem: fileSystem, Handle: "handle-1", Entries: entries},
		}}
	}
	for name, c := range map[string]struct {
		presence job.Presence
		known    job.Content
		tenant   string
		now      string
		want     bool
	}{
		"missing":                {job.VolumeMissing, known("ext4 1", 5), "acme", "ext4 2", true},
		"empty":                  {job.VolumeEmpty, known("ext4 1", 5), "acme", "ext4 2", true},
		"another kind":           {job.VolumeMissing, known("ext4 1", 5), "acme", "xfs 2", true},
		"content":                {job.VolumeContent, known("ext4 1", 5), "acme", "ext4 2", false},
		"the same file system":   {job.VolumeMissing, known("ext4 1", 5), "acme", "ext4 1", false},
		"no UUID before":         {job.VolumeMissing, known("ext4", 5), "acme", "ext4 2", false},
		"no UUID now":            {job.VolumeMissing, known("ext4 1", 5), "acme", "tmpfs", false},
		"nothing was there":      {job.VolumeEmpty, known("ext4 1", 0), "acme", "ext4 2", false},
		"another tenant's":       {job.VolumeMissing, known("ext4 1", 5), "other", "ext4 2", false},
		"the journal knows none": {job.VolumeMissing, job.Content{}, "acme", "ext4 2", false},
	} {
		s := volumeSight{presence: c.presence, root: job.Root{Kind: job.KindFolder, FileSystem: c.now, Handle: "handle-2"}, markErr: origin.ErrNoMark}
		if got := originOf(s, c.known, belongs{tenant: c.tenant, instance: "phone-1", volume: "data"}); got.Elsewhere != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
