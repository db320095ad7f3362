package origin

import (
	"encoding/json"
	"fmt"

	"golang.org/x/sys/unix"

	"holdfast/internal/tree"
)

// NoteAttribute is the name of the extended attribute of a note. Only a process with CAP_SYS_ADMIN
// sees it.
const NoteAttribute = tree.OwnXattrs + "kept"

// note is the content of the attribute.
type note struct {
	Version int             `json:"version"`
	At      Place           `json:"at"` // of the folder or file that was noted
	Data    json.RawMessage `json:"data"`
}

// WriteNote puts a note of the caller on the folder or file at path, durable when it returns nil. A
// note goes where the folder goes, as a mark does, and names the very folder. data is a value of
// JSON. The errors are the errors of Write. A note that is there is replaced.
func WriteNote(path string, data []byte) error {
	at, err := PlaceOf(path)
	if err != nil {
		return err
	}
	b, err := json.Marshal(note{Version: version, At: at, Data: data})
	if err != nil {
		return fmt.Errorf("encode the note: %w", err)
	}
	if len(b) > maxMark {
		return fmt.Errorf("%w: the note takes %d bytes", ErrNotKept, len(b))
	}
	return change(path, func(fd int) error { return unix.Fsetxattr(fd, NoteAttribute, b, 0) })
}

// ReadNote returns the note on the folder or file at path. ErrNoMark: there is none, or the folder
// is a copy of the noted folder. The other errors are the errors of Read.
func ReadNote(path string) ([]byte, error) {
	b, err := read(path, NoteAttribute)
	if err != nil {
		return nil, err
	}
	var n note
	if err := json.Unmarshal(b, &n); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if n.Version != version {
		return nil, fmt.Errorf("%w: a note of version %d", ErrDamaged, n.Version)
	}
	at, err := PlaceOf(path)
	switch {
	case err != nil:
		return nil, err
	case !n.At.Same(at):
		return nil, fmt.Errorf("%w: its note was written on another folder or file", ErrNoMark)
	}
	return n.Data, nil
}
