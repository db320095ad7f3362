package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/internal/durable"
)

// marks keeps the notes of held instances as files in one folder, by instance. It is the job.Marks.
type marks struct{ dir string }

func openMarks(dir string) (marks, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return marks{}, fmt.Errorf("folder for notes of held instances: %w", err)
	}
	return marks{dir}, nil
}

// Set is durable when it returns nil.
func (m marks) Set(instance string, note []byte) error {
	return durable.WriteFile(filepath.Join(m.dir, instance), note, 0o600)
}

// Clear need not be durable: a note that comes back after a crash is of a job that the journal knows, or of an
// instance that runs, which is left as it is.
func (m marks) Clear(instance string) error {
	if err := os.Remove(filepath.Join(m.dir, instance)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List leaves out what a crash left of a write.
func (m marks) List() (map[string][]byte, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, err
	}
	notes := map[string][]byte{}
	for _, e := range entries {
		if durable.IsTemporary(e.Name()) {
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
