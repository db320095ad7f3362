package job_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// The acts of a model's step.

func (m *hostModel) command() {
	names := slices.Clone(m.names)
	m.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	req := job.Request{ID: fmt.Sprint("request-", m.seq), Digest: [32]byte{byte(m.seq)}, Tenant: "acme", Instances: names[:1+m.r.IntN(3)]}
	if m.r.IntN(3) == 0 {
		req.Deadline = m.w.now().Add(time.Duration(m.r.IntN(60)) * time.Minute)
	}
	if m.r.IntN(4) == 0 {
		req.Kind, req.Deadline = model.KindRestore, time.Time{}
	}
	m.note("%s %s for %v", req.Kind, req.ID, req.Instances)
	m.deliver(req)
}

func (m *hostModel) deliver(req job.Request) {
	task, err := m.l.send(req)
	var busy *model.BusyError
	switch {
	case errors.As(err, &busy), errors.Is(err, job.ErrDraining):
	case errors.Is(err, model.ErrNotFound) && slices.ContainsFunc(req.Instances, func(n string) bool { return m.w.instances[n].left }):
	case err != nil:
		m.fault("accept %s: %v", req.ID, err)
	default:
		m.bodies[req.ID] = req
		if task == nil {
			return // it died before it answered
		}
		if first := m.known[req.ID]; first != "" && first != task.ID {
			m.fault("same-command-once: %s made task %s, and then %s", req.ID, first, task.ID)
		}
		m.known[req.ID] = task.ID
		for _, ref := range task.Jobs {
			m.jobs = append(m.jobs, ref.Job)
		}
	}
}

func (m *hostModel) fault(format string, args ...any) {
	m.lock(func() { m.w.fault(format, args...) })
}

func (m *hostModel) repeat() {
	ids := slices.Sorted(maps.Keys(m.bodies))
	if len(ids) == 0 {
		return
	}
	req := m.bodies[pick(m.r, ids...)]
	m.note("%s again", req.ID)
	m.deliver(req)
	if m.known[req.ID] == "" {
		return
	}
	req.Digest[1]++
	if _, err := m.l.send(req); !m.l.isDead() && !errors.Is(err, model.ErrRequestReused) {
		m.fault("%s with another body: %v", req.ID, err)
	}
}

// allowed are the answers to a person's request at the wrong time.
func (m *hostModel) allowed(what string, err error) {
	m.note("%s: %v", what, err)
	if err != nil && !errors.Is(err, model.ErrState) && !errors.Is(err, model.ErrNotFound) && !errors.Is(err, job.ErrEnded) {
		m.fault("%s: %v", what, err)
	}
}

func (m *hostModel) cancel() {
	if len(m.jobs) > 0 {
		id := pick(m.r, m.jobs[max(0, len(m.jobs)-6):]...)
		m.allowed("cancel "+id, m.l.m.Cancel(id))
	}
}

func (m *hostModel) release() { n := pick(m.r, m.names...); m.allowed("release "+n, m.l.m.Release(n)) }

func (m *hostModel) resume() { n := pick(m.r, m.names...); m.allowed("resume "+n, m.l.m.Resume(n)) }

// change begins or ends a fault.
func (m *hostModel) change() {
	m.lock(func() {
		switch m.r.IntN(4) {
		case 0, 1:
			m.setStore(pick(m.r, "", "slow", "fails", "hangs"))
		case 2:
			m.plane = pick(m.r, "", "away", "refuses", "anyone", "anyone")
			m.note("control plane %s", m.plane)
		default:
			act := pick(m.r, faultyActs...)
			m.bad[act] = !m.bad[act]
			m.note("%s fails: %v", act, m.bad[act])
		}
	})
}

func (m *hostModel) heal() {
	m.note("all is well")
	m.lock(func() {
		clear(m.bad)
		m.plane = ""
		m.setStore("")
		for _, n := range m.names {
			m.w.instances[n].gone, m.w.instances[n].renamed = false, false
		}
	})
}

// setStore begins or ends a fault of the store. The lock is held.
func (m *hostModel) setStore(fault string) {
	m.note("store %s", fault)
	m.store, m.w.away, m.w.silent = fault, nil, 0
	if fault == "hangs" {
		m.w.away, m.w.silent = fmt.Errorf("hangs: %w", job.ErrStoreAway), time.Hour
	}
}

// hours lets nothing be let go of for hours, with any other event in the next steps.
func (m *hostModel) hours() {
	m.note("thaw and start fail for hours")
	m.lock(func() { m.bad["thaw"], m.bad["start"] = true, true })
	time.Sleep(time.Duration(1+m.r.IntN(5)) * time.Hour)
}

// noNote is the remains of a damaged note.
const noNote = "no note"

// rewrite is an operator who restarts the agent with another configuration, which may lack
// instances, or after a note of a held instance was damaged while the journal was not.
func (m *hostModel) rewrite() {
	m.end(m.r.IntN(2) == 0)
	m.lock(func() {
		n := pick(m.r, m.names...)
		p := m.w.instances[n]
		p.left = !p.left
		m.note("%s is in the configuration: %v", n, !p.left)
		for _, n := range m.names {
			if m.w.marks[n] != nil && m.r.IntN(4) == 0 {
				m.note("the note of %s is damaged", n)
				m.w.marks[n] = []byte(noNote)
			}
		}
	})
	m.begin()
}

// reconfigure is an operator who edits the configuration.
func (m *hostModel) reconfigure() {
	n := pick(m.r, m.names...)
	m.lock(func() { m.configure(n) })
	p := m.w.instances[n]
	m.note("%s is %s, %s, pinned %v", n, p.mode, p.policy, p.pinned)
}

