package observe

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/evidence"
)

const (
	// probeEvery is how often a write to the journal is tried. A
	// job tries once a minute at most when its own writes fail.
	probeEvery = 10 * time.Second
	// probePatience is how long one write to the journal
	// may take: a disk that is busy takes seconds.
	probePatience = 30 * time.Second
)

// probed is a journal whose writes are tried and told of.
type probed interface {
	// Probe tries to write.
	Probe(now time.Time) error
	// Looks tells whether the write under way only tries.
	Looks() bool
}

// JournalHealth tells whether the journal can be written. It is for any goroutine.
type JournalHealth struct {
	journal probed
	dir     string // the state folder
	watcher *Watcher
	stuck   func() error
	// when the write to the journal began that is under way, ns since the boot; 0: none is
	probing atomic.Int64
}

// NewJournalHealth watches a journal in a state folder. stuck tells why a write beside the journal
// does not end; nil while all do. The journal has to tell Written of its transactions.
func NewJournalHealth(journal probed, dir string, w *Watcher, stuck func() error) *JournalHealth {
	return &JournalHealth{journal: journal, dir: dir, watcher: w, stuck: stuck}
}

// Run tries from time to time whether the journal can be written, until ctx ends.
func (h *JournalHealth) Run(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		h.probing.Store(int64(evidence.SinceBoot()))
		_ = h.journal.Probe(time.Now()) // Written is told
		h.probing.Store(0)
		h.watcher.Fault(TroubleJournal+"/room", roomForJournal(h.dir))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Hangs tells that a write to the journal, or beside it, does not end; nil while all do.
func (h *JournalHealth) Hangs() error {
	if began := h.probing.Load(); began != 0 && evidence.SinceBoot()-time.Duration(began) > probePatience {
		return fmt.Errorf("%w: a write to it does not end", errJournal)
	}
	return h.stuck()
}

// Trouble tells why the journal can't be written now; nil while it can.
func (h *JournalHealth) Trouble() error {
	if err := h.Hangs(); err != nil {
		return err
	}
	h.watcher.mu.Lock()
	defer h.watcher.mu.Unlock()
	return h.watcher.faults[TroubleJournal].err
}

// journalRoom has to be free where the journal lies, bytes: the records of some thousand jobs.
const journalRoom = 4 << 20

// roomForJournal tells that the journal can't grow any
// more: small writes to it succeed for a while then.
func roomForJournal(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%w: %w", errJournal, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < journalRoom {
		return fmt.Errorf("%w for long: %d bytes are free on the disk of %s", errJournal, free, dir)
	}
	return nil
}

// Written is told of each transaction of the journal.
func (h *JournalHealth) Written(err error) {
	w, by := h.watcher, "work"
	if h.probing.Load() != 0 || h.journal.Looks() {
		by = "probe"
	}
	if err != nil {
		w.metrics.JournalFailed()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.faults[TroubleJournal]
	switch {
	case err != nil:
		w.faults[TroubleJournal] = f.again(by, fmt.Errorf("%w: %w", errJournal, err))
	case by == "work", f.doing == "probe", evidence.SinceBoot()-f.last > staleJournal:
		delete(w.faults, TroubleJournal)
	}
}

// staleJournal is how long a failed write counts that a job made while the
// probe, which needs no room, succeeds: the job tries again once a minute.
const staleJournal = 3 * time.Minute

var errJournal = errors.New("the journal can't be written")
