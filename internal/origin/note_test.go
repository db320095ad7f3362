package origin_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/origin"
	"holdfast/internal/testbed"
)

// TestNoteGoesWithItsFolder: a note goes along with a rename, is replaced, says nothing on a copy,
// and is another attribute than the mark.
func TestNoteGoesWithItsFolder(t *testing.T) {
	volumes(t, func(t *testing.T, path string) {
		if _, err := origin.ReadNote(path); !errors.Is(err, origin.ErrNoMark) {
			t.Errorf("before: %v", err)
		}
		_, err := origin.Write(path, sample)
		must(t, err)
		must(t, errors.Join(origin.WriteNote(path, []byte(`"one"`)), origin.WriteNote(path, []byte(`{"two":2}`))))
		moved := path + "-moved"
		must(t, os.Rename(path, moved))
		if got, err := origin.ReadNote(moved); err != nil || string(got) != `{"two":2}` {
			t.Errorf("%s, %v", got, err)
		}
		if m, err := origin.Read(moved); err != nil || m.Backup != sample.Backup {
			t.Errorf("the mark is %+v, %v", m, err)
		}
		must(t, exec.Command("cp", "-a", "--preserve=all", moved, path).Run())
		if got, err := origin.ReadNote(path); !errors.Is(err, origin.ErrNoMark) {
			t.Errorf("the copy has the note %s, %v", got, err)
		}
	})
}

// TestNoteThatIsNone: a damaged note, or a place that can't bear a note, is reported as such.
func TestNoteThatIsNone(t *testing.T) {
	folder := filepath.Join(testbed.Ext4(t), "folder")
	must(t, os.Mkdir(folder, 0o700))
	for name, value := range map[string]string{"empty": "", "no JSON": "{", "another version": `{"version":9}`, "too long": strings.Repeat("x", 3000)} {
		must(t, unix.Setxattr(folder, origin.NoteAttribute, []byte(value), 0))
		if b, err := origin.ReadNote(folder); !errors.Is(err, origin.ErrDamaged) {
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
	if err := origin.WriteNote(folder, []byte(`"`+strings.Repeat("x", 3000)+`"`)); !errors.Is(err, origin.ErrNotKept) {
		t.Errorf("a long note: %v", err)
	}
	if err := origin.WriteNote("/proc/sys", []byte(`1`)); !errors.Is(err, origin.ErrNotKept) {
		t.Errorf("without attributes: %v", err)
	}
}
