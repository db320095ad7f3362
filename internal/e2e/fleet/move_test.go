package fleet_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Paths of the control plane's calls.
const (
	backupPath  = "/v1/instances/backup"
	preparePath = "/v1/instances/prepare"
	taskPath    = "/v1/instances/tasks/"
	agentPath   = "/v1/agent/instances/"
)

// Codes of refusals that pass.
const (
	inRecovery = "KOOPHONE.API.2005"
	inBackup   = "KOOPHONE.API.2006"
	internal   = "KOOPHONE.API.9999"
)

// work is a task with one job on a host.
type work struct {
	h         *host
	task, job string
	began     time.Time
}

// move moves the phone from host to host as a control plane does,
// until moving ends; a movement under way goes on until patient ends.
func (p *phone) move(moving, patient context.Context) error {
	for n := 0; pause(moving, between(p.r, 2*time.Second, 6*time.Second)); n++ {
		to := p.f.hosts[(p.at+1+p.r.IntN(phoneHosts-1))%phoneHosts]
		from := p.where()
		left, err := p.leave(patient, from, fmt.Sprintf("%s-%d-backup", p.id, n))
		if err != nil {
			return fmt.Errorf("%s, backup on %s: %w", p.id, from.name, err)
		}
		if !left {
			continue
		}
		if v := p.look(from); v.pid != 0 {
			p.f.found("%s was reported as released on %s and still has process %d", p.id, from.name, v.pid)
		}
		if err := p.arrive(patient, to, fmt.Sprintf("%s-%d-prepare", p.id, n)); err != nil {
			return fmt.Errorf("%s, prepare on %s: %w", p.id, to.name, err)
		}
		p.f.trail.count("movements")
	}
	return nil
}

// leave backs the phone up and has it released. It tells whether
// the phone is gone from the host; else it runs there.
func (p *phone) leave(ctx context.Context, h *host, request string) (bool, error) {
	w, err := p.command(ctx, h, backupPath, request, map[string]any{"instance_ids": []string{p.id}})
	if err != nil {
		return false, err
	}
	keep := p.r.IntN(8) == 0 // the control plane changes its mind
	wait := between(p.r, 0, 3*time.Second)
	p.f.trail.count("backups commanded")
	var completed time.Time
	for n := 0; ; n++ {
		switch p.f.plane.took(w.job, released, backupFailed, resumed) {
		case released:
			p.f.trail.count("releases")
			return true, nil
		case resumed, backupFailed:
			p.f.trail.count("backups that ended otherwise")
			return false, p.mend(ctx, w)
		}
		if completed.IsZero() && p.f.plane.took(w.job, backupCompleted) != "" {
			completed = time.Now()
		}
		switch {
		case completed.IsZero() || time.Since(completed) < wait || n%5 != 0:
		case keep:
			// tried again
			_, _ = h.call(ctx, p.tenant(), http.MethodPost, agentPath+p.id+"/resume", request+"-resume", nil)
		case p.release == "control-plane":
			// tried again
			_, _ = h.call(ctx, p.tenant(), http.MethodPost, agentPath+p.id+"/release", request+"-release", nil)
		}
		if n%15 == 14 {
			p.lookAfter(ctx, w, request)
		}
		if !pause(ctx, 200*time.Millisecond) {
			return false, fmt.Errorf("%w: job %s: %s", context.Cause(ctx), w.job, p.standing(w))
		}
	}
}

// lookAfter has an operator act on a job whose report was refused.
func (p *phone) lookAfter(ctx context.Context, w work, request string) {
	a, err := w.h.call(ctx, p.tenant(), http.MethodGet, taskPath+w.task, request+"-look", nil)
	if err != nil || len(a.Data.Jobs) != 1 || !strings.HasPrefix(a.Data.Jobs[0].ExecuteMsg, "held") {
		return
	}
	p.f.trail.count("reports refused")
	_ = w.h.socket.Release(ctx, p.id) // sends the report again; tried again
}

