package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/journal"
	"holdfast/agent/journal/journaltest"
)

func TestJournalIsForOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if _, err := journal.Open(path); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("%v", err)
	}
}

// TestVersionsOfAJournal holds the one rule for versions: a
// number counts, however long, and everything else is damage.
func TestVersionsOfAJournal(t *testing.T) {
	for text, want := range map[string]error{
		"99": journal.ErrNewer, "99999999999999999999999999": journal.ErrNewer, strings.Repeat("7", 5000): journal.ErrNewer,
		"1": journal.ErrOlder, "2": journal.ErrOlder, "3": journal.ErrOlder,
		"": nil, "0": nil, "03": nil, "+3": nil, "-1": nil, "3 ": nil, "3.1": nil, "three": nil, "\x00\xff": nil,
	} {
		t.Run(fmt.Sprintf("%.10q", text), func(t *testing.T) {
			path := t.TempDir() + "/journal"
			j, err := journal.Open(path)
			if err = errors.Join(err, j.Close()); err != nil {
				t.Fatal(err)
			}
			journaltest.Edit(t, path, func(tx *journaltest.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte(text)) })
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, peekErr := journal.Peek(path)
			j, err = journal.Open(path)
			if want == nil {
				if err != nil || j.Aside() == "" || peekErr == nil {
					t.Fatalf("a version that is none: %v, aside %q, a look says %v", err, j.Aside(), peekErr)
				}
				if err := j.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, want) || !errors.Is(peekErr, want) || !strings.Contains(err.Error(), "holdfast drain --wait") {
				t.Errorf("%.300v; a look says %.300v", err, peekErr)
			}
			if len(err.Error()) > 600 {
				t.Errorf("a refusal of %d bytes", len(err.Error()))
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Error("the refused journal was changed")
			}
		})
	}
	path := t.TempDir() + "/journal"
	j, err := journal.Open(path)
	if err = errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
	journaltest.Edit(t, path, func(tx *journaltest.Tx) error { return tx.DeleteBucket([]byte("meta")) })
	if j, err = journal.Open(path); err != nil || j.Aside() == "" {
		t.Fatalf("records without a version: %v, aside %q", err, j.Aside())
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}
