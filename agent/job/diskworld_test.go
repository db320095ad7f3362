package job_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
)

// bearing is the mark that a tree bears, and the count that it had when it was marked.
type bearing struct {
	mark  model.Content
	count int
}

var volumeNames = []string{"data", "media"}

// look gives the facts of a volume as the adapter does
// by mark, journal and comparison. The lock is held.
func (w *world) look(path, volume string, known model.Content) prepare.VolumeFacts {
	f := prepare.VolumeFacts{Volume: volume, Presence: prepare.VolumeMissing}
	d, there := w.disks[path]
	if !there {
		return f
	}
	f.Presence = prepare.VolumeContent
	b, own := w.bears[d.tree]
	switch {
	case own && w.broken != "look" && (known.Backup == "" || b.mark.Seq > known.Seq || b.mark.Backup == known.Backup):
		f.Origin, f.Backup = prepare.OriginChanged, b.mark
		if b.mark.Backup == known.Backup {
			f.Backup = known
		}
		if b.count == d.count {
			f.Origin = prepare.OriginSame
		}
	case known.Backup != "":
		f.Origin = prepare.OriginForeign
	default:
		f.Origin = prepare.OriginUnknown
	}
	if d.empty {
		f.Presence = prepare.VolumeEmpty
		switch f.Origin {
		case prepare.OriginUnknown:
			f.Origin = prepare.OriginNone
		case prepare.OriginSame, prepare.OriginChanged:
			f.Origin = prepare.OriginHalf
		default:
		}
	}
	return f
}

// bear gives the volumes of an instance the mark of a backup. The lock is held.
func (w *world) bear(instance string, c model.Content) map[string]bool {
	marked := map[string]bool{}
	for _, v := range volumeNames {
		if d, there := w.disks["/"+instance+"/"+v]; there {
			w.bears[d.tree] = bearing{c, d.count}
			marked[v] = true
		}
	}
	return marked
}

// replaced finds content that is replaced although no backup has what changed in it since it was
// restored or backed up here, and nobody released the instance. The lock is held.
func (w *world) replaced(instance, path string, was disk) {
	b, own := w.bears[was.tree]
	if !own || was.empty || was.count == b.count {
		return
	}
	known, err := w.current.Content(instance)
	if err != nil || known.Released || known.Seq > b.mark.Seq {
		return // the content of an old disk is kept aside
	}
	w.fault("nothing-lost: %s is replaced, which came from %s and has %d since, unsaved", path, b.mark.Backup, was.count)
}

// wrote is a program that wrote to the volumes until they had that count.
func wrote(w *world, count int) {
	for _, v := range volumeNames {
		d := w.disks["/phone/"+v]
		d.count = count
		w.disks["/phone/"+v] = d
	}
}

// disturb is what becomes of the volumes of an instance on which no job works: a program writes to
// one, a disk is missing or empty, a platform fills a slot anew, a copy or an old disk is in place.
func (m *hostModel) disturb() {
	n := pick(m.r, m.names...)
	act := pick(m.r, "writes to", "writes to", "writes to", "removes", "empties", "refills", "copies", "brings an old disk as")
	path := "/" + n + "/" + pick(m.r, volumeNames...)
	// a prepare that finds it, or that makes volumes for the next time
	defer func() {
		if m.r.IntN(2) == 0 && !m.l.isDead() {
			req := job.Request{Kind: model.KindRestore, ID: fmt.Sprint("request-", m.seq), Digest: [32]byte{byte(m.seq)}, Tenant: "acme", Instances: []string{n}}
			m.note("%s %s for %v", req.Kind, req.ID, req.Instances)
			m.deliver(req)
		}
	}()
	m.lock(func() {
		d, there := m.w.disks[path]
		if m.l.isDead() || m.l.record(n).ID != "" || !there {
			return
		}
		m.note("someone %s %s, which is %s", act, path, d.tree)
		switch act {
		case "writes to":
			d.count, d.empty = d.count+1000, false
		case "empties":
			d.empty = true
		case "refills", "copies":
			m.seq++
			d.tree, d.count, d.empty = fmt.Sprintf("%s %d", act, m.seq), d.count+1, false
		case "brings an old disk as":
			b, own := m.w.bears[d.tree]
			if !own {
				return
			}
			m.seq++
			d.tree = fmt.Sprint("old disk ", m.seq)
			b.mark.Backup, b.mark.Seq = "an earlier one", 0
			m.w.bears[d.tree] = b
		}
		if m.w.disks[path] = d; act == "removes" {
			delete(m.w.disks, path)
		}
	})
}

