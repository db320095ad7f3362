package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/durable"
	"holdfast/internal/evidence"
)

const (
	// probeEvery is how often a write to the journal is tried. A
	// job tries once a minute at most when its own writes fail.
	probeEvery = 10 * time.Second
	// probePatience is how long one write to the journal
	// may take: a disk that is busy takes seconds.
	probePatience = 30 * time.Second
	// watchEvery is how often disks are looked at: a look mostly reads cached metadata.
	watchEvery = 5 * time.Second
)

// probe tries from time to time whether the journal can be written, until ctx ends.
func (a *Agent) probe(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		a.probing.Store(int64(evidence.SinceBoot()))
		_ = a.journal.Probe(time.Now()) // journalled is told
		a.probing.Store(0)
		a.watcher.fault(troubleJournal+"/room", roomForJournal(a.cfg.StateDir))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// journalHangs tells that a write to the journal, or beside it, does not end; nil while all do.
func (a *Agent) journalHangs() error {
	if began := a.probing.Load(); began != 0 && evidence.SinceBoot()-time.Duration(began) > probePatience {
		return fmt.Errorf("%w: a write to it does not end", errJournal)
	}
	return a.stuck()
}

// journalTrouble tells why the journal can't be written now; nil while it can.
func (a *Agent) journalTrouble() error {
	if err := a.journalHangs(); err != nil {
		return err
	}
	a.watcher.mu.Lock()
	defer a.watcher.mu.Unlock()
	return a.watcher.faults[troubleJournal].err
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

// watched is the result of the last look at the disks.
// The zero value is ready; it is for any goroutine.
type watched struct {
	mu    sync.Mutex
	found []sighting
}

func (w *watched) now() []sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.found)
}

// watchDisks looks from time to time for facts that only the disks tell, until ctx
// ends. A volume that hangs delays the facts about the others, and nothing else.
func (a *Agent) watchDisks(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		found := slices.Concat(a.filesAside(), a.damagedMarks())
		for _, in := range a.instances {
			found = append(found, a.sightOfInstance(ctx, in)...)
		}
		found = append(found, a.sightOfKept(ctx)...)
		if ctx.Err() != nil {
			return
		}
		a.watched.mu.Lock()
		a.watched.found = found
		a.watched.mu.Unlock()
		a.settleLines()
		if _, _, err := a.sighted(); err != nil { // dates the sightings, also while nobody asks
			a.log.Warn("the journal can't be read", keyError, err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settleLines forgets the failures of reports of instances of which no report waits any more.
func (a *Agent) settleLines() {
	a.watcher.mu.Lock()
	none := len(a.watcher.lines) == 0
	a.watcher.mu.Unlock()
	if none {
		return
	}
	heads, err := a.journal.Heads(math.MaxInt, nil)
	if err != nil {
		return
	}
	waiting := map[string]bool{}
	for _, e := range heads {
		waiting[e.Instance] = true
	}
	a.watcher.settled(waiting)
}

// filesAside finds the files that were damaged and set
// aside: they stay until somebody has looked at them.
func (a *Agent) filesAside() (found []sighting) {
	for name, path := range map[string]string{troubleJournalAside: a.journal.Path(), troubleAuditAside: a.cfg.Audit.File} {
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			continue // of the journal's folder the journal tells
		}
		for _, e := range entries {
			if match, err := filepath.Match(filepath.Base(path)+".damaged-*", e.Name()); err == nil && match {
				found = append(found, sighting{name: name, what: e.Name(), err: fmt.Errorf("it lies at %s", filepath.Join(filepath.Dir(path), e.Name()))})
			}
		}
	}
	return found
}

// damagedMarks finds the notes of held instances that can't be read.
func (a *Agent) damagedMarks() (found []sighting) {
	dir := filepath.Join(a.cfg.StateDir, "held")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return []sighting{{name: troubleMark, err: err}}
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
			found = append(found, sighting{name: troubleMark, instance: e.Name(), err: err})
		}
	}
	return found
}

// sightOfInstance finds the troubles of an instance that has no job now.
func (a *Agent) sightOfInstance(ctx context.Context, in *instance) (found []sighting) {
	id := in.cfg.ID
	active, latest, err := a.journal.ByInstance(id)
	if err != nil || active != nil {
		return nil
	}
	last, err := a.journal.Ended(id)
	if err != nil {
		return nil
	}
	if last != nil && last.State == model.Failed && !last.CancelAsked {
		found = append(found, sighting{
			name: troubleJob, instance: id, job: last.ID, age: max(0, time.Since(last.Entered[model.Failed])), dated: true,
			err: fmt.Errorf("%s: %s", kind(last), last.Cause),
		})
	}
	if err := forkTrouble(latest); err != nil {
		found = append(found, sighting{
			name: troubleFork, instance: id, job: latest.ID, age: max(0, time.Since(latest.Entered[model.Stored])), dated: true, err: err,
		})
	}
	if last != nil && last.State == model.Done && !last.Entered[model.Released].IsZero() {
		if latest != nil && latest.Result != nil {
			found = append(found, a.roomFor(ctx, in, latest.Result.Bytes)...)
		}
		return found // its data belongs to another host
	}
	return append(found, a.backupAge(ctx, in)...)
}

// backupAge finds an instance of which the last backup is too old.
func (a *Agent) backupAge(ctx context.Context, in *instance) []sighting {
	limit := a.cfg.Limits.BackupAge
	if limit <= 0 {
		return nil
	}
	s := sighting{name: troubleBackup, instance: in.cfg.ID, after: limit, err: fmt.Errorf("it has had none for longer than %s", limit)}
	content, err := a.journal.Content(in.cfg.ID)
	if err != nil {
		return nil
	}
	if content.Backup != "" {
		s.age, s.dated = max(0, time.Since(content.Created)), true
		s.err = fmt.Errorf("the last one is %s, of %s", content.Backup, content.Created.UTC().Format("2006-01-02 15:04:05Z"))
		if s.age < limit {
			return nil
		}
		return []sighting{s}
	}
	// Since when an instance without any backup is here is not known,
	// so it counts from when this agent saw it first.
	if err := a.restored(ctx, in); err != nil {
		return nil
	}
	s.err = errors.New("this host knows of none")
	return []sighting{s}
}

// roomFor finds that the free room where the volumes
// of an instance go is less than its last backup.
func (a *Agent) roomFor(ctx context.Context, in *instance, bytes uint64) []sighting {
	free, err := ask(ctx, &a.patience, filepath.Dir(in.cfg.Volumes[0].Path), "looking at the room for "+in.cfg.ID, askTime, func(context.Context) (uint64, error) {
		places := map[unix.Fsid]uint64{}
		for _, v := range in.cfg.Volumes {
			var fs unix.Statfs_t
			if err := unix.Statfs(filepath.Dir(v.Path), &fs); err != nil {
				return 0, err
			}
			places[fs.Fsid] = fs.Bavail * uint64(fs.Bsize)
		}
		sum := uint64(0)
		for _, n := range places {
			sum += n
		}
		return sum, nil
	})
	if err != nil || free >= bytes {
		return nil
	}
	return []sighting{{name: troubleRoom, instance: in.cfg.ID, err: fmt.Errorf("its last backup has %d bytes, %d are free", bytes, free)}}
}
