package fleet_test

import (
	"context"
	"fmt"
	"time"

	"holdfast/agent/api"
)

var jobsActive = api.JobFilter{Active: true}

// settle waits until everything is at rest, and looks whether each
// phone is where the control plane has it, and nowhere else.
func (f *fleet) settle(ctx context.Context) {
	began := time.Now()
	end := began.Add(patience)
	for _, h := range f.hosts {
		f.until(ctx, end, func() error {
			err := h.quiet(ctx)
			for _, d := range f.tablets {
				if err != nil {
					d.tend(ctx, h) // nobody waits for its jobs any more
				}
			}
			return err
		})
	}
	for _, p := range f.everything() {
		f.until(ctx, end, func() error {
			h := p.where()
			if !p.runs(h) {
				return fmt.Errorf("%s does not run on %s: %+v", p.id, h.name, p.look(h))
			}
			for _, other := range f.hosts {
				if v := p.look(other); other != h && v.pid != 0 {
					return fmt.Errorf("%s, which is on %s, has process %d on %s too", p.id, h.name, v.pid, other.name)
				}
			}
			return nil
		})
	}
	f.trail.note("at rest after %.0f s", time.Since(began).Seconds())
	for _, t := range tenants {
		f.cli(t, "verify", "--read-data", "100")
	}
}

// until waits until ok is nil, or the end.
func (f *fleet) until(ctx context.Context, end time.Time, ok func() error) {
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) || !pause(ctx, 200*time.Millisecond) {
			f.found("not at rest after %s: %v", patience, err)
			return
		}
	}
}

// quiet is an error while a host has jobs, or reports that the control plane has not taken.
func (h *host) quiet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info, err := h.socket.Info(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", h.name, err)
	case info.JobsActive+info.JobsQueued > 0:
		jobs, err := h.socket.Jobs(ctx, jobsActive)
		return fmt.Errorf("%s has jobs: %+v %w", h.name, jobs, err)
	case info.ReportsPending > 0:
		return fmt.Errorf("%s has %d reports that were not taken", h.name, info.ReportsPending)
	}
	return nil
}
