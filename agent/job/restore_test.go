package job_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
)

// fakeRestorer restores the last count of an instance's backups. A
// volume's content is a count, and its identity is where it came from.
type fakeRestorer struct{ l *life }

// catalogueOf is the engine's catalogue of a tree that it restored.
func catalogueOf(tree string) string { return "catalogue of " + tree }

// disk is the content at a path.
type disk struct {
	tree  string
	count int
	empty bool // an empty folder
}

func (r fakeRestorer) target(instance, volume string) string { return "/" + instance + "/" + volume }

func (r fakeRestorer) Look(_ context.Context, instance, _ string, known model.Content) ([]prepare.VolumeFacts, error) {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	var all []prepare.VolumeFacts
	for _, v := range volumeNames {
		all = append(all, r.l.w.look(r.target(instance, v), v, known))
	}
	return all, nil
}

// Mark puts the mark of a backup on the content at the places of an instance's volumes.
func (r fakeRestorer) Mark(_ context.Context, of *model.Job, c model.Content) (map[string]bool, error) {
	r.l.alive()
	instance := of.Instance
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if j := r.l.record(instance); j.State != model.Stored || j.Result.BackupID != c.Backup {
		w.fault("journal-first: %s is marked with %s while the journal says %s", instance, c.Backup, j.State)
	}
	if err := w.failing("mark", instance); err != nil {
		return nil, err
	}
	return w.bear(instance, c), nil
}

func (r fakeRestorer) Backup(_ context.Context, instance, _, id string) (model.Content, error) {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	for i, n := range r.l.w.backups[instance] {
		if fmt.Sprint("b", n) == id {
			return model.Content{Backup: id, Seq: uint64(i + 1)}, nil
		}
	}
	return model.Content{}, model.ErrNoBackup
}

func (r fakeRestorer) Newest(_ context.Context, instance, _ string) (model.Content, error) {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	b := r.l.w.backups[instance]
	if len(b) == 0 {
		return model.Content{}, model.ErrNoBackup
	}
	// The clocks of the hosts that made them run backwards: nothing may depend on them.
	return model.Content{Backup: fmt.Sprint("b", b[len(b)-1]), Seq: uint64(len(b)), Created: time.Unix(int64(1e6-len(b)), 0).UTC()}, nil
}

func (r fakeRestorer) Plan(_ context.Context, instance, id string) ([]model.Place, error) {
	var places []model.Place
	for _, v := range []string{"data", "media"} {
		places = append(places, model.Place{Volume: v, Target: r.target(instance, v), Stage: r.target(instance, ".stage-"+v+"-"+id)})
	}
	return places, nil
}

func (r fakeRestorer) Restore(ctx context.Context, q job.RestoreRequest) (*model.RestoreResult, []model.Place, error) {
	places := slices.Clone(q.Places)
	for i := range places {
		p := &places[i]
		r.l.alive()
		w := r.l.w
		w.mu.Lock()
		if j := r.l.record(q.Instance); j.State != model.Restoring || !slices.Contains(j.Restore.Places, q.Places[i]) {
			w.fault("journal-first: restore to %s while the journal says %s", p.Stage, j.State)
		}
		if _, there := w.disks[p.Stage]; there {
			w.fault("%s is there before its restore", p.Stage)
		}
		w.disks[p.Stage] = disk{tree: "in parts"}
		w.mu.Unlock()
		q.Progress(model.Progress{BytesRestored: uint64(i), BytesTotal: 2})
		if w.restore != nil {
			if err := w.restore(ctx, i); err != nil {
				return nil, nil, err
			}
		}
		r.l.alive()
		w.mu.Lock()
		var count int
		if _, err := fmt.Sscanf(q.Backup, "b%d", &count); err != nil {
			w.fault("restore of %q", q.Backup)
		}
		p.Tree = "tree of " + p.Stage
		w.disks[p.Stage] = disk{tree: p.Tree, count: count}
		w.bears[p.Tree] = bearing{model.Content{Backup: q.Backup, Seq: q.Seq}, count}
		w.mu.Unlock()
	}
	catalogues := map[string]string{}
	for _, p := range places {
		catalogues[p.Volume] = catalogueOf(p.Tree)
	}
	return &model.RestoreResult{Files: 1, Bytes: 2, Catalogues: catalogues}, places, nil
}

