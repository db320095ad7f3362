package job

import "holdfast/agent/model"

// Update is a change of a job for those who watch its task.
type Update struct {
	Job      model.Job
	Progress *model.Progress // set when the figures changed and not the state
}

// Watch sends what happens to the jobs of a task to the channel until stop is
// called. A watcher that does not keep up misses updates; the journal has the truth.
func (m *Manager) Watch(task string) (updates <-chan Update, stop func()) {
	c := make(chan Update, 64)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers[c] = task
	return c, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, c)
	}
}

func (m *Manager) publish(u Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c, task := range m.watchers {
		if task == u.Job.Task {
			select {
			case c <- u:
			default:
			}
		}
	}
}

// changed tells everybody about a state that was journalled.
func (m *Manager) changed(j *model.Job, from model.State) {
	m.parts.Observer.Changed(j, from)
	m.publish(Update{Job: *j})
	wake(m.outbox)
}

// signal wakes the worker of a job, if it has one.
func (m *Manager) signal(job string) {
	m.mu.Lock()
	w := m.running[job]
	m.mu.Unlock()
	if w != nil {
		wake(w.signal)
	}
}
