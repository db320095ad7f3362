package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/engine"
	"holdfast/agent/model"
	"holdfast/internal/vault"
)

// claimLook bounds the look at the claims of all tenants for an operator.
const claimLook = 30 * time.Second

// jobOfOperator stands in the place of the job in a claim that an operator took over.
const jobOfOperator = "an operator's takeover"

// Claims implements api.Claims.
func (s *service) Claims(ctx context.Context, c model.Caller, id string) ([]api.ClaimInfo, error) {
	wanted := s.instances.All()
	if id != "" {
		in, err := s.visible(c, id)
		if err != nil {
			return nil, err
		}
		wanted = []*engine.Instance{in}
	}
	ctx, cancel := context.WithTimeout(ctx, claimLook)
	defer cancel()
	byTenant := map[string][]string{}
	for _, in := range wanted {
		byTenant[in.Config().Tenant] = append(byTenant[in.Config().Tenant], in.Config().ID)
	}
	var list []api.ClaimInfo
	for tenant, ids := range byTenant {
		opened, err := s.vaults.Existing(ctx, tenant)
		if errors.Is(err, vault.ErrNoVault) {
			continue
		} else if err != nil {
			return nil, api.Refuse(api.CodeInternal, "the vault of tenant %s can't be asked: %v", api.Quote(tenant), err)
		}
		claims, err := opened.Claims(ctx, id)
		if err != nil {
			return nil, api.Refuse(api.CodeInternal, "the claims in the vault of tenant %s can't be read: %v", api.Quote(tenant), err)
		}
		for _, claim := range claims {
			if slices.Contains(ids, claim.Instance) {
				list = append(list, s.claimInfo(claim))
			}
		}
	}
	slices.SortFunc(list, func(x, y api.ClaimInfo) int {
		return cmp.Or(cmp.Compare(x.InstanceID, y.InstanceID), cmp.Compare(x.Host, y.Host))
	})
	return list, nil
}

func (s *service) claimInfo(c vault.Claim) api.ClaimInfo {
	return api.ClaimInfo{
		InstanceID: c.Instance, Host: c.Host, ThisHost: c.Identity != "" && c.Identity == s.self.Identity.ID, JobID: c.Job, BackupID: c.Backup,
		Since: c.Made.UTC(), Renewed: c.Renewed.UTC(), SilentSeconds: max(0, time.Since(c.Renewed)).Seconds(), Took: len(c.Over), Reason: c.Reason,
	}
}

// TakeOverClaim implements api.Claims. Without force it takes the claims that a prepare would take:
// of hosts that are silent for prepare.claim_silence, or for its default where that is endless.
func (s *service) TakeOverClaim(ctx context.Context, c model.Caller, id, reason string, force bool) ([]api.ClaimInfo, error) {
	in, err := s.visible(c, id)
	if err != nil {
		return nil, err
	}
	if s.self.Identity.ID == "" {
		return nil, api.Refuse(api.CodeParameter, "this host has no identity that lasts, so it claims no instance")
	}
	ctx, cancel := context.WithTimeout(ctx, claimLook)
	defer cancel()
	opened, err := s.vaults.Existing(ctx, in.Config().Tenant)
	if err != nil {
		return nil, api.Refuse(api.CodeInternal, "the vault of the tenant can't be asked: %v", err)
	}
	others, err := opened.ClaimsOfOthers(ctx, s.self.Identity.ID, 0, id)
	if err != nil {
		return nil, api.Refuse(api.CodeInternal, "the claims can't be read: %v", err)
	}
	if _, claimed := others[id]; !claimed {
		return nil, api.RefuseInstances(api.CodeParameter, []string{id}, "no other host has a claim on it")
	}
	known, err := s.journal.Content(id)
	if err != nil {
		return nil, err
	}
	silence := cmp.Or(s.prepared.ClaimSilence, config.DefaultClaimSilence)
	taken, err := opened.Claim(ctx, vault.ClaimOptions{
		Instance: id, Host: s.self.Host, Identity: s.self.Identity.ID, Job: jobOfOperator, Backup: known.Backup, Seq: known.Seq,
		Silence: silence, TakeOver: force, Reason: reason, Every: s.claims.Pause(),
		Keeps: func(vault.Claim) bool { return false }, // it is the operator's from now on
	})
	var living *vault.ClaimedError
	switch {
	case errors.As(err, &living):
		return nil, api.RefuseInstances(api.CodeInRecovery, []string{id},
			fmt.Sprintf("host %s gave a sign of life within %s; release the instance there, or force the takeover", api.Quote(living.Claims[0].Host), living.Claims[0].Outlasts(silence)))
	case err != nil:
		return nil, api.Refuse(api.CodeInternal, "the claim could not be taken over: %v", err)
	}
	list := make([]api.ClaimInfo, 0, len(taken))
	for _, t := range taken {
		list = append(list, s.claimInfo(t))
		s.log.Warn("an operator took over the claim of another host", keyInstance, id, "host", t.Host, "since", t.Renewed.UTC().Format(time.RFC3339),
			"forced", force, keyReason, reason, "by", c.Via)
	}
	s.claims.TakenOver(id)
	return list, nil
}
