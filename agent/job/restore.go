package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/internal/crashpoint"
)

// Place is where a volume belongs on this host, and where its tree
// is built before it gets there, by one rename.
type Place struct {
	Volume string `json:"volume"` // its name
	Target string `json:"target"`
	Stage  string `json:"stage"` // beside Target
	// tells the folder that held both when the restore was planned; opaque here
	Holder string `json:"holder,omitempty"`
	// tells the restored tree from others; empty until it is complete
	Tree string `json:"tree,omitempty"`
	// Old tells the tree that the restored one has replaced; empty until that is known,
	// and where nothing was. It is kept at Aside, or removed where that is empty.
	Old   string `json:"old,omitempty"`
	Aside string `json:"aside,omitempty"`
	// Empty says that Old was an empty folder, and is removed only while it still is.
	Empty bool `json:"empty,omitempty"`
	// Was are the figures of the content at Target when the restore was decided, where
	// a backup holds that for certain; else zero.
	Was Count `json:"was,omitzero"`
}

// Restore is the record of a restore's work.
type Restore struct {
	Backup  string    `json:"backup_id,omitempty"`
	Seq     uint64    `json:"sequence,omitempty"` // of the backup
	Created time.Time `json:"created,omitzero"`   // of the backup
	Vault   string    `json:"vault,omitempty"`    // its id
	Places  []Place   `json:"places,omitempty"`
	Placed  bool      `json:"placed,omitempty"` // all are in place, and stay there
	Ready   bool      `json:"ready,omitempty"`  // nothing had to be restored
	// Certain and Warning are as in Decision.
	Certain  bool           `json:"certain,omitempty"`
	Warning  string         `json:"warning,omitempty"`
	Result   *RestoreResult `json:"result,omitempty"`
	Replaced *Replaced      `json:"replaced,omitempty"` // once all are in place, and something was there
	// Out are the old volumes that are removed before the restore, for lack of room, and
	// Condemned says that all are out of their places and that nothing brings them back.
	// Known is the journal's knowledge of the content that a put-back brings back; nil for others.
	Known     *Content `json:"known,omitempty"`
	Out       []Place  `json:"out,omitempty"`
	Condemned bool     `json:"condemned,omitempty"`
}

// RestoreResult describes a finished restore, by the engine.
type RestoreResult struct {
	Files        uint64 `json:"files"`
	Bytes        uint64 `json:"bytes"` // of content written
	BytesFetched uint64 `json:"bytes_fetched"`
	Warnings     int    `json:"warnings"` // differences from the backed-up state
	// Parent is the backup from which the restored one came; "" where it has none.
	Parent string `json:"parent,omitempty"`
	// Catalogues has, by volume, the id of the engine's
	// catalogue of the tree that it made; see Base.
	Catalogues map[string]string `json:"catalogues,omitempty"`
	// Roots identifies, by volume, the trees that the engine made; all of them bear their mark
	// unless Root.Marked says otherwise.
	Roots map[string]Root `json:"roots,omitempty"`
}

// RestoreRequest is the work of the engine for one restore.
type RestoreRequest struct {
	Instance, Tenant string
	Backup           string
	// Seq and Vault belong to the backup.
	Seq    uint64
	Vault  string
	Places []Place
	// Progress takes figures as they grow; it may be called from any goroutine.
	Progress func(Progress)
}

// ErrNoBackup says that the vault has no backup of an instance.
var ErrNoBackup = errors.New("the vault has no backup of this instance")

