package agent

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"

	"holdfast/agent/journal"
	"holdfast/agent/metrics"
)

// TestSmallWriteHealsNoJournal: that a watchdog, or whoever asks for
// /healthz, finds the journal writable does not take back that a job
// could not write to it: a write of a few bytes succeeds on a full disk.
func TestSmallWriteHealsNoJournal(t *testing.T) {
	jr, err := journal.Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = jr.Close() })
	a := &Agent{journal: jr, watcher: newWatcher(slog.New(slog.DiscardHandler), metrics.New(metrics.Options{}))}
	jr.WatchWrites(a.journalled)
	a.journalled(fmt.Errorf("write: %w", syscall.ENOSPC)) // of a job
	if err := jr.Writable(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.journalTrouble() == nil {
		t.Error("the journal counts as healed")
	}
}
