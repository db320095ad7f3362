package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/janitor"
	"holdfast/agent/job"
	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/agent/observe"
	"holdfast/agent/service"
	"holdfast/internal/vault"
)

// PrunesFile is the name of the file in the state folder with the prunes of this host.
const PrunesFile = "prunes.json"

// vaultOpening bounds the wait for a tenant's vault, which jobs may be opening.
const vaultOpening = 5 * time.Minute

// openJanitor makes the janitor.
func (a *Agent) openJanitor() error {
	r := a.cfg.Retention
	tenants := slices.Clone(r.Tenants)
	for i := range a.cfg.Instances {
		tenants = append(tenants, a.cfg.Instances[i].Tenant)
	}
	slices.Sort(tenants)
	j, aside, err := janitor.New(janitorHost{a}, janitor.Options{
		Host: a.cfg.HostID, Identity: a.self.Identity, Mode: janitor.Mode(r.Run), Tenants: slices.Compact(tenants), Policy: r.Policy,
		Every: time.Duration(r.Every), Grace: time.Duration(r.Grace), Wait: r.Wait,
		MaxShare: float64(r.MaxShare), MaxGarbage: float64(r.MaxGarbage), Sparse: float64(r.Sparse), ProlongLocks: r.ProlongLocks,
		IndexDir: filepath.Join(a.cfg.StateDir, "index"), File: filepath.Join(a.cfg.StateDir, PrunesFile),
	})
	if aside != nil {
		a.log.Error("the file of this host's prunes was damaged; a new one begins", keyError, aside.Error())
	}
	a.janitor = j
	a.pruning = a.metrics.Retention(a.retentionFigures)
	return err
}

// prune runs the janitor once the jobs of the last life were looked at.
func (a *Agent) prune(ctx context.Context, recovered <-chan struct{}) error {
	select {
	case <-recovered:
	case <-ctx.Done():
		return nil
	}
	if a.recovers {
		return nil
	}
	return a.janitor.Run(ctx)
}

// janitorHost is the agent as the janitor sees it.
type janitorHost struct{ a *Agent }

var _ janitor.Host = janitorHost{}

// Open implements janitor.Host. The vault of a run has a handle of
// its own, so that its requests keep to their own pace; the vault of
// the jobs is opened first, as it looks for copies of this host.
func (h janitorHost) Open(ctx context.Context, tenant string) (*vault.Vault, func(), error) {
	within, cancel := context.WithTimeout(ctx, vaultOpening)
	defer cancel()
	st := janitor.Paced(ctx, h.a.store, janitor.Pace{Requests: h.a.cfg.Retention.Requests, Pressed: h.a.heldForWork})
	v, err := h.a.vaults.OpenApart(within, st, tenant)
	if err != nil {
		return nil, nil, err
	}
	return v, v.Close, nil
}

// Needs implements janitor.Host: the backups from which the content on this host comes, and the
// backups of unfinished jobs: held, not acknowledged, or being restored. A backup on which an
// instance was powered down is the newest of its instance until another host makes a newer one.
func (h janitorHost) Needs(tenant string) (map[string]string, error) {
	needs := map[string]string{}
	need := func(instance, backup, why string) {
		if name := instance + "/" + backup; backup != "" && needs[name] == "" {
			needs[name] = "host " + h.a.cfg.HostID + " " + why
		}
	}
	active, err := h.a.journal.Active()
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, in := range h.a.instances.All() {
		ids[in.Config().ID] = in.Config().Tenant == tenant
	}
	for _, j := range active {
		if j.Tenant != tenant {
			continue
		}
		ids[j.Instance] = true
		why := "needs it for job " + j.ID
		need(j.Instance, j.Chosen, why)
		if j.Result != nil {
			need(j.Instance, j.Result.BackupID, why)
		}
		if r := j.Restore; r != nil {
			need(j.Instance, r.Backup, why)
			if r.Known != nil {
				need(j.Instance, r.Known.Backup, why)
			}
		}
	}
	for id, is := range ids {
		if !is {
			continue
		}
		c, err := h.a.journal.Content(id)
		if err != nil {
			return nil, err
		}
		if c.Released || c.Tenant != "" && c.Tenant != tenant {
			continue
		}
		need(id, c.Backup, "has the instance from it")
		for _, tried := range c.Tried {
			need(id, tried, "may have the instance from it")
		}
	}
	return needs, h.needsOfReports(tenant, need)
}

