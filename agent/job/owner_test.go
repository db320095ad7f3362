package job_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"holdfast/agent/journal"
)

// TestGuard: a journal that may not be written takes no command and no acknowledgement,
// and answers questions and looks whether it can be written.
func TestGuard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	jr, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if used, err := jr.Used(); err != nil || used {
		t.Errorf("a new journal tells of work: %v, %v", used, err)
	}
	if err := jr.SetOwner("me"); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	jr.Guard(func() error { return no })
	if err := jr.SetOwner("other"); !errors.Is(err, no) {
		t.Errorf("it was written: %v", err)
	}
	if err := errors.Join(jr.SetOwner("me"), jr.Probe(time.Now()), jr.Writable(context.Background())); err != nil {
		t.Errorf("what needs no write, or is a look: %v", err)
	}
	if owner, err := jr.Owner(); err != nil || owner != "me" {
		t.Errorf("%q, %v", owner, err)
	}
	if _, err := journal.Inspect(path); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("it is open: %v", err)
	}
	jr.Guard(func() error { return nil })
	if err := errors.Join(jr.SetOwner("other"), jr.Close()); err != nil {
		t.Fatal(err)
	}
	looked, err := journal.Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = looked.Close() }()
	if owner, err := looked.Owner(); err != nil || owner != "other" {
		t.Errorf("%q, %v", owner, err)
	}
	if err := looked.SetOwner("me"); err == nil {
		t.Error("a journal that is looked at was written")
	}
}
