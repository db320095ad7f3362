package job

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// Request is one command.
type Request struct {
	Kind      model.Kind // "" is KindBackup
	ID        string
	Digest    [32]byte // of the body
	Tenant    string   // whose the command is
	Instances []string // known, without duplicates
	Backup    string   // of a restore: id of the backup; "" is the newest
	// Deadline is when the host is needed; zero when there is no haste. Jobs with
	// one go first, and give up compression and then depth of verification for
	// speed. A job that is late goes on: what ends it is Options.JobDeadline.
	Deadline time.Time
	PutBack  string // as in Job
}

// Known returns the task of a request seen before, nil when it is new, or ErrRequestReused.
func (m *Manager) Known(r Request) (*model.Task, error) {
	return m.journal.Request(r.Tenant, r.ID, r.Digest)
}

// Accept journals the command and queues its jobs; it returns when that is durable. A request seen
// before gets its first task. Else the error is ErrRequestReused, ErrDraining, ErrQueueFull, a
// *BusyError, ErrNotFound for an unknown instance, or a failure of the journal.
func (m *Manager) Accept(r Request) (*model.Task, error) {
	if t, err := m.Known(r); t != nil || err != nil {
		return t, err
	}
	kind := cmp.Or(r.Kind, model.KindBackup)
	now := m.opts.Now().UTC()
	task := model.Task{RequestID: r.ID, Digest: r.Digest, Tenant: r.Tenant, Accepted: now}
	var err error
	if task.ID, err = m.newID(); err != nil {
		return nil, err
	}
	jobs := make([]model.Job, len(r.Instances))
	for i, name := range r.Instances {
		instance, err := m.parts.Instance(name)
		if err != nil {
			return nil, fmt.Errorf("instance %q: %w", name, err)
		}
		jobs[i] = model.Job{
			Task: task.ID, Instance: name, Tenant: instance.Tenant, Kind: kind, Policy: instance.Policy, Mode: instance.Mode, Kept: instance.Keep, PutBack: r.PutBack,
			Deadline: r.Deadline.UTC(), Chosen: r.Backup, State: model.Accepted, AcceptedAt: now, Entered: map[model.State]time.Time{model.Accepted: now},
		}
		if jobs[i].ID, err = m.newID(); err != nil {
			return nil, err
		}
		task.Jobs = append(task.Jobs, model.JobRef{Instance: name, Job: jobs[i].ID})
	}

	// One lock from the check to the queue, so that the
	// limit holds and the queue has the journal's order.
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining {
		return nil, ErrDraining
	}
	if m.opts.Queue > 0 && len(m.waiting)+m.slots.waiting()+len(jobs)-m.slots.idle() > m.opts.Queue {
		return nil, model.ErrQueueFull
	}
	m.hit(crashpoint.WriteTask + crashpoint.Before)
	got, made, err := m.journal.Accept(task, jobs)
	if err != nil {
		return nil, err
	}
	m.hit(crashpoint.WriteTask + crashpoint.After)
	if !made {
		return got, nil
	}
	for i := range jobs {
		m.waiting = append(m.waiting, &jobs[i])
		m.parts.Observer.Changed(&jobs[i], "")
	}
	wake(m.spawn)
	return got, nil
}

// Run takes up the jobs of the journal, calls ready once the state of every unfinished
// job was compared with the host, and advances jobs until ctx ends. Then it takes no
// more commands; waiting jobs stay in the journal, jobs at work have DrainTimeout to
// reach a stored backup and are put off after it (thawed, snapshots dropped, first in
// the queue of the next Run), and instances whose backup is stored stay frozen for the
// next Run to go on with. It returns when no goroutine of it is left.
func (m *Manager) Run(ctx context.Context, ready func()) error {
	ctx, recovered := context.WithCancel(ctx)
	defer recovered()
	hard, beginStop, release := withStop(ctx, m.opts.DrainTimeout)
	defer release()
	if m.opts.RecoverOnly {
		m.Drain()
	}
	if err := m.journal.Tick(); err != nil {
		return err
	}
	if err := m.prune(); err != nil {
		return err
	}
	if err := m.adopt(); err != nil {
		return err
	}
	m.mu.Lock() // so that no command is accepted between the two
	jobs, err := m.journal.Active()
	m.waiting = nil // all of them are in the journal
	m.mu.Unlock()
	if err != nil {
		return err
	}
	// A panic here must not keep the agent from its jobs, now and at every start after this one.
	defer m.tidy(ctx, jobs)()

	var workers, checked, atWork sync.WaitGroup
	workers.Go(func() {
		for !m.contained("look after base snapshots", func() { m.watchBases(ctx) }) && sleep(ctx, lastPause) == nil {
		}
	})
	workers.Go(func() {
		for !m.contained("remove leftovers", func() { m.watchLeftovers(ctx) }) && sleep(ctx, lastPause) == nil {
		}
	})
	workers.Go(func() {
		if m.opts.RecoverOnly {
			return
		}
		for !m.contained("look after kept content", func() { m.watchAside(ctx) }) && sleep(ctx, lastPause) == nil {
		}
	})
	begin := func(j *model.Job, resumed bool) {
		id, place := j.ID, m.place(j)
		w := &worker{
			m: m, id: id, place: place, signal: make(chan struct{}, 1), ticket: m.slots.join(place), resumed: resumed, checked: func() {},
		}
		if resumed {
			checked.Add(1)
			w.checked = sync.OnceFunc(checked.Done)
		}
		m.mu.Lock()
		m.running[id] = w
		m.mu.Unlock()
		atWork.Add(1)
		workers.Go(func() {
			defer atWork.Done()
			defer func() {
				w.checked()
				w.ticket.leave()
				w.hold.leave()
				m.mu.Lock()
				delete(m.running, id)
				m.mu.Unlock()
			}()
			m.contained("run a job", func() { w.run(ctx, hard) })
		})
	}
	// Jobs that hold an instance go before jobs that wait for their turn.
	for _, holding := range []bool{true, false} {
		for _, j := range jobs {
			if (j.State != model.Accepted) == holding && j.State != model.Unknown {
				begin(j, true)
			}
		}
	}
	checked.Wait()
	ready()
	if m.opts.RecoverOnly {
		workers.Go(func() {
			m.contained("wait for the end of all jobs", atWork.Wait)
			recovered()
		})
	}
	for ctx.Err() == nil {
		m.mu.Lock()
		accepted := m.waiting
		m.waiting = nil
		m.mu.Unlock()
		for _, j := range accepted {
			begin(j, false)
		}
		select {
		case <-m.spawn:
		case <-ctx.Done():
		}
	}

	m.Drain()
	beginStop()
	workers.Wait()
	return nil
}