// Restorer brings the volumes of instances back. Its methods may be called from any goroutine.
type Restorer interface {
	Keeper
	// Look tells the state of each volume, in the order of the configuration. known is the backup
	// that the journal has of them. It changes nothing.
	Look(ctx context.Context, instance, tenant string, known Content) ([]VolumeFacts, error)
	// Newest names the newest backup; ErrNoBackup.
	Newest(ctx context.Context, instance, tenant string) (Content, error)
	// Mark puts the mark of the backup of a job on each folder or file that was backed up, at the
	// path that the journal has, and tells which volumes bear it. With an error the other ones do
	// not. Another folder that lies at the path by now gets no mark.
	Mark(ctx context.Context, j *Job, c Content) (marked map[string]bool, err error)
	// Backup names the backup of that id; ErrNoBackup.
	Backup(ctx context.Context, instance, tenant, id string) (Content, error)
	// Plan names the places of all volumes and changes nothing. An
	// error says why one can't be restored to its place.
	Plan(ctx context.Context, instance, job string) ([]Place, error)
	// Restore builds the tree of each place at its stage. It returns nil when all are
	// complete and durable, and the places then with Tree. When ctx ends it returns
	// soon, with nothing running. Discard removes the remains of a failed Restore.
	Restore(ctx context.Context, r RestoreRequest) (*RestoreResult, []Place, error)
	// Placed tells whether the restored tree is in its place.
	Placed(p Place) (bool, error)
	// Put puts it there, in one step; the old content
	// is at the stage then. Done twice it is no error.
	Put(p Place) error
	// Back undoes Put, in one step. Done twice it is no error.
	Back(p Place) error
	// Discard removes the content of the stage, and the remains of an interrupted Restore:
	// the tree Old where that is known, else Tree where that is. Nothing there is no error.
	Discard(p Place) error
}

// toRestore gathers the facts on which a restore rests, and does what Decide says.
func (w *worker) toRestore(ctx context.Context, j *Job) (State, change, error) {
	if j.PutBack != "" {
		return w.toPutBack(ctx, j)
	}
	restorer := w.m.parts.Restorer
	if restorer == nil {
		return "", change{}, errors.New("this agent does not restore")
	}
	// as it is configured now: the job may have waited over a restart
	instance, err := w.ofTenant(j)
	if err != nil {
		return "", change{}, fmt.Errorf("look for the instance: %w", err)
	}
	f, err := w.facts(ctx, j, instance)
	if err != nil {
		return "", change{}, err
	}
	d := Decide(f)
	r := &Restore{Backup: f.Newest.Backup, Seq: f.Newest.Seq, Created: f.Newest.Created, Vault: f.Newest.Vault, Certain: d.Certain, Warning: d.Warning}
	switch d.Action {
	case ActReady:
		next := Done
		if r.Ready = true; f.Found == IsRunning {
			r = &Restore{Ready: true, Warning: d.Warning}
		} else if r.Placed = true; f.Start && f.Holds {
			next = Starting
		}
		if err := w.claim(ctx, j, f, r); err != nil {
			return "", change{}, err
		}
		return next, change{edit: func(j *Job) { j.Found, j.Restore, j.Kept = f.Found, r, instance.Keep }}, nil
	case ActRestore:
		if r.Places, err = restorer.Plan(ctx, j.Instance, j.ID); err != nil {
			return "", change{}, fmt.Errorf("find the volumes' places: %w", err)
		}
		if err := w.planReplacing(ctx, j, instance, r); err != nil {
			return "", change{}, err
		}
		if err := w.claim(ctx, j, f, r); err != nil {
			return "", change{}, err
		}
		return Restoring, change{edit: func(j *Job) { j.Found, j.Restore, j.Kept = f.Found, r, instance.Keep }}, nil
	}
	return "", change{}, d.Err
}

// askVault is for how long the vault is asked about an instance that is not going to be restored.
const askVault = 10 * time.Second

// facts looks at the instance, its volumes, the journal and the vault. An instance that runs and
// has all of its volumes is ready, whether the store answers or not.
func (w *worker) facts(ctx context.Context, j *Job, instance Instance) (f Facts, err error) {
	restorer := w.m.parts.Restorer
	f = Facts{Holds: instance.Holds, Start: w.m.opts.StartRestored}
	if f.Found, err = w.user(ctx, j, instance); err != nil {
		return f, fmt.Errorf("look at the instance: %w", err)
	}
	if f.Known, err = w.m.journal.Content(j.Instance); err != nil {
		return f, fmt.Errorf("read the journal: %w", err)
	}
	if f.Volumes, err = restorer.Look(ctx, j.Instance, j.Tenant, f.Known); err != nil {
		return f, fmt.Errorf("look at the volumes: %w", err)
	}
	if f.Found == IsRunning {
		// The vault only adds a warning to a decision that is clear already.
		short, cancel := context.WithTimeout(ctx, askVault)
		defer cancel()
		ctx = short
	}
	return f, w.backupToRestore(ctx, j, &f)
}

// relate compares by sequence numbers.
func relate(known, newest Content) Relation {
	switch {
	case known.Backup == "" || newest.Backup == "":
		return RelationNone
	case known.Backup == newest.Backup:
		return RelationSame
	case newest.Seq < known.Seq:
		return RelationBehind
	case newest.Seq == known.Seq:
		return RelationFork
	}
	return RelationAhead
}

