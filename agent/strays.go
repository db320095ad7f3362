package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/durable"
)

// Strays warns of instances on which jobs of this host act, and that a configuration does not
// have, or has made something else of. It is for a check of a configuration before an agent
// takes it, and changes nothing. While an agent runs the journal can't be read; the notes of
// held instances can. Files that can't be read, by this user or at all, are not reported.
func Strays(cfg *config.Config) (warnings []string) {
	jobs := map[string]*model.Job{}
	dir := filepath.Join(cfg.StateDir, "held")
	notes, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		warnings = append(warnings, fmt.Sprintf("the notes of held instances can't be read: %v", err))
	}
	for _, n := range notes {
		if durable.IsTemporary(n.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			continue // let go of meanwhile
		}
		j, err := job.HeldNote(n.Name(), b)
		if err != nil {
			warnings = append(warnings, err.Error())
			continue
		}
		jobs[j.Instance] = j
	}
	// An agent that runs has the journal locked, and a damaged journal is for its start to tell of.
	if active, err := journal.Peek(filepath.Join(cfg.StateDir, "journal.db")); err == nil {
		for _, j := range active {
			jobs[j.Instance] = j
		}
	}
	for _, id := range slices.Sorted(maps.Keys(jobs)) {
		if w := stray(cfg, jobs[id]); w != "" {
			warnings = append(warnings, w)
		}
	}
	return warnings
}

// stray is the warning of one job; "" where there is none.
func stray(cfg *config.Config, j *model.Job) string {
	does := "has an unfinished job"
	if j.Hold {
		does = "is held by an unfinished job"
	}
	i := slices.IndexFunc(cfg.Instances, func(in config.Instance) bool { return in.ID == j.Instance })
	if i < 0 {
		return fmt.Sprintf("instance %q %s (%s), and this configuration does not have it: the job goes on by what the journal keeps of it; "+
			"end the job first, or use holdfast resume or release later", j.Instance, does, j.ID)
	}
	if list := changes(j, &cfg.Instances[i], cfg.HostID); len(list) > 0 {
		return fmt.Sprintf("instance %q %s (%s), and this configuration differs from what the job began with (%s): the job goes on by what the journal keeps of it; "+
			"end the job first, or take the change back", j.Instance, does, j.ID, strings.Join(list, ", "))
	}
	return ""
}
