package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/agent/job"
	"holdfast/internal/durable"
)

// marks keeps the notes of held instances as files in one folder, by instance. It is the job.Marks.
type marks struct{ dir string }

// OpenMarks makes the folder, if it is not there.
func OpenMarks(dir string) (job.Marks, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder for notes of held instances: %w", err)
	}
	return marks{dir}, nil
}

// Set is durable when it returns nil.
func (m marks) Set(instance string, note []byte) error {
	return durable.WriteFile(filepath.Join(m.dir, instance), note, 0o600)
}

// Clear is durable when it returns nil: a power cut can take the journal and bring back the
// note, and then an instance that was released, and runs elsewhere, would be started here.
func (m marks) Clear(instance string) error {
	root, err := os.OpenRoot(m.dir)
	if err != nil {
		return err
	}
	// an earlier call may have failed after it
	if err = root.Remove(instance); err == nil || errors.Is(err, fs.ErrNotExist) {
		err = durable.SyncFolder(root, ".")
	}
	return errors.Join(err, root.Close())
}

// IsNote tells the notes in the folder from files that a crash left of a write.
func IsNote(name string) bool { return !durable.IsTemporary(name) }

// List leaves out files that a crash left of a write.
func (m marks) List() (map[string][]byte, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, err
	}
	notes := map[string][]byte{}
	for _, e := range entries {
		if !IsNote(e.Name()) {
			if err := os.Remove(filepath.Join(m.dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		if notes[e.Name()], err = os.ReadFile(filepath.Join(m.dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return notes, nil
}