func (r fakeRestorer) Placed(p model.Place) (bool, error) {
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	return p.Tree != "" && r.l.w.disks[p.Target].tree == p.Tree, nil
}

// move exchanges the content of the stage and of the target. The lock is held.
func (r fakeRestorer) move(p model.Place, allowed ...model.State) {
	w := r.l.w
	instance := strings.Split(p.Target, "/")[1]
	if j := r.l.record(instance); !slices.Contains(allowed, j.State) {
		w.fault("journal-first: %s is moved while the journal says %s", p.Target, j.State)
	}
	// An instance with another name than the configured
	// one only the journal knows, if it ever held it.
	if u := w.instances[instance]; (u.state == model.IsRunning || u.state == model.IsFrozen) && !u.renamed {
		s := u.state
		w.fault("%s is moved while the instance is %s", p.Target, s)
	}
	at, had := w.disks[p.Stage], w.disks[p.Target]
	if slices.Contains(allowed, model.Placing) && r.l.record(instance).PutBack == "" { // a put-back keeps the replaced content in turn
		w.replaced(instance, p.Target, had)
	}
	delete(w.disks, p.Stage)
	delete(w.disks, p.Target)
	if at.tree != "" {
		w.disks[p.Target] = at
	}
	if had.tree != "" {
		w.disks[p.Stage] = had
	}
}

func (r fakeRestorer) Put(p model.Place) error {
	r.l.alive()
	if in, _ := r.Placed(p); in {
		return nil
	}
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if r.l.w.stuck == p.Volume {
		return errors.New("device or resource busy")
	}
	r.move(p, model.Placing)
	return nil
}

func (r fakeRestorer) Back(p model.Place) error {
	r.l.alive()
	if in, _ := r.Placed(p); !in {
		return nil
	}
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	r.move(p, model.Failing)
	return nil
}

func (r fakeRestorer) Discard(p model.Place) error {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if tree, n, has := r.noted(p, p.Stage); has && p.Old != "" && !p.Empty && !n.Removing && w.failing("kept-note", p.Volume) == nil {
		w.fault("the removal of %s begins, and the note on it does not say so: %+v", tree, n)
	}
	if err := w.failing("discard", ""); err != nil {
		return err
	}
	if at, there := w.disks[p.Stage]; there {
		if want := cmp.Or(p.Old, p.Tree); want != "" && at.tree != want {
			return errors.New("it is another tree than the one that was to be removed")
		}
		if p.Empty && !at.empty {
			return errors.New("it is not empty any more")
		}
	}
	r.destroyed(p)
	if s, named := r.kept(p.Old); named && p.Old != "" {
		if !s.Removing {
			w.fault("journal-first: %s is kept, and is removed", p.Stage)
		}
		delete(w.disks, p.Stage)
		return nil
	}
	left, _ := r.l.m.Leftovers()
	known := slices.ContainsFunc(left, func(l model.Leftover) bool { return l.Path() == p.Stage })
	if j := r.l.record(strings.Split(p.Target, "/")[1]); !known && !slices.Contains([]model.State{model.Restoring, model.Restored, model.Failing, model.Suspending}, j.State) {
		w.fault("journal-first: %s is removed while the journal says %s", p.Stage, j.State)
	}
	delete(w.disks, p.Stage)
	return nil
}

// restoreWay is one course of a restore: the volumes before, the events, and the end.
type restoreWay struct {
	name    string
	opts    job.Options
	prepare func(w *world)
	drive   func(l *life, id string)
	again   func(w *world)
	end     model.State
	cause   string // part of it
	kept    int    // the count that is kept aside of both volumes; 0: nothing is
	count   int    // that both volumes hold at the end; 0: they are not there
	runs    bool
	bases   int // that are left
	// the placed volumes are written to before the second life; each write adds 100 to the count
	written bool
	lacks   string // the part that it went on without
}

// had puts volumes on the host.
func had(count int) func(w *world) {
	return func(w *world) {
		for _, v := range []string{"data", "media"} {
			w.disks["/phone/"+v] = disk{tree: "old " + v, count: count}
		}
	}
}