// needsOfReports adds the backups whose reports the control plane did not take yet.
func (h janitorHost) needsOfReports(tenant string, need func(instance, backup, why string)) error {
	waiting, err := h.a.manager.Waiting()
	if err != nil {
		return err
	}
	refused, err := h.a.journal.Refused()
	if err != nil {
		return err
	}
	for _, r := range refused {
		waiting = append(waiting, r.Event)
	}
	for _, e := range waiting {
		if e.Type != model.EventCompleted {
			continue
		}
		j, err := h.a.journal.Job(e.Job)
		if errors.Is(err, model.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		if j.Tenant == tenant && j.Result != nil {
			need(j.Instance, j.Result.BackupID, "has not reported it yet")
		}
	}
	return nil
}

// AtWork implements janitor.Host.
func (h janitorHost) AtWork(tenant string) string {
	active, err := h.a.journal.Active()
	if err != nil {
		return ""
	}
	for _, j := range active {
		if j.Tenant == tenant && storing[j.State] {
			return fmt.Sprintf("job %s of instance %s on this host, %s", j.ID, j.Instance, j.State)
		}
	}
	return ""
}

// storing are the states in which a job writes to the vault, or reads from it.
var storing = map[model.State]bool{
	model.Precopying: true, model.Freezing: true, model.Frozen: true, model.Snapshotting: true, model.Snapshotted: true, model.Uploading: true, model.Restoring: true,
}

// heldForWork tells whether an instance stands still for a job that needs the store.
func (a *Agent) heldForWork() bool {
	active, err := a.journal.Active()
	return err == nil && slices.ContainsFunc(active, func(j *model.Job) bool { return j.Hold && storing[j.State] })
}

// Halted implements janitor.Host.
func (h janitorHost) Halted() error {
	if err := h.a.standing.Allowed(); err != nil {
		return err
	}
	if h.a.manager.Draining() || h.a.stopping.Load() {
		return job.ErrDraining
	}
	return nil
}

// Tell implements janitor.Host.
func (h janitorHost) Tell(kind string, r janitor.Run) error {
	data, err := json.Marshal(service.PruneRun(r))
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	return h.a.manager.Tell(kind, "vaults/"+r.Tenant, r.Tenant, data)
}

// Warn implements janitor.Host.
func (h janitorHost) Warn(tenant string, err error) {
	h.a.log.Warn("a prune goes on beside a fault", keyTenant, tenant, keyReason, err.Error())
}

// keyTenant is the key of log lines about a tenant's vault.
const keyTenant = "tenant"

// Changed implements janitor.Host.
func (h janitorHost) Changed(r janitor.Run) {
	log := h.a.log.With(keyTenant, r.Tenant, observe.KeyTask, r.ID)
	switch {
	case r.State.Over():
		p := r.Report.Prune
		if !r.DryRun {
			h.a.pruning.Ended(string(r.State), r.Report.Forgotten, p.Forgotten, p.DeletedBytes)
		}
		args := []any{
			"forgotten", r.Report.Forgotten, "deleted_backups", p.Forgotten, "deleted_packs", p.Deleted, observe.KeyBytes, p.DeletedBytes,
			"garbage_bytes", p.GarbageBytes, "odd", r.Report.Odd, "needed", r.Report.Needed, "dry_run", r.DryRun, observe.KeyDuration, r.Ended.Sub(r.Began).Seconds(),
		}
		if r.State == janitor.Failed {
			log.Error("a prune failed", append(args, "problem", string(r.Problem), keyReason, r.Reason)...)
			return
		}
		log.Info("a prune ended", append(args, keyState, string(r.State))...)
	case r.State == janitor.Waiting && r.Reason != "":
		log.Info("a prune waits for the next start", keyReason, r.Reason)
	case len(r.Report.Waits) > 0:
		log.Debug("a prune waits", "for", r.Report.Waits, keyState, r.Step)
	default:
		log.Debug("a prune goes on", keyState, r.Step)
	}
}

// retentionFigures are the figures of the metrics.
func (a *Agent) retentionFigures() (f metrics.RetentionFigures) {
	seen := map[string]bool{}
	for _, r := range a.janitor.Runs("") { // the newest first
		if r.State == janitor.AtWork {
			f.Active++
			f.Waits += len(r.Report.Waits)
		}
		if seen[r.Tenant] || r.DryRun || r.State != janitor.Done && r.State != janitor.Failed || r.Report.Prune.Packs == 0 {
			continue
		}
		seen[r.Tenant] = true
		p := r.Report.Prune
		f.Garbage += max(0, p.GarbageBytes-p.DeletedBytes)
		f.Refused += len(p.Refused)
		f.Odd += r.Report.Odd
	}
	for _, tenant := range a.janitor.Tenants() {
		last, known := a.janitor.Last(tenant)
		if known && (f.Last.IsZero() || last.Stored.Before(f.Last)) {
			f.Last = last.Stored
		}
	}
	if a.cfg.Retention.Run != config.RetentionCommand && !f.Last.IsZero() {
		f.Overdue = max(0, time.Since(f.Last)-time.Duration(a.cfg.Retention.Every))
	}
	return f
}

// sightOfVaults finds the vaults for which a human must act.
func (a *Agent) sightOfVaults() (found []observe.Sighting) {
	for _, t := range a.janitor.Troubles() {
		name := observe.TroublePrune
		if t.Problem == janitor.ProblemShare {
			name = observe.TroubleShare
		}
		found = append(found, observe.Sighting{
			Name: name, What: t.Tenant, Age: max(0, time.Since(t.Since)), Dated: true, Err: fmt.Errorf("the vault of tenant %s: %s", api.Quote(t.Tenant), t.Reason),
		})
	}
	return found
}
