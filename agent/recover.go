package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"holdfast/agent/engine"
	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// A life that recovers (Options.Recover) is for a start that faults stand in the way of
// while instances are held. To let an instance run again needs the journal and the
// driver of the instance, and nothing of the store, the listeners or the control plane.

// JournalFile is the name of the journal in the state folder.
const JournalFile = "journal.db"

// marksFolder is the name of the folder with the notes of held instances.
const marksFolder = "held"

// Unfinished lists the instances that an earlier life may have left held, or with
// half restored volumes, by the files in the state folder. It returns none where
// another agent has the journal open, and leaves a damaged journal as it is.
func Unfinished(stateDir string) ([]string, error) {
	var instances []string
	notes, err := Held(stateDir)
	if err != nil {
		return nil, err
	}
	instances = append(instances, notes...)
	path := filepath.Join(stateDir, JournalFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return instances, nil
	}
	jobs, err := journal.Unfinished(path)
	if errors.Is(err, journal.ErrLocked) {
		return nil, nil
	}
	for _, j := range jobs {
		if j.State != model.Accepted {
			instances = append(instances, j.Instance)
		}
	}
	slices.Sort(instances)
	return slices.Compact(instances), err
}

// Held lists the instances of which a note in the state folder says
// that they may be held. It reads nothing but names.
func Held(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, marksFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for notes of held instances: %w", err)
	}
	var instances []string
	for _, e := range entries {
		if engine.IsNote(e.Name()) {
			instances = append(instances, e.Name())
		}
	}
	return instances, nil
}

// without returns err, unless this life recovers: then it logs that
// the agent goes on without the part.
func (a *Agent) without(part string, err error) error {
	if err == nil || !a.recovers {
		return err
	}
	a.log.Error("a part of the agent can't be opened, and this life recovers without it", "part", part, keyError, err.Error())
	return nil
}
