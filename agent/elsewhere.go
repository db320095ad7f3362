package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/runtime"
	"holdfast/internal/contain"
	"holdfast/internal/vault"
)

// elsewhereTime bounds the look for other hosts before a prepare is accepted: a control plane
// waits for the answer, and the job finds out the same later.
const elsewhereTime = 2 * time.Second

// elsewhere refuses a restore of instances that other hosts back up, or have claimed, as far as the
// store says so within elsewhereTime. A store that is silent refuses nothing: the job looks again,
// and claims the instance. Nor is an instance refused that runs here: it is ready as it is.
func (s *service) elsewhere(ctx context.Context, ids []string) error {
	if s.a.identity.ID == "" || len(ids) == 0 {
		return nil
	}
	in := s.a.instances[ids[0]] // the others are of the same tenant
	if in == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereTime)
	defer cancel()
	tenant := in.cfg.Tenant
	found, err := act(ctx, &s.a.patience, "the vault of "+tenant, "the look for other hosts", elsewhereTime, 0, func(ctx context.Context) (vault.Elsewhere, error) {
		return s.a.elsewhere(ctx, tenant, ids)
	})
	if err != nil {
		s.a.log.Debug("nobody knows whether other hosts have the instances; the jobs find out", "tenant", tenant, keyReason, err.Error())
		return nil
	}
	still := s.notRunning(ctx, slices.Concat(slices.Collect(maps.Keys(found.Writes)), slices.Collect(maps.Keys(found.Claims))))
	return refuseElsewhere(found, still, s.a.cfg.HostID)
}

// elsewhere is the look at the vault of a tenant.
func (a *Agent) elsewhere(ctx context.Context, tenant string, ids []string) (vault.Elsewhere, error) {
	opened, err := a.vaults.existing(ctx, tenant)
	if err != nil {
		return vault.Elsewhere{}, fmt.Errorf("open vault: %w", err)
	}
	return opened.Elsewhere(ctx, a.identity.ID, a.cfg.Prepare.ClaimSilence, ids...)
}

// standsStill are the states in which an instance certainly does not run. A runtime that can't tell
// (none, or exec without a program for the state) answers without an error as well.
var standsStill = []runtime.State{runtime.Frozen, runtime.Stopped, runtime.Missing}

// notRunning returns the instances that certainly do not run here, in order, each once.
func (s *service) notRunning(ctx context.Context, ids []string) []string {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	still := make([]bool, len(ids))
	var group contain.Group
	group.SetLimit(lookers)
	for i, id := range ids {
		in := s.a.instances[id]
		if in == nil {
			continue
		}
		group.Go(func() error {
			sight, err := in.runtime.State(ctx)
			still[i] = err == nil && slices.Contains(standsStill, sight.State)
			return nil // whether it runs the job finds out
		})
	}
	if err := group.Wait(); err != nil { // a panic
		return nil
	}
	var sure []string
	for i, id := range ids {
		if still[i] {
			sure = append(sure, id)
		}
	}
	return sure
}

// refuseElsewhere names each instance that another host has, with the host. Where one is claimed,
// and another one backed up, the code is the code of the claim. A host with the name of this host
// is mostly this host itself, before its state folder was lost: nobody can release anything there.
func refuseElsewhere(found vault.Elsewhere, ids []string, own string) error {
	code := api.CodeInBackup
	var why []string
	for _, id := range ids {
		c, claimed := found.Claims[id]
		host, writes := found.Writes[id]
		switch {
		case writes && host == own:
			why = append(why, fmt.Sprintf("instance %s: an earlier state folder of this host, or a second host with the name %s, is backing it up", api.Quote(id), api.Quote(host)))
		case writes:
			why = append(why, fmt.Sprintf("instance %s: host %s is backing it up", api.Quote(id), api.Quote(host)))
		case claimed && c.Host == own:
			code = api.CodeInRecovery
			why = append(why, fmt.Sprintf("instance %s: an earlier state folder of this host, or a second host with the name %s, has claimed it; "+
				"if no second host has that name, take the claim over (holdfast claim take-over --force)", api.Quote(id), api.Quote(c.Host)))
		case claimed:
			code = api.CodeInRecovery
			why = append(why, fmt.Sprintf("instance %s: host %s has claimed it, and gives signs of life; release it there first", api.Quote(id), api.Quote(c.Host)))
		}
	}
	if len(why) == 0 {
		return nil
	}
	return api.Refuse(code, "%s", strings.Join(why, "; "))
}