var restoreWays = []restoreWay{
	{name: "to an empty host", end: model.Done, count: 7},
	{name: "over what was there, and started", end: model.Done, count: 7, kept: 3, runs: true, prepare: had(3), opts: job.Options{StartRestored: true}},
	{
		name: "with bases, over what was there, and started", end: model.Done, count: 7, kept: 3, runs: true, prepare: had(3), bases: 2,
		opts: job.Options{StartRestored: true, Bases: job.Bases{Keep: true}},
	},
	{
		name: "with bases, and written to at once", end: model.Done, count: 7, bases: 2, written: true,
		opts: job.Options{Bases: job.Bases{Keep: true}}, again: func(w *world) {
			for path, d := range w.disks {
				if strings.HasPrefix(d.tree, "tree of") && !strings.Contains(path, ".stage-") {
					w.disks[path] = disk{tree: d.tree, count: d.count + 100}
				}
			}
		},
	},
	{
		name: "with bases, of which none can be made", end: model.Done, count: 7, lacks: `make the base snapshot of volume "data": no room`,
		opts: job.Options{Bases: job.Bases{Keep: true}},
		prepare: func(w *world) {
			w.fail = func(act, _ string) error {
				if act == "snapshot" {
					return errors.New("no room")
				}
				return nil
			}
		},
	},
	{
		name: "with bases, of which one can't be planned", end: model.Done, count: 7, bases: 1, lacks: "the storage of media is out of order",
		opts: job.Options{Bases: job.Bases{Keep: true}}, prepare: func(w *world) { w.instances["phone"].pinned = true },
	},
	{
		name: "with bases, and a volume can't be put into place", end: model.Failed, cause: "device or resource busy", count: 3,
		opts: job.Options{Bases: job.Bases{Keep: true}}, prepare: func(w *world) { had(3)(w); w.stuck = "media" },
	},
	{
		name: "a volume can't be put into place", end: model.Failed, cause: "device or resource busy", count: 3,
		prepare: func(w *world) { had(3)(w); w.stuck = "media" },
	},
	{
		name: "the store fails in the middle", end: model.Failed, cause: "no such pack", count: 3,
		prepare: func(w *world) {
			had(3)(w)
			w.restore = func(_ context.Context, volume int) error {
				if volume == 1 {
					return errors.New("no such pack")
				}
				return nil
			}
		},
	},
	{
		name: "put off by a shutdown", end: model.Done, count: 7,
		prepare: func(w *world) {
			w.restore = func(ctx context.Context, _ int) error { <-ctx.Done(); return context.Cause(ctx) }
		},
		drive: func(l *life, id string) { l.until(id, model.Restoring); l.cancel(); <-l.ended },
		again: func(w *world) { w.restore = nil },
	},
	{name: "no backup", end: model.Failed, cause: "the vault has no backup", count: 3, prepare: func(w *world) { had(3)(w); w.backups = map[string][]int{} }},
}

// runRestoreWay is runWay for a restore.
func runRestoreWay(t *testing.T, way restoreWay, crashAt int) []string {
	var points []string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5, 7}
		if way.prepare != nil {
			way.prepare(w)
		}
		l := w.start(crashAt, way.opts)
		task, err := l.prepare("request-1", "phone")
		if err != nil {
			t.Fatal(err)
		}
		if task != nil {
			if way.drive != nil {
				way.drive(l, task.Jobs[0].Job)
			} else {
				l.final(task.Jobs[0].Job)
			}
		}
		l.stop()
		points = slices.Clone(l.points)
		if crashAt < 0 && len(w.snaps) != way.bases {
			t.Errorf("a life without a death leaves %v", w.snaps)
		}
		if way.again != nil {
			way.again(w)
		}
		l = w.start(-1, way.opts)
		again, err := l.prepare("request-1", "phone")
		if err != nil {
			t.Fatal(err)
		}
		if task != nil && again.ID != task.ID {
			t.Errorf("same-command-once: task %s, then %s", task.ID, again.ID)
		}
		j := l.final(again.Jobs[0].Job)
		time.Sleep(5 * time.Second) // the last events go out
		bases, err := l.j.Bases("")
		if err != nil {
			t.Fatal(err)
		}
		l.stop()

		for _, f := range w.faults {
			t.Error(f)
		}
		for _, b := range bases {
			if count := w.snaps[b.Ref.Path]; count != way.count || b.Catalogue != w.made[b.Ref.Path] || b.Backup != "b7" {
				t.Errorf("base %+v holds %d, and is of %s", b, count, w.made[b.Ref.Path])
			}
			delete(w.snaps, b.Ref.Path)
		}
		if len(bases) != way.bases || len(w.snaps) > 0 {
			t.Errorf("left: bases %v, other snapshots %v", bases, w.snaps)
		}
		if lacked := strings.Join(w.lacked, "\n"); !strings.Contains(lacked, way.lacks) || way.lacks == "" && lacked != "" {
			t.Errorf("went on without: %q", lacked)
		}
		if j.State != way.end || !strings.Contains(j.Cause, way.cause) {
			t.Errorf("ended %s (%s)", j.State, j.Cause)
		}
		want := map[string]int{}
		if way.count > 0 {
			want = map[string]int{"/phone/data": way.count, "/phone/media": way.count}
		}
		if way.kept > 0 {
			want["/phone/.holdfast-kept-"+j.ID+"-data"], want["/phone/.holdfast-kept-"+j.ID+"-media"] = way.kept, way.kept
		}
		for path, d := range w.disks {
			if way.written {
				d.count %= 100
			}
			if want[path] != d.count {
				t.Errorf("%s holds %d (%s)", path, d.count, d.tree)
			}
			delete(want, path)
		}
		if len(want) > 0 {
			t.Errorf("missing on the host: %v", want)
		}
		if runs := w.instances["phone"].state == model.IsRunning; runs != way.runs {
			t.Errorf("the instance is %s", w.instances["phone"].state)
		}
		checkRestoreEvents(t, w, j)
	})
	return points
}

