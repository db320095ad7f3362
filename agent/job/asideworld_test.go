package job_test

import (
	"context"
	"errors"
	"slices"
	"strings"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// counted is the result of a count of a volume of the world.
func counted(d disk) model.Count {
	if d.empty {
		return model.Count{Whole: true}
	}
	return model.Count{Files: 1, Bytes: uint64(d.count), Entries: 1, Whole: true}
}

// errHangs makes an act of the world last until the end of its context.
var errHangs = errors.New("it hangs")

// instanceOf is whose a path of the world is.
func instanceOf(path string) string { return strings.Split(path, "/")[1] }

func (r fakeRestorer) Count(ctx context.Context, _ model.Place, path string) (string, model.Count, error) {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	err := r.l.w.failing("count", "")
	if errors.Is(err, errHangs) {
		r.l.w.mu.Unlock()
		<-ctx.Done()
		r.l.w.mu.Lock()
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", model.Count{}, err
	}
	d, there := r.l.w.disks[path]
	if !there {
		return "", model.Count{Whole: true}, nil
	}
	return d.tree, counted(d), nil
}

// take renames the tree Old of a place. The lock is held.
func (r fakeRestorer) take(p model.Place, from, to string) error {
	w := r.l.w
	if w.disks[to].tree == p.Old {
		return nil
	}
	if _, there := w.disks[to]; there {
		return errors.New("something else lies there")
	}
	if p.Old == "" || w.disks[from].tree != p.Old {
		return errors.New("it is not the tree that was there")
	}
	w.disks[to] = w.disks[from]
	delete(w.disks, from)
	return nil
}

// kept is the journal's record of a tree that is kept aside. The lock is held.
func (r fakeRestorer) kept(old string) (model.Aside, bool) {
	all, err := r.l.j.Kept()
	if err != nil {
		return model.Aside{}, false
	}
	i := slices.IndexFunc(all, func(s model.Aside) bool {
		return slices.ContainsFunc(s.Volumes, func(v model.AsideVolume) bool { return v.Place.Old == old })
	})
	if i < 0 {
		return model.Aside{}, false
	}
	return all[i], true
}

func (r fakeRestorer) SetAside(p model.Place) error {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing("set-aside", ""); err != nil {
		return err
	}
	if _, named := r.kept(p.Old); !named {
		w.fault("journal-first: %s is renamed, and the journal does not name it", p.Stage)
	}
	return r.take(p, p.Stage, p.Aside)
}

func (r fakeRestorer) TakeOut(p model.Place) error {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing("take-out", p.Volume); err != nil {
		return err
	}
	j := r.l.record(instanceOf(p.Target))
	if j.State != model.Restoring || !slices.ContainsFunc(j.Restore.Out, func(o model.Place) bool { return o.Old == p.Old }) || j.Restore.Condemned {
		w.fault("journal-first: %s is taken out while the journal says %s", p.Target, j.State)
	}
	if s := w.instances[instanceOf(p.Target)].state; s == model.IsRunning || s == model.IsFrozen {
		w.fault("%s is taken out while the instance is %s", p.Target, s)
	}
	return r.take(p, p.Target, p.Aside)
}

func (r fakeRestorer) Return(p model.Place) error {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if j := r.l.record(instanceOf(p.Target)); j.State != model.Failing && j.State != model.Suspending || j.Restore.Condemned {
		w.fault("journal-first: %s is brought back while the journal says %s", p.Target, j.State)
	}
	if w.disks[p.Target].tree == p.Old {
		return nil
	}
	return r.take(p, p.Aside, p.Target)
}

func (r fakeRestorer) LiesAside(p model.Place) (string, error) {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, path := range []string{p.Aside, p.Stage} {
		if d, there := w.disks[path]; there && d.tree == p.Old {
			return path, nil
		}
	}
	return "", nil
}

// Room has place for one copy of an instance where the world is small.
func (r fakeRestorer) Room(_ context.Context, q job.RestoreRequest, freed map[string]model.Count) error {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.small {
		return nil
	}
	for path := range w.disks {
		if instanceOf(path) == q.Instance && freed == nil {
			return job.ErrRoom
		}
	}
	return nil
}

// noted is the content at a path of a place, and its note. The lock is held.
func (r fakeRestorer) noted(p model.Place, path string) (tree string, n model.KeptNote, has bool) {
	tree = r.l.w.disks[path].tree
	if tree == "" || p.Old != "" && tree != p.Old {
		return "", n, false
	}
	n, has = r.l.w.notes[tree]
	return tree, n, has
}

func (r fakeRestorer) Note(p model.Place, path string, n model.KeptNote) error {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing("kept-note", p.Volume); err != nil {
		return err
	}
	if tree, _, _ := r.noted(p, path); tree != "" {
		w.notes[tree] = n
	}
	return nil
}

func (r fakeRestorer) NoteOn(p model.Place, path string) (*model.KeptNote, error) {
	r.l.alive()
	r.l.w.mu.Lock()
	defer r.l.w.mu.Unlock()
	if err := r.l.w.failing("read-note", p.Volume); err != nil {
		return nil, err
	}
	if _, n, has := r.noted(p, path); has {
		return &n, nil
	}
	return nil, nil
}

func (r fakeRestorer) FindKept(context.Context) (all []model.FoundKept, err error) {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, d := range w.disks {
		if !strings.Contains(path, "/.") {
			continue
		}
		f := model.FoundKept{Path: path}
		if n, has := w.notes[d.tree]; has {
			f.Note = &n
			f.Place = model.Place{Volume: n.Volume, Target: n.Target, Old: d.tree, Stage: path, Aside: "/" + n.Instance + "/.holdfast-kept-" + n.Job + "-" + n.Volume}
		}
		if f.Note != nil || strings.Contains(path, "/.holdfast-kept-") {
			all = append(all, f)
		}
	}
	return all, w.failing("find-kept", "")
}

// destroyed tells of content that is removed, which may be in no backup. The lock is held.
func (r fakeRestorer) destroyed(p model.Place) {
	w := r.l.w
	d, there := w.disks[p.Stage]
	if !there || d.empty || d.tree == "in parts" || strings.HasPrefix(d.tree, "tree of ") && d.count < 100 {
		return
	}
	if slices.Contains(w.backups[instanceOf(p.Target)], d.count) {
		return
	}
	if s, named := r.kept(d.tree); named && s.Removing {
		return // after its time, or by an operator
	}
	w.fault("nothing-lost: the count %d at %s is in no backup, and is removed", d.count, p.Stage)
}