// interfere is the owner of an instance, or another program, between two looks of the agent.
func (m *hostModel) interfere() {
	n := pick(m.r, m.names...)
	for _, other := range m.names { // mostly a phone that stands still for a job, where it matters
		if j := m.l.record(other); j.Hold && m.r.IntN(2) == 0 {
			n = other
		}
	}
	act := pick(m.r, "resumes or starts", "stops", "freezes", "resumes and freezes", "starts and stops", "makes anew", "renames")
	m.lock(func() {
		p := m.w.instances[n]
		m.note("someone else %s %s, which is %s", act, n, p.state)
		// The job lets go of its own instance, whoever froze it last.
		j := m.l.record(n)
		foreign := !j.Hold || j.Identity != p.identity()
		switch {
		case act == "resumes or starts" && p.state == model.IsFrozen, act == "resumes and freezes" && p.state == model.IsFrozen:
			p.runs()
			if p.owner = p.owner || foreign; act == "resumes or starts" {
				p.state, p.owner = model.IsRunning, false
			}
		case act == "resumes or starts" && p.state == model.IsStopped:
			p.starts()
		case act == "stops" && (p.state == model.IsRunning || p.state == model.IsFrozen):
			p.runs()
			p.owner = false
			p.state, p.by = model.IsStopped, ""
		case act == "freezes" && p.state == model.IsRunning:
			p.state, p.owner = model.IsFrozen, true
		case act == "starts and stops" && p.state == model.IsStopped:
			p.starts()
			p.state = model.IsStopped
		case act == "makes anew":
			p.id++
			p.starts()
			p.renamed, p.state = false, pick(m.r, model.IsRunning, model.IsFrozen, model.IsStopped)
			p.owner = p.state == model.IsFrozen
		case act == "renames":
			p.renamed = !p.renamed
		}
	})
}

// reboot ends the agent and every instance. Instances that ran, or were frozen,
// run again by the runtime's policy, or stay down after they ran to their end.
func (m *hostModel) reboot() {
	m.note("reboot")
	m.end(false)
	m.lock(func() {
		m.w.bootID += "'"
		m.w.booted = time.Now()
		for _, n := range m.names {
			p := m.w.instances[n]
			if p.state == model.IsStopped {
				continue
			}
			p.runs()
			p.by, p.owner = "", false
			if p.state = pick(m.r, model.IsRunning, model.IsRunning, model.IsStopped); p.state == model.IsRunning {
				p.starts()
			}
		}
	})
	m.begin()
}

// recover is a start with faults in its way: it only
// lets held instances go. Then the faults are mended.
func (m *hostModel) recover() {
	d := pick(m.r, time.Second, time.Minute, 10*time.Minute)
	m.note("a start that only recovers, for %s", d)
	m.end(m.r.IntN(2) == 0)
	m.opts.RecoverOnly = true
	m.l = m.w.start(-1, m.opts)
	if m.r.IntN(3) == 0 {
		m.l.dieAfter(1 + m.r.IntN(10))
	}
	time.Sleep(d)
	m.end(m.r.IntN(2) == 0)
	m.begin()
}

// lose takes the journal away. Promises about a task then hold no more, but for nothing-lost.
func (m *hostModel) lose() {
	spoilt := false
	m.lock(func() {
		for _, note := range m.w.marks {
			spoilt = spoilt || string(note) == noNote
		}
	})
	if spoilt {
		return // an instance that neither journal nor note tells of is for a person to find
	}
	m.note("the journal is lost")
	if m.r.IntN(2) == 0 { // in the middle of something
		m.l.dieAfter(1 + m.r.IntN(40))
		time.Sleep(10 * time.Second)
	}
	m.lock(func() {
		for _, n := range m.names {
			m.stopped(n, m.w.instances[n]) // a released instance is not held
		}
	})
	m.end(false)
	err := os.Remove(m.w.journal)
	if m.r.IntN(2) == 0 {
		err = os.WriteFile(m.w.journal, []byte(strings.Repeat("no journal", 2000)), 0o600)
	}
	if err != nil {
		m.w.t.Error(err)
	}
	m.known, m.bodies, m.jobs = map[string]string{}, map[string]job.Request{}, nil
	m.lastSeq = map[string]uint64{}
	m.saved = nil
	m.lock(func() { clear(m.refused) })
	m.lock(func() {
		clear(m.w.packs)
		// Which of two trees is to stay only the journal knew, so what
		// restores left is for a person to remove.
		maps.DeleteFunc(m.w.disks, func(path string, _ disk) bool { return strings.Contains(path, ".stage-") })
	})
	m.begin()
}

// unmount is a volume that goes away, or leads elsewhere, and comes back: the engine refuses it.
func (m *hostModel) unmount() {
	n := pick(m.r, m.names...)
	m.lock(func() { m.w.instances[n].gone = !m.w.instances[n].gone })
	m.note("the volumes of %s are gone: %v", n, m.w.instances[n].gone)
}

// loseBackups is a bucket that loses confirmed objects: a header, a
// manifest, packs or everything, which to a job is one and the same.
func (m *hostModel) loseBackups() {
	n := pick(m.r, m.names...)
	all := m.r.IntN(3) == 0
	m.note("the store loses backups of %s, all instances: %v", n, all)
	m.lock(func() {
		for _, name := range m.names {
			if !all && name != n {
				continue
			}
			if m.w.lost[name] == nil {
				m.w.lost[name] = map[int]time.Time{}
			}
			for _, count := range m.w.backups[name] {
				m.w.lost[name][count] = time.Now()
			}
			m.w.backups[name] = nil
		}
	})
}