func checkRestoreEvents(t *testing.T, w *world, j *model.Job) {
	t.Helper()
	var kinds []string
	var seq uint64
	for _, e := range w.events {
		if e.Seq == 0 || e.Seq == seq {
			continue // progress, or sent again after its answer was lost
		}
		if e.Seq < seq {
			t.Errorf("event %d after %d", e.Seq, seq)
		}
		seq = e.Seq
		kinds = append(kinds, strings.TrimPrefix(e.Type, "holdfast.restore."))
	}
	want := "started completed"
	switch {
	case j.State == model.Failed && j.Restore == nil:
		want = "failed" // before anything was done
	case j.State == model.Failed:
		want = "started failed"
	}
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

func (l *life) prepare(id string, instances ...string) (t *model.Task, err error) {
	return l.send(job.Request{Kind: model.KindRestore, ID: id, Digest: [32]byte{9}, Tenant: "acme", Instances: instances})
}

// What prepare finds decides whether anything is restored at all.
func TestRestoreDecision(t *testing.T) {
	for _, tt := range []struct {
		name  string
		opts  job.Options
		set   func(t *testing.T, w *world, l *life)
		state model.RuntimeState
		ready bool
		end   model.State
		cause string
		count int // of the volumes at the end
	}{
		{
			name: "it runs on volumes that nobody knows", state: model.IsRunning, end: model.Failed, cause: "nothing tells", count: 9,
			set: func(_ *testing.T, w *world, _ *life) { had(9)(w) },
		},
		{
			name: "it runs, and there is no backup", state: model.IsRunning, ready: true, end: model.Done, count: 9,
			set: func(_ *testing.T, w *world, _ *life) { had(9)(w); w.backups["phone"] = nil },
		},
		{
			name: "it runs on what was restored", state: model.IsRunning, ready: true, end: model.Done, count: 8,
			set: func(t *testing.T, w *world, l *life) {
				first, err := l.prepare("first", "phone")
				if err != nil || l.final(first.Jobs[0].Job).State != model.Done {
					t.Fatal(err)
				}
				wrote(w, 8)
			},
		},
		{name: "it runs without them", state: model.IsRunning, end: model.Failed, cause: "stop it"},
		{name: "frozen by someone else", state: model.IsFrozen, set: func(_ *testing.T, w *world, _ *life) { had(9)(w) }, end: model.Failed, cause: "not by this agent", count: 9},
		{name: "not known to be stopped, with content", state: model.IsUnknown, set: func(_ *testing.T, w *world, _ *life) { had(9)(w) }, end: model.Failed, cause: "can't tell", count: 9},
		{name: "not known to be stopped, empty", state: model.IsUnknown, end: model.Done, count: 7},
		{name: "missing", state: model.IsMissing, end: model.Done, count: 7},
		{name: "missing, and to be started", opts: job.Options{StartRestored: true}, state: model.IsMissing, end: model.Failed, cause: "does not know the instance"},
		{
			name: "stopped since its restore: what it wrote meanwhile stays", state: model.IsStopped, ready: true, end: model.Done, count: 8,
			set: func(t *testing.T, w *world, l *life) {
				first, err := l.prepare("first", "phone")
				if err != nil || l.final(first.Jobs[0].Job).State != model.Done {
					t.Fatal(err)
				}
				wrote(w, 8)
			},
		},
		{
			name: "a newer backup was made elsewhere", state: model.IsStopped, end: model.Done, count: 12,
			set: func(t *testing.T, w *world, l *life) {
				first, err := l.prepare("first", "phone")
				if err != nil || l.final(first.Jobs[0].Job).State != model.Done {
					t.Fatal(err)
				}
				w.backups["phone"] = append(w.backups["phone"], 12)
			},
		},
		{
			name: "the vault was rolled back", state: model.IsStopped, end: model.Failed, cause: "shows an older state", count: 7,
			set: func(t *testing.T, w *world, l *life) {
				first, err := l.prepare("first", "phone")
				if err != nil || l.final(first.Jobs[0].Job).State != model.Done {
					t.Fatal(err)
				}
				w.backups["phone"] = []int{5}
			},
		},
		{
			name: "another host made a backup at the same time", state: model.IsStopped, end: model.Failed, cause: "does not continue", count: 7,
			set: func(t *testing.T, w *world, l *life) {
				first, err := l.prepare("first", "phone")
				if err != nil || l.final(first.Jobs[0].Job).State != model.Done {
					t.Fatal(err)
				}
				w.backups["phone"] = []int{5, 12}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{5, 7}
				l := w.start(-1, tt.opts)
				if tt.set != nil {
					tt.set(t, w, l)
				}
				w.instances["phone"].state = tt.state
				task, err := l.prepare("request", "phone")
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				l.stop()
				ready := j.Restore != nil && j.Restore.Ready
				if j.State != tt.end || !strings.Contains(j.Cause, tt.cause) || ready != tt.ready {
					t.Errorf("%s (%s), ready %v", j.State, j.Cause, ready)
				}
				if c := w.disks["/phone/data"].count; c != tt.count {
					t.Errorf("the volume holds %d, want %d", c, tt.count)
				}
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// Of two prepares at once one is refused, and says why; so is a backup meanwhile.
func TestBusyWithRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{7}
		on := make(chan struct{})
		w.restore = func(context.Context, int) error { <-on; return nil }
		l := w.start(-1, job.Options{})
		task, err := l.prepare("one", "phone")
		if err != nil {
			t.Fatal(err)
		}
		for _, send := range []func() error{
			func() error { _, err := l.prepare("two", "phone"); return err },
			func() error { _, err := l.accept("three", "phone"); return err },
		} {
			var busy *model.BusyError
			if err := send(); !errors.As(err, &busy) || !slices.Equal(busy.Restoring, []string{"phone"}) {
				t.Errorf("while it is restored: %v", err)
			}
		}
		if _, err := l.send(job.Request{ID: "one", Digest: [32]byte{1}, Tenant: "acme", Instances: []string{"phone"}}); !errors.Is(err, model.ErrRequestReused) {
			t.Errorf("a backup with the request id of the restore: %v", err)
		}
		close(on)
		if j := l.final(task.Jobs[0].Job); j.State != model.Done {
			t.Errorf("%s: %s", j.State, j.Cause)
		}
		l.stop()
	})
}

// A restore can be cancelled until its volumes get into their places, and leaves the old volumes.
func TestCancelRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{7}
		had(3)(w)
		w.restore = func(ctx context.Context, _ int) error { <-ctx.Done(); return context.Cause(ctx) }
		l := w.start(-1, job.Options{})
		task, err := l.prepare("one", "phone")
		if err != nil {
			t.Fatal(err)
		}
		id := task.Jobs[0].Job
		l.until(id, model.Restoring)
		if err := l.m.Cancel(id); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Failed || !strings.Contains(j.Cause, "cancelled on request") {
			t.Errorf("%s: %s", j.State, j.Cause)
		}
		l.stop()
		if len(w.disks) != 2 || w.disks["/phone/data"].count != 3 {
			t.Errorf("on the host: %v", w.disks)
		}
	})
}
