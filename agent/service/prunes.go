package service

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/agent/api"
	"holdfast/agent/janitor"
	"holdfast/agent/job"
	"holdfast/agent/model"
)

// Prune implements api.Vaults.
func (s *service) Prune(ctx context.Context, c model.Caller, requestID string, digest [32]byte, tenant string, p api.PruneCommand) (api.PruneAnswer, error) {
	switch {
	case c.Role == model.RoleTenant:
		return api.PruneAnswer{}, api.Refuse(api.CodeNoPermission, "the role %s may not make this call", api.Quote(string(c.Role)))
	case !c.Sees(tenant):
		return api.PruneAnswer{}, api.Refuse(api.CodeNoPermission, "tenant %s does not exist, or is not yours", api.Quote(tenant))
	case s.recovers:
		return api.PruneAnswer{}, api.Busy(retryDraining, "this host recovers, and takes no commands")
	}
	run, err := s.janitor.Accept(janitor.Request{
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
func commander(c model.Caller) string {
	if c.Role == model.RoleOperator {
		return "an operator"
	}
	return "the control plane"
}

// Vaults implements api.Vaults.
func (s *service) Vaults(_ context.Context, c model.Caller, tenant string) ([]api.VaultInfo, error) {
	tenants := s.janitor.Tenants()
	if tenant != "" {
		if !c.Sees(tenant) || !slices.Contains(tenants, tenant) {
			return nil, noVault(c, tenant)
		}
		tenants = []string{tenant}
	}
	troubles := map[string]string{}
	for _, t := range s.janitor.Troubles() {
		troubles[t.Tenant] = t.Reason
	}
	var list []api.VaultInfo
	for _, of := range tenants {
		if !c.Sees(of) {
			continue
		}
		info := api.VaultInfo{Tenant: of, Run: s.retention, Trouble: s.textFor(c, troubles[of])}
		if last, known := s.janitor.Last(of); known {
			info.LastPrune = last.Stored.UTC()
			if info.LastHost = last.Host; !c.SeesAll() {
				info.LastHost = ""
			}
		}
		for i, r := range s.janitor.Runs(of) {
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

func noVault(c model.Caller, tenant string) *api.Error {
	if c.SeesAll() {
		return api.Refuse(api.CodeParameter, "tenant: this host neither has an instance of tenant %s nor has pruned its vault", api.Quote(tenant))
	}
	return api.Refuse(api.CodeNoPermission, "tenant %s does not exist on this host, or is not yours", api.Quote(tenant))
}

// runFor is a run as far as the caller may know.
func (s *service) runFor(c model.Caller, r janitor.Run) api.PruneRun {
	out := PruneRun(r)
	out.Reason, out.Step = s.textFor(c, out.Reason), s.textFor(c, out.Step)
	for i, w := range out.Waits {
		out.Waits[i] = s.textFor(c, w)
	}
	return out
}

// PruneRun is a run in the words of the API and of events.
func PruneRun(r janitor.Run) api.PruneRun {
	p := r.Report.Prune
	out := api.PruneRun{
		TaskID: r.ID, Tenant: r.Tenant, By: r.By, DryRun: r.DryRun, KeepAll: r.KeepAll, AcceptShare: r.AcceptShare, State: string(r.State),
		Status: api.StatusRunning, Step: r.Step, Problem: string(r.Problem), Reason: r.Reason, Accepted: r.Accepted, Began: r.Began, Ended: r.Ended,
		Backups: r.Report.Backups, Forget: r.Report.Forget, Forgotten: r.Report.Forgotten, Needed: r.Report.Needed, Odd: r.Report.Odd,
		OddBackups: r.Report.OddBackups, BroughtBack: r.Report.Back, Share: r.Report.Share, Waits: slices.Clone(r.Report.Waits),
		DeletedBackups: p.Forgotten, Packs: p.Packs, Bytes: p.Bytes, GarbagePacks: p.Garbage, GarbageBytes: p.GarbageBytes,
		DeletedPacks: p.Deleted, DeletedBytes: p.DeletedBytes, MovedPacks: p.Moved, MovedBytes: p.MovedBytes, Locked: p.Locked, RefusedPacks: len(p.Refused), MissingPacks: len(p.Unlisted),
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
func (s *service) pruneTask(c model.Caller, id string) (api.TaskStatus, error) {
	r, err := s.janitor.Find(id)
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
func (s *service) cancelPrune(c model.Caller, id string) error {
	r, err := s.janitor.Find(id)
	if err != nil || !c.Sees(r.Tenant) || c.Role == model.RoleTenant {
		return api.UnknownTask(id)
	}
	err = s.janitor.Cancel(id)
	if errors.Is(err, janitor.ErrOver) {
		if r.State == janitor.Cancelled {
			return nil
		}
		return api.Refuse(api.CodeParameter, "task_id: %v", err)
	}
	return err
}
