package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
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
	if s.self.Identity.ID == "" || len(ids) == 0 {
		return nil
	}
	in := s.instances.Configured(ids[0]) // the others are of the same tenant
	if in == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, elsewhereTime)
	defer cancel()
	tenant := in.Config().Tenant
	found, err := s.claims.Elsewhere(ctx, tenant, ids, elsewhereTime)
	if err != nil {
		s.log.Debug("nobody knows whether other hosts have the instances; the jobs find out", "tenant", tenant, keyReason, err.Error())
		return nil
	}
	still := s.notRunning(ctx, slices.Concat(slices.Collect(maps.Keys(found.Writes)), slices.Collect(maps.Keys(found.Claims))))
	return refuseElsewhere(found, still, s.self.Host)
}

// certainlyStill tells of the answer of a runtime whether the instance certainly does not run. A
// runtime that can't tell (none, or exec without a program for the state) answers without an error
// as well.
func certainlyStill(sight model.Sight, err error) bool {
	return err == nil && slices.Contains([]model.RuntimeState{model.IsFrozen, model.IsStopped, model.IsMissing}, sight.State)
}

// notRunning returns the instances that certainly do not run here, in order, each once.
func (s *service) notRunning(ctx context.Context, ids []string) []string {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	still := make([]bool, len(ids))
	var group contain.Group
	group.SetLimit(lookers)
	for i, id := range ids {
		in := s.instances.Configured(id)
		if in == nil {
			continue
		}
		group.Go(func() error {
			still[i] = certainlyStill(in.Runtime().State(ctx))
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
