package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/agent/model"
	"holdfast/internal/durable"
	"holdfast/internal/origin"
	"holdfast/internal/restore"
)

// A note is an attribute of the content that a restore takes out of the place of a volume. Some
// file systems keep no such attribute, and a tenant can fill the room for the attributes of the
// root of a volume. There the note is a file beside the volume, in a folder in which only root can
// write, and names the very folder or file of which it tells. Without a note the journal alone
// would know whose content it is, and a journal that was set back would have it removed.

// fileNote is the content of a note that is a file.
type fileNote struct {
	At   origin.Place    `json:"at"` // of the content
	Note json.RawMessage `json:"note"`
}

// writeNoteFile puts the note on the content at path into a file, durably.
func writeNoteFile(file, path string, data []byte) error {
	at, err := origin.PlaceOf(path)
	if err != nil {
		return err
	}
	b, err := json.Marshal(fileNote{At: at, Note: data})
	if err != nil {
		return fmt.Errorf("encode the note: %w", err)
	}
	return durable.WriteFile(file, append(b, '\n'), 0o600)
}

// readNoteFile returns the note on the content at path that is a file; nil where there is none, or
// the file tells of other content, or can't be understood.
func readNoteFile(path string) ([]byte, error) {
	file := restore.NoteFile(path)
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var n fileNote
	if err := json.Unmarshal(b, &n); err != nil {
		return nil, nil //nolint:nilerror // a note that can't be read tells nothing
	}
	at, err := origin.PlaceOf(path)
	if err != nil || !n.At.Same(at) {
		return nil, err
	}
	return n.Note, nil
}

// dropNoteFile removes the file with the note on content that had one of the names path, and that
// is removed, or back in its place. A file that stays tells of nothing that is there.
func dropNoteFile(path string) error {
	file := restore.NoteFile(path)
	if file == "" {
		return nil
	}
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return err
	}
	if err = root.Remove(filepath.Base(file)); err == nil {
		err = durable.SyncFolder(root, ".")
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, root.Close())
}

// putNote puts the note on the content at path: as an attribute, or else as a file beside the
// place.
func putNote(n model.KeptNote, path string, data []byte) (file string, err error) {
	file = restore.NoteFile(restore.AsideOf(n.Target, n.Job, n.Volume))
	if err := origin.WriteNote(path, data); err != nil {
		if ferr := writeNoteFile(file, path, data); ferr != nil {
			return "", errors.Join(err, ferr)
		}
		return file, nil
	}
	// An earlier file says less than the attribute.
	return "", dropNoteFile(restore.AsideOf(n.Target, n.Job, n.Volume))
}
