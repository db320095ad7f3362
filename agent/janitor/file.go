package janitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"holdfast/internal/durable"
	"holdfast/internal/vault"
)

// runsFile is the content of the file with the runs.
type runsFile struct {
	Version int    `json:"version"`
	Runs    []*Run `json:"runs"`
}

const fileVersion = 1

// asideSuffix ends the name of a file that could not be read.
const asideSuffix = ".damaged"

// readRuns reads the file. A run that was at work when the agent ended waits again.
func readRuns(path string) (runs []*Run, aside, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("read the prunes of earlier lives: %w", err)
	}
	var file runsFile
	fault := json.Unmarshal(data, &file)
	if fault == nil && (file.Version != fileVersion || slices.Contains(file.Runs, nil)) {
		fault = fmt.Errorf("version %d is not known", file.Version)
	}
	if fault != nil {
		if err := os.Rename(path, path+asideSuffix); err != nil {
			return nil, nil, fmt.Errorf("set the damaged file of prunes aside: %w", err)
		}
		return nil, fmt.Errorf("%s does not open (%w) and lies at %s now: prunes that were commanded and have not begun are lost", path, fault, path+asideSuffix), nil
	}
	for _, r := range file.Runs {
		if r.State == AtWork {
			r.State, r.Reason = Waiting, "the agent ended while it was at work"
		}
	}
	return file.Runs, nil, nil
}

// put writes the runs, and then makes them the runs of the janitor. Of the runs that are over and
// told, the oldest go. The lock is held.
func (j *Janitor) put(runs []*Run) error {
	for more := len(runs) - keepRuns; more > 0; more-- {
		i := slices.IndexFunc(runs, func(r *Run) bool { return r.State.Over() && r.Told })
		if i < 0 {
			break
		}
		runs = slices.Delete(runs, i, i+1)
	}
	data, err := json.Marshal(runsFile{fileVersion, runs})
	if err == nil {
		err = durable.WriteFile(j.o.File, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the prunes down: %w", err)
	}
	j.runs = runs
	return nil
}

// change writes a changed run down, and then makes the change. The lock is held.
func (j *Janitor) change(r *Run, edit func(*Run)) error {
	changed := r.copy()
	edit(&changed)
	runs := slices.Clone(j.runs)
	i := slices.Index(runs, r)
	if i < 0 {
		return fmt.Errorf("%w: %s", ErrNoRun, r.ID)
	}
	before := *r
	*r = changed
	if err := j.put(runs); err != nil {
		*r = before
		return err
	}
	return nil
}

func clonePrune(p vault.PruneReport) vault.PruneReport {
	p.Refused, p.Unlisted, p.Kept = slices.Clone(p.Refused), slices.Clone(p.Unlisted), maps.Clone(p.Kept)
	return p
}
