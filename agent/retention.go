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
		Host: a.cfg.HostID, Identity: a.identity, Mode: janitor.Mode(r.Run), Tenants: slices.Compact(tenants), Policy: r.Policy,
		Every: time.Duration(r.Every), Grace: time.Duration(r.Grace), Wait: r.Wait,
		MaxShare: float64(r.MaxShare), MaxGarbage: float64(r.MaxGarbage),
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
	if _, err := h.a.vaults.existing(within, tenant); err != nil {
		return nil, nil, err
	}
	nameKey, identity, err := h.a.vaults.keys.get()
	if err != nil {
		return nil, nil, err
	}
	st := janitor.Paced(ctx, h.a.store, janitor.Pace{Requests: h.a.cfg.Retention.Requests, Pressed: h.a.heldForWork})
	v, err := vault.Open(within, st, tenant, nameKey, identity)
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
	for id, in := range h.a.instances {
		ids[id] = in.cfg.Tenant == tenant
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
		if e.Type != job.EventCompleted {
			continue
		}
		j, err := h.a.journal.Job(e.Job)
		if errors.Is(err, job.ErrNotFound) {
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
var storing = map[job.State]bool{
	job.Precopying: true, job.Freezing: true, job.Frozen: true, job.Snapshotting: true, job.Snapshotted: true, job.Uploading: true, job.Restoring: true,
}

// heldForWork tells whether an instance stands still for a job that needs the store.
func (a *Agent) heldForWork() bool {
	active, err := a.journal.Active()
	return err == nil && slices.ContainsFunc(active, func(j *job.Job) bool { return j.Hold && storing[j.State] })
}

// Halted implements janitor.Host.
func (h janitorHost) Halted() error {
	if err := h.a.standing.allowed(); err != nil {
		return err
	}
	if h.a.manager.Draining() || h.a.stopping.Load() {
		return job.ErrDraining
	}
	return nil
}

// Tell implements janitor.Host.
func (h janitorHost) Tell(kind string, r janitor.Run) error {
	data, err := json.Marshal(pruneRun(r))
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
	log := h.a.log.With(keyTenant, r.Tenant, keyTask, r.ID)
	switch {
	case r.State.Over():
		p := r.Report.Prune
		if !r.DryRun {
			h.a.pruning.Ended(string(r.State), r.Report.Forgotten, p.Forgotten, p.DeletedBytes)
		}
		args := []any{
			"forgotten", r.Report.Forgotten, "deleted_backups", p.Forgotten, "deleted_packs", p.Deleted, keyBytes, p.DeletedBytes,
			"garbage_bytes", p.GarbageBytes, "odd", r.Report.Odd, "needed", r.Report.Needed, "dry_run", r.DryRun, keyDuration, r.Ended.Sub(r.Began).Seconds(),
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
func (a *Agent) sightOfVaults() (found []sighting) {
	for _, t := range a.janitor.Troubles() {
		name := troublePrune
		if t.Problem == janitor.ProblemShare {
			name = troubleShare
		}
		found = append(found, sighting{
			name: name, what: t.Tenant, age: max(0, time.Since(t.Since)), dated: true, err: fmt.Errorf("the vault of tenant %s: %s", api.Quote(t.Tenant), t.Reason),
		})
	}
	return found
}

// Prune implements api.Vaults.
func (s *service) Prune(ctx context.Context, c api.Caller, requestID string, digest [32]byte, tenant string, p api.PruneCommand) (api.PruneAnswer, error) {
	a := s.a
	switch {
	case c.Role == api.RoleTenant:
		return api.PruneAnswer{}, api.Refuse(api.CodeNoPermission, "the role %s may not make this call", api.Quote(string(c.Role)))
	case !c.Sees(tenant):
		return api.PruneAnswer{}, api.Refuse(api.CodeNoPermission, "tenant %s does not exist, or is not yours", api.Quote(tenant))
	case a.recovers:
		return api.PruneAnswer{}, api.Busy(retryDraining, "this host recovers, and takes no commands")
	}
	run, err := a.janitor.Accept(janitor.Request{
		Tenant: tenant, ID: requestID, Caller: c.Tenant, By: commander(c), Digest: digest,
		Command: janitor.Command{DryRun: p.DryRun, KeepAll: p.KeepAll, AcceptShare: p.AcceptShare},
	})
	switch {
	case errors.Is(err, janitor.ErrReused):
		return api.PruneAnswer{}, api.Refuse(api.CodeParameter, "x-request-id: %s was used before with another body", api.Quote(requestID))
	case errors.Is(err, janitor.ErrFull):
		return api.PruneAnswer{}, api.Busy(retryFull, "%v", err)
	case errors.Is(err, job.ErrDraining):
		return api.PruneAnswer{}, api.Busy(retryDraining, "this host is shutting down")
	case err != nil:
		return api.PruneAnswer{}, err
	}
	return api.PruneAnswer{TaskID: run.ID}, nil
}

// commander names who commands, for people.
func commander(c api.Caller) string {
	if c.Role == api.RoleOperator {
		return "an operator"
	}
	return "the control plane"
}

// Vaults implements api.Vaults.
func (s *service) Vaults(_ context.Context, c api.Caller, tenant string) ([]api.VaultInfo, error) {
	tenants := s.a.janitor.Tenants()
	if tenant != "" {
		if !c.Sees(tenant) || !slices.Contains(tenants, tenant) {
			return nil, noVault(c, tenant)
		}
		tenants = []string{tenant}
	}
	troubles := map[string]string{}
	for _, t := range s.a.janitor.Troubles() {
		troubles[t.Tenant] = t.Reason
	}
	var list []api.VaultInfo
	for _, of := range tenants {
		if !c.Sees(of) {
			continue
		}
		info := api.VaultInfo{Tenant: of, Run: s.a.cfg.Retention.Run, Trouble: s.textFor(c, troubles[of])}
		if last, known := s.a.janitor.Last(of); known {
			info.LastPrune = last.Stored.UTC()
			if info.LastHost = last.Host; !c.SeesAll() {
				info.LastHost = ""
			}
		}
		for i, r := range s.a.janitor.Runs(of) {
			if i == maxShownRuns {
				break
			}
			info.Runs = append(info.Runs, s.runFor(c, r))
		}
		list = append(list, info)
	}
	return list, nil
}

// maxShownRuns bounds the runs of a vault in an answer.
const maxShownRuns = 20

func noVault(c api.Caller, tenant string) *api.Error {
	if c.SeesAll() {
		return api.Refuse(api.CodeParameter, "tenant: this host neither has an instance of tenant %s nor has pruned its vault", api.Quote(tenant))
	}
	return api.Refuse(api.CodeNoPermission, "tenant %s does not exist on this host, or is not yours", api.Quote(tenant))
}

// runFor is a run as far as the caller may know.
func (s *service) runFor(c api.Caller, r janitor.Run) api.PruneRun {
	out := pruneRun(r)
	out.Reason, out.Step = s.textFor(c, out.Reason), s.textFor(c, out.Step)
	for i, w := range out.Waits {
		out.Waits[i] = s.textFor(c, w)
	}
	return out
}

// pruneRun is a run in the words of the API and of events.
func pruneRun(r janitor.Run) api.PruneRun {
	p := r.Report.Prune
	out := api.PruneRun{
		TaskID: r.ID, Tenant: r.Tenant, By: r.By, DryRun: r.DryRun, KeepAll: r.KeepAll, AcceptShare: r.AcceptShare, State: string(r.State),
		Status: api.StatusRunning, Step: r.Step, Problem: string(r.Problem), Reason: r.Reason, Accepted: r.Accepted, Began: r.Began, Ended: r.Ended,
		Backups: r.Report.Backups, Forget: r.Report.Forget, Forgotten: r.Report.Forgotten, Needed: r.Report.Needed, Odd: r.Report.Odd,
		OddBackups: r.Report.OddBackups, BroughtBack: r.Report.Back, Share: r.Report.Share, Waits: slices.Clone(r.Report.Waits),
		DeletedBackups: p.Forgotten, Packs: p.Packs, Bytes: p.Bytes, GarbagePacks: p.Garbage, GarbageBytes: p.GarbageBytes,
		DeletedPacks: p.Deleted, DeletedBytes: p.DeletedBytes, Locked: p.Locked, RefusedPacks: len(p.Refused), MissingPacks: len(p.Unlisted),
	}
	switch r.State {
	case janitor.Done:
		out.Status = api.StatusSuccess
	case janitor.Failed, janitor.Cancelled:
		out.Status = api.StatusFailed
	}
	return out
}

// pruneTask tells how a prune stands, in the words of the contract.
func (s *service) pruneTask(c api.Caller, id string) (api.TaskStatus, error) {
	r, err := s.a.janitor.Find(id)
	if err != nil || !c.Sees(r.Tenant) {
		return api.TaskStatus{}, api.UnknownTask(id)
	}
	run := s.runFor(c, r)
	one := api.JobStatus{JobID: id, Status: run.Status, ErrorCode: api.CodeOK, ErrorMsg: "OK", ExecuteMsg: run.Step}
	switch {
	case run.Status == api.StatusFailed:
		one.ErrorCode, one.ErrorMsg, one.ExecuteMsg = api.CodeInternal, "the prune failed", run.Reason
		if r.State == janitor.Cancelled {
			one.ErrorMsg = "the prune was cancelled"
		}
	case run.Status == api.StatusSuccess:
		one.ExecuteMsg = fmt.Sprintf("%d backups forgotten, %d forgotten backups deleted, %d bytes freed", run.Forgotten, run.DeletedBackups, run.DeletedBytes)
	case len(run.Waits) > 0:
		one.ExecuteMsg = fmt.Sprintf("%s: %s", run.Step, run.Waits[0])
	}
	return api.TaskStatus{Jobs: []api.JobStatus{one}}, nil
}

// cancelPrune ends a prune that a caller may see and command.
func (s *service) cancelPrune(c api.Caller, id string) error {
	r, err := s.a.janitor.Find(id)
	if err != nil || !c.Sees(r.Tenant) || c.Role == api.RoleTenant {
		return api.UnknownTask(id)
	}
	err = s.a.janitor.Cancel(id)
	if errors.Is(err, janitor.ErrOver) {
		if r.State == janitor.Cancelled {
			return nil
		}
		return api.Refuse(api.CodeParameter, "task_id: %v", err)
	}
	return err
}

// mayNotDelete is told of each delete that the store refused to this host. It is told once in a
// life: hosts whose credentials only append are in order, and a prune says so by a state.
func (w *watcher) mayNotDelete(err error) {
	w.mu.Lock()
	before := w.appends
	w.appends = true
	w.mu.Unlock()
	if !before {
		w.log.Warn("the store refuses a delete to this host; where its credentials are to append only, another host has to prune the vaults (retention.run)", keyReason, err.Error())
	}
}
