package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/agent/model"
	"holdfast/internal/origin"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
)

// noRoomForNotes are volumes on which no note can be kept as an attribute: on a file system without
// attributes, and on one where the tenant has filled the room for the attributes of the root.
var noRoomForNotes = map[string]func(t *testing.T) string{
	"no attributes": func(t *testing.T) string {
		testbed.Need(t, "root")
		dir := testbed.Dir(t)
		if err := unix.Mount("none", dir, "ramfs", 0, "mode=755"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		return dir
	},
	"filled by the tenant": func(t *testing.T) string {
		testbed.Need(t, "root", "ext4")
		return testbed.Ext4(t)
	},
}

// fillAttributes gives a folder as many attributes as it takes.
func fillAttributes(path string) {
	for size, i := 2048, 0; size > 0; i++ {
		if err := unix.Setxattr(path, fmt.Sprint("user.a", i), make([]byte, size), 0); err != nil {
			size /= 2
		}
	}
}

// TestNoteBesideTheContent: where the content bears no note, a file beside the volume has the note.
// The note is found at the stage and at the name of kept content, says nothing of a copy, takes a
// change, and goes with the content.
func TestNoteBesideTheContent(t *testing.T) {
	for name, place := range noRoomForNotes {
		t.Run(name, func(t *testing.T) {
			must := func(errs ...error) {
				t.Helper()
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
			}
			const by = "0123456789abcdef0123"
			folder := place(t)
			target := filepath.Join(folder, "phone")
			must(os.Mkdir(target, 0o755), os.WriteFile(filepath.Join(target, "file"), []byte("newer"), 0o600))
			fillAttributes(target)
			if err := origin.WriteNote(target, []byte(`1`)); err == nil {
				t.Fatal("the volume bears a note")
			}
			r := restores{log: slog.New(slog.DiscardHandler), standing: new(Standing), patience: new(patience)}
			r.standing.Begin(func(error) {})
			holder, err := holderOf(target)
			must(err)
			p := model.Place{Volume: "data", Target: target, Stage: restore.StageOf(target, by, "data"), Aside: restore.AsideOf(target, by, "data"), Holder: holder}
			n := model.KeptNote{Instance: "phone-1", Tenant: "acme", Job: by, Volume: "data", Target: target, Backup: "b7"}
			on := func(path string) string {
				t.Helper()
				got, err := r.NoteOn(p, path)
				must(err)
				if got == nil {
					return "none"
				}
				return fmt.Sprintf("%s %s %v", got.Instance, got.Backup, got.Removing)
			}
			must(r.Note(p, target, n))
			if got := on(p.Stage); got != "none" {
				t.Errorf("before the exchange: %s", got)
			}
			must(os.Rename(target, p.Stage))
			found, err := keptIn(folder)
			if err != nil || len(found) != 1 || found[0].Path != p.Stage || found[0].Note == nil || on(p.Stage) != "phone-1 b7 false" {
				t.Errorf("at the stage: %s, found %+v, %v", on(p.Stage), found, err)
			}
			p.Old, err = restore.Identify(p.Stage)
			must(err)
			must(r.SetAside(p))
			if got := on(p.Aside); got != "phone-1 b7 false" {
				t.Errorf("aside: %s", got)
			}
			n.Removing = true
			must(r.Note(p, p.Aside, n))
			if got := on(p.Aside); got != "phone-1 b7 true" {
				t.Errorf("changed: %s", got)
			}
			must(os.Rename(p.Aside, target), exec.Command("cp", "-a", target, p.Aside).Run())
			if got := on(p.Aside); got != "none" {
				t.Errorf("a copy has the note %s", got)
			}
			must(os.RemoveAll(p.Aside), os.Rename(target, p.Aside))
			must(r.Discard(model.Place{Volume: "data", Target: target, Stage: p.Aside, Holder: holder, Old: p.Old}))
			left, err := filepath.Glob(filepath.Join(folder, ".holdfast-*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left: %q, %v", left, err)
			}
		})
	}
}

// TestNoteFileOfAnEarlierPlace: content that a put-back brought back to its place needs no note
// file any more, and a note that becomes an attribute replaces the file.
func TestNoteFileOfAnEarlierPlace(t *testing.T) {
	testbed.Need(t, "root", "ext4")
	folder := testbed.Ext4(t)
	const first, second = "0123456789abcdef0123", "fedcba9876543210fedc"
	target := filepath.Join(folder, "phone")
	p := model.Place{Volume: "data", Target: target, Stage: restore.AsideOf(target, first, "data"), Aside: restore.AsideOf(target, second, "data")}
	if err := errors.Join(os.Mkdir(target, 0o755), os.Mkdir(p.Stage, 0o755), writeNoteFile(restore.NoteFile(p.Stage), target, []byte(`{}`))); err != nil {
		t.Fatal(err)
	}
	r := restores{log: slog.New(slog.DiscardHandler), standing: new(Standing), patience: new(patience)}
	r.standing.Begin(func(error) {})
	var err error
	if p.Old, err = restore.Identify(p.Stage); err != nil {
		t.Fatal(err)
	}
	if err := r.SetAside(p); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(restore.NoteFile(restore.AsideOf(target, first, "data"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note file of the first job: %v", err)
	}
	n := model.KeptNote{Instance: "phone-1", Tenant: "acme", Job: second, Volume: "data", Target: target}
	file := restore.NoteFile(p.Aside)
	if err := errors.Join(writeNoteFile(file, p.Aside, []byte(`{"instance":"earlier"}`)), r.Note(p, p.Aside, n)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file beside a note: %v", err)
	}
	if got, err := r.NoteOn(p, p.Aside); err != nil || got == nil || got.Instance != "phone-1" {
		t.Errorf("%+v, %v", got, err)
	}
}
