package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/vault"
)

const (
	// claimBeats is how many signs of life of a living host fit into the
	// silence after which another host takes its claim over: some may fail.
	claimBeats = 4
	// claimEvery is the shortest time between two of them, also where the silence is short,
	// and the time after which a pass that failed is tried again.
	claimEvery = 10 * time.Second
	// claimPass bounds one pass over the claims of all tenants.
	claimPass = 5 * time.Minute
)

// keepsClaim tells whether the host keeps its claim on an instance. A
// journal that can't be read lets no claim go.
func (a *Agent) keepsClaim(c vault.Claim) bool {
	keeps, err := a.journal.KeepsClaim(c.Instance, c.Origin)
	return err != nil || keeps
}

// claimPause is the time between two signs of life for a claim of this host. Other hosts take a
// claim over after a silence of their own configuration, so this host gives signs of life at least
// as often as a host with the default, also where it takes no claim over itself.
func (a *Agent) claimPause() time.Duration { return claimPause(a.cfg.Prepare.ClaimSilence) }

func claimPause(silence time.Duration) time.Duration {
	if silence <= 0 {
		silence = config.DefaultClaimSilence
	}
	return max(claimEvery, min(silence, config.DefaultClaimSilence)/claimBeats)
}

// keepClaims gives signs of life for the claims of this host until ctx ends, and
// lets go of the claims on instances that were released, soon after the release.
func (a *Agent) keepClaims(ctx context.Context) {
	passes := claimPasses{every: a.claimPause()}
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		signalled := false
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case <-a.watcher.claims:
			signalled = true
		}
		tenants := passes.due(time.Now(), signalled, a.claimTenants())
		pass, cancel := context.WithTimeout(ctx, min(claimPass, passes.every))
		failed := a.passClaims(pass, tenants)
		cancel()
		next.Reset(passes.done(time.Now(), failed))
	}
}

// claimPasses decides which tenants each pass over the claims is for. The zero value but for every
// is ready. It is for one goroutine.
type claimPasses struct {
	every  time.Duration        // between two passes over all tenants
	all    time.Time            // when the next pass over all tenants is due
	whole  bool                 // whether the present pass is over all tenants
	failed []string             // the tenants of which the last pass failed
	tried  map[string]time.Time // when each tenant was last due
}

// due returns the tenants of the pass that begins now, of all tenants: all of them, or the tenants
// of which the pass before failed. The tenant whose turn is the longest ago comes first, so that a
// vault that does not answer takes the time of a pass from the other vaults once only.
func (p *claimPasses) due(now time.Time, signalled bool, all map[string]bool) []string {
	p.whole = signalled || !now.Before(p.all)
	tenants := slices.Sorted(maps.Keys(all))
	if !p.whole {
		tenants = slices.DeleteFunc(tenants, func(t string) bool { return !slices.Contains(p.failed, t) })
	}
	slices.SortStableFunc(tenants, func(a, b string) int { return p.tried[a].Compare(p.tried[b]) })
	if p.tried == nil {
		p.tried = map[string]time.Time{}
	}
	for i, t := range tenants {
		p.tried[t] = now.Add(time.Duration(i)) // a pass that is cut off goes on with the others
	}
	return tenants
}

// done notes the tenants of which the pass failed, and returns the pause until the next pass. A
// claim that could not be let go keeps the next host out, so a failed pass is tried again soon.
func (p *claimPasses) done(now time.Time, failed []string) time.Duration {
	if p.whole {
		p.all = now.Add(p.every)
	}
	p.failed = failed
	if len(failed) > 0 {
		return claimEvery
	}
	return max(0, p.all.Sub(now))
}

// passClaims looks once at the claims in the vaults of the tenants. It returns
// the tenants of whose claims not all are as they are to be.
func (a *Agent) passClaims(ctx context.Context, tenants []string) (failed []string) {
	if a.identity.ID == "" || a.standing.reason() != nil {
		return nil
	}
	for _, tenant := range tenants {
		if !a.passTenant(ctx, tenant) {
			failed = append(failed, tenant)
		}
	}
	return failed
}

// passTenant is passClaims for one tenant. It tells whether all is as it is to be.
func (a *Agent) passTenant(ctx context.Context, tenant string) (well bool) {
	opened, err := a.vaults.existing(ctx, tenant)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, vault.ErrNoVault) {
			a.log.Debug("the claims of this host are not renewed", "tenant", tenant, keyError, err.Error())
		}
		return errors.Is(err, vault.ErrNoVault)
	}
	_, lost, err := opened.KeepClaims(ctx, vault.KeepOptions{
		Host: a.cfg.HostID, Identity: a.identity.ID, Every: a.claimPause(), Keeps: a.keepsClaim,
	})
	well = err == nil
	if err != nil && ctx.Err() == nil {
		a.log.Warn("the claims of this host are not all renewed; the next pass tries again", keyReason, err.Error())
	}
	if err := a.seeClaims(ctx, tenant, opened); err != nil {
		well = false
		if ctx.Err() == nil {
			a.log.Warn("this host does not know whether other hosts have claimed its instances; the next pass looks again", keyReason, err.Error())
		}
	}
	for _, c := range lost {
		a.log.Error("another host took over the claim on an instance that this host has: see that only one of the two runs the instance",
			keyInstance, c.Instance, "host", c.Host)
	}
	return well
}

// claimTenants are the tenants in whose vaults this host may have claims: it
// knows a backup of one of their instances, or tried to restore an instance.
func (a *Agent) claimTenants() map[string]bool {
	tenants := map[string]bool{}
	for id, in := range a.instances {
		b, err := a.journal.Belongs(id)
		if err == nil && b.Known {
			tenants[in.cfg.Tenant] = true
		}
		if err == nil && b.Tenant != "" {
			tenants[b.Tenant] = true
		}
	}
	return tenants
}

// released tells the keeper of claims that an instance left this host, or did not get here.
func (w *watcher) released(j *model.Job) {
	if j.State != model.Released && (j.State != model.Failed || !j.IsRestore()) {
		return
	}
	select {
	case w.claims <- struct{}{}:
	default:
	}
}