// restore builds the volumes beside their places. A crash leaves
// folders that the journal names; the next life begins anew.
func (w *worker) restore(ctx context.Context, j *Job) error {
	restorer := w.m.parts.Restorer
	err := context.Cause(ctx)
	for _, p := range j.Restore.Places {
		for err == nil {
			if err = w.clearStage(j, p); !errors.Is(err, ErrNoAnswer) {
				break
			}
			err = sleep(ctx, firstPause) // a tree takes the time that it takes
		}
	}
	if err == nil {
		err = w.makeRoom(ctx, j)
	}
	if errors.Is(err, errCancelled) {
		return w.fail(j, errCancelled.Error())
	}
	var result *RestoreResult
	var places []Place
	if err == nil {
		err = w.act(crashpoint.Restore, func() error {
			result, places, err = restorer.Restore(ctx, RestoreRequest{
				Instance: j.Instance, Tenant: j.Tenant, Backup: j.Restore.Backup, Seq: j.Restore.Seq, Vault: j.Restore.Vault, Places: j.Restore.Places,
				Progress: func(p Progress) { w.progressed(j, p) },
			})
			return err
		})
	}
	if err == nil && slices.ContainsFunc(places, func(p Place) bool { return p.Tree == "" }) {
		err = errors.New("the restore engine did not say which trees it made")
	}
	if err != nil {
		return w.giveUp(ctx, j, "restore", j.Restore.without(err))
	}
	planned := w.planRestored(ctx, j, places, result)
	err = w.writeChecked(j, Placing, notCancelled, change{edit: func(j *Job) {
		j.Restore.Places, j.Restore.Result, j.Snapshots = places, result, planned
	}})
	if errors.Is(err, errCancelled) {
		return w.fail(j, errCancelled.Error())
	}
	return err
}

// putInPlace makes the base snapshots, and puts all volumes into their places. A crash
// may leave some of them in place; the next life goes on. After an error it takes the
// placed volumes out again, so that an instance never has volumes of two times.
func (w *worker) putInPlace(hard context.Context, j *Job) error {
	placed, err := w.countPlaced(j)
	var bases []Base
	if err == nil {
		ctx, cancel := acting(hard, actTimeout)
		bases = w.baseRestored(ctx, j, placed)
		cancel()
	}
	ctx, cancel := acting(hard, actTimeout) // however long the bases took
	defer cancel()
	if err == nil && placed < len(j.Restore.Places) {
		if err = w.mayMove(ctx, j); err == nil {
			err = w.nothingAppeared(ctx, j)
		}
	}
	for _, p := range j.Restore.Places {
		if err == nil {
			w.noteOld(j, p)
			err = w.act(crashpoint.Place, func() error { return w.m.parts.Restorer.Put(p) })
		}
	}
	if err != nil {
		return w.undo(j, "put the restored volumes into place", j.Restore.without(err))
	}
	counting, end := acting(hard, actTimeout)
	defer end()
	places, sum, kept, err := w.replaced(counting, j)
	if err != nil {
		return w.undo(j, "look at the content that the restored volumes have replaced", err)
	}
	var unkept []byte
	if j.PutBack != "" {
		unkept = asideKey(j.Instance, j.PutBack)
	}
	return w.write(j, Restored, change{
		edit: func(j *Job) {
			j.Restore.Placed, j.Restore.Places, j.Restore.Replaced, j.Snapshots = true, places, sum, nil
		}, bases: bases,
		kept: kept, unkept: unkept,
		dropBases: true, // bases of the old volumes say nothing about these volumes
	})
}

// countPlaced tells how many volumes are in their places.
func (w *worker) countPlaced(j *Job) (n int, err error) {
	for _, p := range j.Restore.Places {
		in, err := w.m.parts.Restorer.Placed(p)
		if err != nil {
			return 0, err
		}
		if in {
			n++
		}
	}
	return n, nil
}

