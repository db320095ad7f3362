package observe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/durable"
)

// watchEvery is how often disks are looked at: a look mostly reads cached metadata.
const watchEvery = 5 * time.Second

// WatchDisks looks from time to time for facts that only the disks tell, until ctx
// ends. A volume that hangs delays the facts about the others, and nothing else.
func (l *Lookout) WatchDisks(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		found := slices.Concat(l.filesAside(), l.damagedMarks(), l.Disks(ctx))
		if ctx.Err() != nil {
			return
		}
		l.watched.mu.Lock()
		l.watched.found = found
		l.watched.mu.Unlock()
		l.settleLines()
		if _, _, err := l.Look(); err != nil { // dates the sightings, also while nobody asks
			l.Log.Warn("the journal can't be read", KeyError, err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settleLines forgets the failures of reports of instances of which no report waits any more.
func (l *Lookout) settleLines() {
	l.Watcher.mu.Lock()
	none := len(l.Watcher.lines) == 0
	l.Watcher.mu.Unlock()
	if none {
		return
	}
	heads, err := l.Journal.Heads(math.MaxInt, nil)
	if err != nil {
		return
	}
	waiting := map[string]bool{}
	for _, e := range heads {
		waiting[e.Instance] = true
	}
	l.Watcher.settled(waiting)
}

// filesAside finds the files that were damaged and set
// aside: they stay until somebody has looked at them.
func (l *Lookout) filesAside() (found []Sighting) {
	for name, path := range map[string]string{TroubleJournalAside: l.Journal.Path(), TroubleAuditAside: l.AuditFile} {
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			continue // of the journal's folder the journal tells
		}
		for _, e := range entries {
			if match, err := filepath.Match(filepath.Base(path)+".damaged-*", e.Name()); err == nil && match {
				found = append(found, Sighting{Name: name, What: e.Name(), Err: fmt.Errorf("it lies at %s", filepath.Join(filepath.Dir(path), e.Name()))})
			}
		}
	}
	return found
}

// damagedMarks finds the notes of held instances that can't be read.
func (l *Lookout) damagedMarks() (found []Sighting) {
	dir := filepath.Join(l.StateDir, "held")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return []Sighting{{Name: TroubleMark, Err: err}}
	}
	for _, e := range entries {
		if durable.IsTemporary(e.Name()) {
			continue
		}
		note, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // let go of this instant
		}
		if err == nil {
			_, err = job.HeldNote(e.Name(), note)
		}
		if err != nil {
			found = append(found, Sighting{Name: TroubleMark, Instance: e.Name(), Err: err})
		}
	}
	return found
}
