package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/obs"
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
		if isNote(e.Name()) {
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

// closedStore takes the place of a store that can't be opened. Every call fails with the reason.
type closedStore struct {
	name string
	why  error
}

var _ obs.Store = closedStore{}

func (s closedStore) Put(context.Context, string, []byte) error                  { return s.why }
func (s closedStore) PutNew(context.Context, string, []byte) error               { return s.why }
func (s closedStore) ReadAt(context.Context, string, []byte, int64) (int, error) { return 0, s.why }
func (s closedStore) Stat(context.Context, string) (obs.Info, error)             { return obs.Info{}, s.why }
func (s closedStore) Delete(context.Context, ...string) error                    { return s.why }
func (s closedStore) Extend(context.Context, string, time.Time) error            { return s.why }
func (s closedStore) Capabilities() obs.Capabilities                             { return obs.Capabilities{} }
func (s closedStore) String() string                                             { return s.name }
func (s closedStore) Close() error                                               { return nil }

func (s closedStore) List(context.Context, string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) { yield(obs.Info{}, s.why) }
}