// TestPrepareByWhatBecameOfTheVolumes: the machine looks at the
// disk each time, and keeps or replaces the volumes as Decide says.
func TestPrepareByWhatBecameOfTheVolumes(t *testing.T) {
	type disks = map[string]disk
	change := func(d disks, volume string, edit func(*disk)) {
		v := d["/phone/"+volume]
		edit(&v)
		d["/phone/"+volume] = v
	}
	anew := func(v *disk) { *v = disk{tree: "template", count: 1} }
	for _, tt := range []struct {
		name  string
		set   func(w *world)
		cause string // "": done
		ready bool
		data  int // count of the volume data at the end
	}{
		{name: "nothing", set: func(*world) {}, ready: true, data: 7},
		{name: "one was written to", set: func(w *world) { change(w.disks, "data", func(d *disk) { d.count = 8 }) }, ready: true, data: 8},
		{
			name: "one was written to, and one is missing", cause: "is missing", data: 8,
			set: func(w *world) {
				change(w.disks, "data", func(d *disk) { d.count = 8 })
				delete(w.disks, "/phone/media")
			},
		},
		{
			name: "one was written to, and one is empty", cause: "no backup has the changes", data: 8,
			set: func(w *world) {
				change(w.disks, "data", func(d *disk) { d.count = 8 })
				change(w.disks, "media", func(d *disk) { d.empty = true })
			},
		},
		{
			name: "one was written to, and one was filled anew", cause: "no backup has the changes", data: 8,
			set: func(w *world) { change(w.disks, "data", func(d *disk) { d.count = 8 }); change(w.disks, "media", anew) },
		},
		{name: "both were filled anew", set: func(w *world) { change(w.disks, "data", anew); change(w.disks, "media", anew) }, data: 7},
		{name: "both are missing", set: func(w *world) { clear(w.disks) }, data: 7},
		{
			name: "written to, and the vault has a newer backup", cause: "has a newer one", data: 8,
			set: func(w *world) { wrote(w, 8); w.backups["phone"] = append(w.backups["phone"], 12) },
		},
		{name: "as it was, and the vault has a newer backup", set: func(w *world) { w.backups["phone"] = append(w.backups["phone"], 12) }, data: 12},
	} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, journal lost %v", tt.name, lost), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, "phone")
					w.instances["phone"].state = model.IsStopped
					w.backups["phone"] = []int{5, 7}
					l := w.start(-1, job.Options{})
					first, err := l.prepare("first", "phone")
					if err != nil || l.final(first.Jobs[0].Job).State != model.Done {
						t.Fatal(err)
					}
					if lost {
						l.stop()
						w.lose()
						l = w.start(-1, job.Options{})
					}
					tt.set(w)
					task, err := l.prepare("second", "phone")
					if err != nil {
						t.Fatal(err)
					}
					j := l.final(task.Jobs[0].Job)
					l.stop()
					if (j.State == model.Done) != (tt.cause == "") || !strings.Contains(j.Cause, tt.cause) || (j.Restore != nil && j.Restore.Ready) != tt.ready {
						t.Errorf("ended %s (%s), %+v", j.State, j.Cause, j.Restore)
					}
					if got := w.disks["/phone/data"].count; got != tt.data {
						t.Errorf("the volume holds %d, want %d of %v", got, tt.data, slices.Sorted(maps.Keys(w.disks)))
					}
					for _, f := range w.faults {
						t.Error(f)
					}
				})
			})
		}
	}
}

// TestReadyEndsTheRelease: an instance that was released on a backup, and is prepared with its
// volumes still here, is in use again. What its volumes get from then on counts as newer bytes.
func TestReadyEndsTheRelease(t *testing.T) {
	for _, start := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "phone")
			had(3)(w)
			l := w.start(-1, job.Options{StartRestored: start})
			if j := l.final(mustAccept(t, l, "backup", "phone").Jobs[0].Job); j.State != model.Done {
				t.Fatalf("backup: %s", j.Cause)
			}
			released := func() bool {
				known, err := l.j.Content("phone")
				if err != nil {
					t.Error(err)
				}
				return known.Released
			}
			if !released() {
				t.Error("the journal does not have the release")
			}
			prepare := func(request string) *model.Job {
				task, err := l.prepare(request, "phone")
				if err != nil {
					t.Fatal(err)
				}
				return l.final(task.Jobs[0].Job)
			}
			if j := prepare("first"); j.State != model.Done || !j.Restore.Ready || released() {
				t.Errorf("ended %s (%s), %+v, released %v", j.State, j.Cause, j.Restore, released())
			}
			w.mu.Lock()
			wrote(w, 8)
			w.instances["phone"].state = model.IsStopped
			w.backups["phone"] = append(w.backups["phone"], 12)
			w.mu.Unlock()
			if j := prepare("second"); j.State != model.Failed || !strings.Contains(j.Cause, "has a newer one") {
				t.Errorf("ended %s (%s), %+v", j.State, j.Cause, j.Restore)
			}
			l.stop()
			for _, f := range w.faults {
				t.Error(f)
			}
		})
	}
}

// TestWarningIsReported: the report of a restore that ended well says what people should know.
func TestWarningIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		had(3)(w)
		w.instances["phone"].mode = model.ModeLive
		l := w.start(-1, job.Options{})
		if j := l.final(mustAccept(t, l, "backup", "phone").Jobs[0].Job); j.State != model.Done {
			t.Fatalf("backup: %s", j.Cause)
		}
		w.mu.Lock()
		w.backups["phone"] = append(w.backups["phone"], 12)
		w.mu.Unlock()
		task, err := l.prepare("prepare", "phone")
		if err != nil {
			t.Fatal(err)
		}
		j := l.final(task.Jobs[0].Job)
		if j.State != model.Done || !strings.Contains(j.Restore.Warning, "the vault has a newer one, b12") {
			t.Errorf("ended %s (%s), %+v", j.State, j.Cause, j.Restore)
		}
		time.Sleep(time.Hour)
		l.stop()
		told := ""
		for _, e := range w.events {
			var data struct{ Warning string }
			if e.Type == model.EventRestoreCompleted && json.Unmarshal(e.Data, &data) == nil {
				told = data.Warning
			}
		}
		if told == "" || told != j.Restore.Warning {
			t.Errorf("the report tells of %q, the journal of %q", told, j.Restore.Warning)
		}
	})
}
