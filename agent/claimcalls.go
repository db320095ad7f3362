package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/vault"
)

// claimLook bounds the look at the claims of all tenants for an operator.
const claimLook = 30 * time.Second

// jobOfOperator stands in the place of the job in a claim that an operator took over.
const jobOfOperator = "an operator's takeover"

// Claims implements api.Claims.
func (s *service) Claims(ctx context.Context, c model.Caller, id string) ([]api.ClaimInfo, error) {
	wanted := s.a.instances
	if id != "" {
		in, err := s.visible(c, id)
		if err != nil {
			return nil, err
		}
		wanted = map[string]*instance{id: in}
	}
	ctx, cancel := context.WithTimeout(ctx, claimLook)
	defer cancel()
	byTenant := map[string][]string{}
	for one, in := range wanted {
		byTenant[in.cfg.Tenant] = append(byTenant[in.cfg.Tenant], one)
	}
	var list []api.ClaimInfo
	for tenant, ids := range byTenant {
		opened, err := s.a.vaults.existing(ctx, tenant)
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
				list = append(list, s.a.claimInfo(claim))
			}
		}
	}
	slices.SortFunc(list, func(x, y api.ClaimInfo) int {
		return cmp.Or(cmp.Compare(x.InstanceID, y.InstanceID), cmp.Compare(x.Host, y.Host))
	})
	return list, nil
}

func (a *Agent) claimInfo(c vault.Claim) api.ClaimInfo {
	return api.ClaimInfo{
		InstanceID: c.Instance, Host: c.Host, ThisHost: c.Identity != "" && c.Identity == a.identity.ID, JobID: c.Job, BackupID: c.Backup,
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
	if s.a.identity.ID == "" {
		return nil, api.Refuse(api.CodeParameter, "this host has no identity that lasts, so it claims no instance")
	}
	ctx, cancel := context.WithTimeout(ctx, claimLook)
	defer cancel()
	opened, err := s.a.vaults.existing(ctx, in.cfg.Tenant)
	if err != nil {
		return nil, api.Refuse(api.CodeInternal, "the vault of the tenant can't be asked: %v", err)
	}
	others, err := opened.ClaimsOfOthers(ctx, s.a.identity.ID, 0, id)
	if err != nil {
		return nil, api.Refuse(api.CodeInternal, "the claims can't be read: %v", err)
	}
	if _, claimed := others[id]; !claimed {
		return nil, api.RefuseInstances(api.CodeParameter, []string{id}, "no other host has a claim on it")
	}
	known, err := s.a.journal.Content(id)
	if err != nil {
		return nil, err
	}
	silence := cmp.Or(s.a.cfg.Prepare.ClaimSilence, config.DefaultClaimSilence)
	taken, err := opened.Claim(ctx, vault.ClaimOptions{
		Instance: id, Host: s.a.cfg.HostID, Identity: s.a.identity.ID, Job: jobOfOperator, Backup: known.Backup, Seq: known.Seq,
		Silence: silence, TakeOver: force, Reason: reason, Every: s.a.claimPause(),
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
		list = append(list, s.a.claimInfo(t))
		s.a.log.Warn("an operator took over the claim of another host", keyInstance, id, "host", t.Host, "since", t.Renewed.UTC().Format(time.RFC3339),
			"forced", force, keyReason, reason, "by", c.Via)
	}
	s.a.claimed.note(id, nil)
	return list, nil
}

// has tells whether the content of an instance is on this host, and is the instance's as far as
// this host knows: it was made or restored here, and not released since.
func (a *Agent) has(ctx context.Context, in *instance) bool {
	id := in.cfg.ID
	known, err := a.journal.Content(id)
	if err != nil || known.Backup == "" || known.Released {
		return false
	}
	active, _, err := a.journal.ByInstance(id)
	if err != nil || active != nil {
		return err == nil && !active.IsRestore()
	}
	last, err := a.journal.Ended(id)
	if err != nil {
		return false
	}
	here, err := a.loaded(ctx, in, last)
	return err == nil && here
}

// seeClaims looks whether other hosts have claims on instances of the tenant whose content is
// here. So a host whose claim was taken over while the host was away finds that out, and so does a
// host that never had a claim. The next backup here is a fork only where the lineage says so.
func (a *Agent) seeClaims(ctx context.Context, tenant string, opened *vault.Vault) error {
	var ids []string
	for id, in := range a.instances {
		if in.cfg.Tenant == tenant {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	found, err := opened.ClaimsOfOthers(ctx, a.identity.ID, 0, ids...)
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, claimed := found[id]
		if !claimed || !a.has(ctx, a.instances[id]) {
			a.claimed.note(id, nil)
			continue
		}
		how := "has claimed it"
		if opened.TookOver(c, a.identity.ID) {
			how = "took over the claim of this host"
		}
		why := ""
		if c.Reason != "" {
			why = ": " + c.Reason
		}
		err := fmt.Errorf("host %s %s, at %s by its clock (%s)%s", c.Host, how, c.Made.UTC().Format("2006-01-02 15:04:05Z"), c.Job, why)
		if a.claimed.note(id, err) {
			a.log.Error("another host has claimed an instance whose content is on this host: see that only one of the two runs the instance",
				keyInstance, id, "host", c.Host, keyReason, err.Error())
		}
	}
	return nil
}

// sightOfClaims finds the instances whose content is here and that other hosts have claimed.
func (a *Agent) sightOfClaims() (found []sighting) {
	for id, err := range a.claimed.now() {
		found = append(found, sighting{name: troubleClaim, instance: id, err: err})
	}
	return found
}