// mayMove is nil when the instance does not run, so that its volumes
// can be exchanged: neither the instance with which the restore began,
// nor the instance that the configuration has under that id now.
func (w *worker) mayMove(ctx context.Context, j *Job) error {
	instance, err := w.instance(j)
	if err != nil {
		return err
	}
	all := []Instance{instance}
	if now, err := w.m.parts.Instance(j.Instance); err == nil && !bytes.Equal(now.Keep, instance.Keep) {
		all = append(all, now)
	}
	for _, instance := range all {
		state, err := w.user(ctx, j, instance)
		if err != nil {
			return fmt.Errorf("look at the instance: %w", err)
		}
		if state == IsRunning || state == IsFrozen {
			return fmt.Errorf("the instance is %s, although it was %s when the restore began: stop it", state, j.Found)
		}
	}
	return nil
}

// settle removes the content that the restored volumes have replaced, or keeps it.
func (w *worker) settle(j *Job) error {
	left, _ := w.discard(j) // the journal identifies all trees of a restore in place
	instance, err := w.instance(j)
	if err != nil {
		return w.write(j, Failing, change{left: left, edit: func(j *Job) { j.Cause = fmt.Sprintf("look for the instance: %v", err) }})
	}
	if w.m.opts.StartRestored && instance.Holds {
		return w.write(j, Starting, change{left: left})
	}
	return w.write(j, Done, change{left: left, emit: w.m.event(EventRestoreCompleted)})
}

// startTries is how often a start is tried: an engine that is just coming up gets some
// seconds; what keeps failing is for a person to look at, and the volumes are in place.
const startTries = 3

// start starts a restored instance and looks that it runs.
func (w *worker) start(hard context.Context, j *Job) error {
	var err error
	for try := range startTries {
		if try > 0 && sleep(hard, firstPause<<try) != nil {
			return errLeave
		}
		ctx, cancel := acting(hard, actTimeout)
		err = w.startOnce(ctx, j)
		cancel()
		if err == nil {
			return w.write(j, Done, change{emit: w.m.event(EventRestoreCompleted)})
		}
		w.m.parts.Observer.Trouble(j.Instance, j.ID, "start the restored instance", err)
	}
	return w.fail(j, fmt.Sprintf("the volumes are restored and in place, but the instance could not be started: %v", err))
}

func (w *worker) startOnce(ctx context.Context, j *Job) error {
	instance, err := w.instance(j)
	if err != nil {
		return err
	}
	if err := w.act(crashpoint.Start, func() error { return instance.Runtime.Start(ctx) }); err != nil {
		return err
	}
	sight, err := instance.Runtime.State(ctx)
	if err != nil {
		return fmt.Errorf("look at the instance after the start: %w", err)
	}
	state := sight.State
	if state != IsRunning && state != IsUnknown {
		return fmt.Errorf("it is %s after the start", state)
	}
	return nil
}

// undoRestore brings the old volumes back after a restore that failed or is put off.
// Volumes that are in place for good stay. All of it can be done again after a crash.
func (w *worker) undoRestore(ctx context.Context, j *Job) error {
	if j.Restore == nil || j.Restore.Placed {
		return nil
	}
	if len(j.Restore.Out) > 0 && !j.Restore.Condemned {
		return w.bringBack(j) // nothing was built yet
	}
	placed, err := w.countPlaced(j)
	if err != nil {
		return err
	}
	if placed > 0 {
		if err := w.mayMove(ctx, j); err != nil {
			return err
		}
		for _, p := range slices.Backward(j.Restore.Places) {
			if err := w.act(crashpoint.PutBack, func() error { return w.m.parts.Restorer.Back(p) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// Content returns which backup the instance's volumes on this host
// come from; zero when none is known.
func (jr *Journal) Content(instance string) (c Content, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketContent, []byte(instance), &c)
		return err
	})
	return c, err
}

// KnownIn returns an instance of which a backup in the vault of that id was
// made or restored here, and the last such backup; "" when there is none.
func (jr *Journal) KnownIn(vault string) (instance string, c Content, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketContent).ForEach(func(k, v []byte) error {
			var one Content
			if err := json.Unmarshal(v, &one); err != nil {
				return fmt.Errorf("journal: decode content of %q: %w", k, err)
			}
			if instance == "" && one.Vault == vault {
				instance, c = string(k), one
			}
			return nil
		})
	})
	return instance, c, err
}

// Ended returns the last job of the instance that is over, of
// either kind and however it ended; nil when there is none.
func (jr *Journal) Ended(instance string) (last *Job, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		id := tx.Bucket(bucketEnded).Get([]byte(instance))
		if id == nil {
			return nil
		}
		last, err = getJob(tx, string(id))
		return err
	})
	return last, err
}
