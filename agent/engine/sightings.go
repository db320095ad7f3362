package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/agent/observe"
	"holdfast/internal/restore"
)

// sightRecords are the records of the journal that tell how an instance without a job is.
type sightRecords interface {
	ByInstance(instance string) (active, latest *model.Job, err error)
	Ended(instance string) (*model.Job, error)
	Content(instance string) (model.Content, error)
}

// keptRecords tell which replaced content is kept, and for how long.
type keptRecords interface {
	Kept() ([]model.Aside, error)
	KeptFor(*model.Aside) (age time.Duration, over bool)
	StrayKept() []string
}

// Sightings finds the troubles of instances. It is for any goroutine.
type Sightings struct {
	patience     *patience
	instances    *Instances
	volumes      *Volumes
	journal      sightRecords
	aside        keptRecords
	claimed      *claimedBy
	backupAge    time.Duration   // limits.backup_age
	keepReplaced time.Duration   // prepare.keep_replaced
	reserve      restore.Reserve // see reserveOf
}

// Disks finds the troubles that only the disks tell. A volume that
// hangs delays the facts about the others, and nothing else.
func (s *Sightings) Disks(ctx context.Context) (found []observe.Sighting) {
	for _, in := range s.instances.All() {
		found = append(found, s.sightOfInstance(ctx, in)...)
	}
	return append(found, s.sightOfKept(ctx)...)
}

// sightOfInstance finds the troubles of an instance that has no job now.
func (s *Sightings) sightOfInstance(ctx context.Context, in *Instance) (found []observe.Sighting) {
	id := in.cfg.ID
	active, latest, err := s.journal.ByInstance(id)
	if err != nil || active != nil {
		return nil
	}
	last, err := s.journal.Ended(id)
	if err != nil {
		return nil
	}
	if last != nil && last.State == model.Failed && !last.CancelAsked {
		found = append(found, observe.Sighting{
			Name: observe.TroubleJob, Instance: id, Job: last.ID, Age: max(0, time.Since(last.Entered[model.Failed])), Dated: true,
			Err: fmt.Errorf("%s: %s", observe.Kind(last), last.Cause),
		})
	}
	if err := observe.ForkTrouble(latest); err != nil {
		found = append(found, observe.Sighting{
			Name: observe.TroubleFork, Instance: id, Job: latest.ID, Age: max(0, time.Since(latest.Entered[model.Stored])), Dated: true, Err: err,
		})
	}
	if last != nil && last.State == model.Done && !last.Entered[model.Released].IsZero() {
		if latest != nil && latest.Result != nil {
			found = append(found, s.roomFor(ctx, in, latest.Result.Bytes)...)
		}
		return found // its data belongs to another host
	}
	return append(found, s.ageOfBackup(ctx, in)...)
}

// ageOfBackup finds an instance of which the last backup is too old.
func (s *Sightings) ageOfBackup(ctx context.Context, in *Instance) []observe.Sighting {
	limit := s.backupAge
	if limit <= 0 {
		return nil
	}
	old := observe.Sighting{Name: observe.TroubleBackup, Instance: in.cfg.ID, After: limit, Err: fmt.Errorf("it has had none for longer than %s", limit)}
	content, err := s.journal.Content(in.cfg.ID)
	if err != nil {
		return nil
	}
	if content.Backup != "" {
		old.Age, old.Dated = max(0, time.Since(content.Created)), true
		old.Err = fmt.Errorf("the last one is %s, of %s", content.Backup, content.Created.UTC().Format("2006-01-02 15:04:05Z"))
		if old.Age < limit {
			return nil
		}
		return []observe.Sighting{old}
	}
	// Since when an instance without any backup is here is not known,
	// so it counts from when this agent saw it first.
	if err := s.volumes.Restored(ctx, in); err != nil {
		return nil
	}
	old.Err = errors.New("this host knows of none")
	return []observe.Sighting{old}
}

// roomFor finds that the free room where the volumes
// of an instance go is less than its last backup.
func (s *Sightings) roomFor(ctx context.Context, in *Instance, bytes uint64) []observe.Sighting {
	free, err := ask(ctx, s.patience, filepath.Dir(in.cfg.Volumes[0].Path), "looking at the room for "+in.cfg.ID, askTime, func(context.Context) (uint64, error) {
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
	return []observe.Sighting{{Name: observe.TroubleRoom, Instance: in.cfg.ID, Err: fmt.Errorf("its last backup has %d bytes, %d are free", bytes, free)}}
}

// keptLate is how much longer than it should something may be kept in good order.
const keptLate = time.Hour

// sightOfKept finds kept content that makes trouble, or that lies on a disk that is short of room.
func (s *Sightings) sightOfKept(ctx context.Context) (found []observe.Sighting) {
	all, err := s.aside.Kept()
	if err != nil {
		return nil // the journal is closed
	}
	for _, path := range s.aside.StrayKept() {
		found = append(found, observe.Sighting{
			Name: observe.TroubleKept, What: path,
			Err: errors.New("it has the name of kept content, and nothing tells whose content it is: look at it, and rename or remove it by hand"),
		})
	}
	looked := map[string]bool{}
	for _, k := range all {
		age, _ := s.aside.KeptFor(&k)
		late := age > s.keepReplaced+keptLate
		switch {
		case k.Error != "":
			found = append(found, observe.Sighting{Name: observe.TroubleKept, Instance: k.Instance, Job: k.Job, Err: errors.New(k.Error)})
		case late:
			found = append(found, observe.Sighting{Name: observe.TroubleKept, Instance: k.Instance, Job: k.Job, Err: fmt.Errorf("it is kept for %s, and should be for %s", observe.Roughly(age), s.keepReplaced)})
		}
		for _, v := range k.Volumes {
			folder := filepath.Dir(v.Place.Target)
			if looked[folder] {
				continue
			}
			looked[folder] = true
			_, err := ask(ctx, s.patience, folder, "looking at the room", askTime, func(context.Context) (struct{}, error) {
				return struct{}{}, restore.Short(folder, s.reserve)
			})
			if errors.Is(err, restore.ErrRoom) {
				found = append(found, observe.Sighting{Name: observe.TroubleKeptRoom, Instance: k.Instance, What: folder, Err: err})
			}
		}
	}
	return found
}

// Claims finds the instances whose content is here and that other hosts have claimed.
func (s *Sightings) Claims() (found []observe.Sighting) {
	for id, err := range s.claimed.now() {
		found = append(found, observe.Sighting{Name: observe.TroubleClaim, Instance: id, Err: err})
	}
	return found
}

// KeptFigures are the figures of the metrics.
func (s *Sightings) KeptFigures() (f metrics.KeptFigures) {
	all, err := s.aside.Kept()
	if err != nil {
		return f // the journal is closed
	}
	for _, k := range all {
		age, _ := s.aside.KeptFor(&k)
		f.Count, f.Bytes, f.Oldest = f.Count+1, f.Bytes+k.Replaced.Bytes, max(f.Oldest, age)
	}
	return f
}