// arrive restores the phone on a host, where the agent starts it.
func (p *phone) arrive(ctx context.Context, h *host, request string) error {
	for n := 0; ; n++ {
		w, err := p.command(ctx, h, preparePath, fmt.Sprintf("%s-%d", request, n), map[string]any{"user_id": "u", "instance_ids": []string{p.id}})
		if err != nil {
			return err
		}
		p.mu.Lock()
		for i := range p.f.hosts {
			if p.f.hosts[i] == h {
				p.at = i
			}
		}
		p.mu.Unlock()
		for {
			if end := p.f.plane.took(w.job, restoreCompleted, restoreFailed); end == restoreCompleted {
				return p.mend(ctx, w)
			} else if end != "" {
				p.f.trail.count("restores that failed")
				break
			}
			if !pause(ctx, 200*time.Millisecond) {
				return fmt.Errorf("%w: job %s: %s", context.Cause(ctx), w.job, p.standing(w))
			}
		}
		if !pause(ctx, time.Second) {
			return context.Cause(ctx)
		}
	}
}

// command sends a command until it is accepted: the same request
// again and again, as its answer may have been lost.
func (p *phone) command(ctx context.Context, h *host, path, request string, body any) (work, error) {
	last, refusals, again := "no answer", 0, ""
	for {
		a, err := h.call(ctx, p.tenant(), http.MethodPost, path, request, body)
		switch {
		case err != nil:
			last = err.Error()
		case a.Code == "0" && a.Data.TaskID != "" && len(a.Data.CmdJobs) == 1:
			w := work{h: h, task: a.Data.TaskID, job: a.Data.CmdJobs[0].JobID, began: time.Now()}
			if w.task == again || p.r.IntN(3) > 0 {
				p.f.trail.note("%s: %s of %s is job %s", h.name, path, p.id, w.job)
				return w, nil
			}
			if again != "" {
				p.f.found("%s made tasks %s and %s of request %s", h.name, again, w.task, request)
			}
			again = w.task // the same command is sent once more
		default:
			last = a.Code + " " + a.Msg
			if a.Code != inBackup && a.Code != inRecovery && a.Code != internal {
				if refusals++; refusals == 5 {
					p.f.found("%s refuses %s of %s: %s", h.name, path, p.id, last)
				}
			}
		}
		if !pause(ctx, 500*time.Millisecond) {
			return work{}, fmt.Errorf("%w: the command is not accepted: %s", context.Cause(ctx), last)
		}
	}
}

// mend sees to it that the phone runs on the host after a job. By itself that
// is so, unless somebody else acted on the phone or the host was rebooted.
func (p *phone) mend(ctx context.Context, w work) error {
	for end := time.Now().Add(signPatience); !p.runs(w.h); {
		disturbed := p.meddledSince(w.began.Add(-time.Minute))
		if time.Now().After(end) || disturbed && time.Now().After(end.Add(-signPatience+5*time.Second)) {
			if !disturbed {
				p.f.found("%s does not run on %s after job %s: %s", p.id, w.h.name, w.job, p.standing(w))
			}
			p.f.trail.count("phones started by the operator")
			if err := p.run("start", w.h); err != nil {
				p.f.trail.note("%v", err)
			}
			end = time.Now().Add(signPatience)
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%w: it does not run after job %s: %s", context.Cause(ctx), w.job, p.standing(w))
		}
	}
	return nil
}

// standing says for people how a job stands.
func (p *phone) standing(w work) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	process := fmt.Sprintf("process %+v", p.look(w.h))
	a, err := w.h.call(ctx, p.tenant(), http.MethodGet, taskPath+w.task, "standing", nil)
	if err != nil {
		return process + ", " + err.Error()
	}
	return fmt.Sprintf("%s, %+v %s", process, a.Data.Jobs, a.Msg)
}
