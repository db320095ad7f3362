package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/journal"
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

// claimRecords are the records of the journal that tell which claims this host keeps.
type claimRecords interface {
	KeepsClaim(instance, origin string) (bool, error)
	Belongs(instance string) (journal.Belonging, error)
}

// Claims keeps the claims of this host, and sees the claims of others. It is for any goroutine.
type Claims struct {
	log       *slog.Logger
	self      Self
	standing  *Standing
	patience  *patience
	instances *Instances
	volumes   *Volumes
	vaults    *Vaults
	journal   claimRecords
	silence   time.Duration   // prepare.claim_silence
	releases  <-chan struct{} // has a token after a release
	claimed   claimedBy
}

// keepsClaim tells whether the host keeps its claim on an instance. A
// journal that can't be read lets no claim go.
func (k *Claims) keepsClaim(c vault.Claim) bool {
	keeps, err := k.journal.KeepsClaim(c.Instance, c.Origin)
	return err != nil || keeps
}

// Pause is the time between two signs of life for a claim of this host. Other hosts take a
// claim over after a silence of their own configuration, so this host gives signs of life at least
// as often as a host with the default, also where it takes no claim over itself.
func (k *Claims) Pause() time.Duration { return claimPause(k.silence) }

func claimPause(silence time.Duration) time.Duration {
	if silence <= 0 {
		silence = config.DefaultClaimSilence
	}
	return max(claimEvery, min(silence, config.DefaultClaimSilence)/claimBeats)
}

// Keep gives signs of life for the claims of this host until ctx ends, and
// lets go of the claims on instances that were released, soon after the release.
func (k *Claims) Keep(ctx context.Context) {
	passes := claimPasses{every: k.Pause()}
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		signalled := false
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case <-k.releases:
			signalled = true
		}
		tenants := passes.due(time.Now(), signalled, k.claimTenants())
		pass, cancel := context.WithTimeout(ctx, min(claimPass, passes.every))
		failed := k.passClaims(pass, tenants)
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

// TakenOver notes that no other host has a claim on an instance any more.
func (k *Claims) TakenOver(instance string) { k.claimed.note(instance, nil) }

// PassAll looks once at the claims in the vaults of all tenants.
func (k *Claims) PassAll(ctx context.Context) {
	k.passClaims(ctx, slices.Sorted(maps.Keys(k.claimTenants())))
}

// passClaims looks once at the claims in the vaults of the tenants. It returns
// the tenants of whose claims not all are as they are to be.
func (k *Claims) passClaims(ctx context.Context, tenants []string) (failed []string) {
	if k.self.Identity.ID == "" || k.standing.Reason() != nil {
		return nil
	}
	for _, tenant := range tenants {
		if !k.passTenant(ctx, tenant) {
			failed = append(failed, tenant)
		}
	}
	return failed
}

// passTenant is passClaims for one tenant. It tells whether all is as it is to be.
func (k *Claims) passTenant(ctx context.Context, tenant string) (well bool) {
	opened, err := k.vaults.Existing(ctx, tenant)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, vault.ErrNoVault) {
			k.log.Debug("the claims of this host are not renewed", "tenant", tenant, keyError, err.Error())
		}
		return errors.Is(err, vault.ErrNoVault)
	}
	_, lost, err := opened.KeepClaims(ctx, vault.KeepOptions{
		Host: k.self.Host, Identity: k.self.Identity.ID, Every: k.Pause(), Keeps: k.keepsClaim,
	})
	well = err == nil
	if err != nil && ctx.Err() == nil {
		k.log.Warn("the claims of this host are not all renewed; the next pass tries again", keyReason, err.Error())
	}
	if err := k.seeClaims(ctx, tenant, opened); err != nil {
		well = false
		if ctx.Err() == nil {
			k.log.Warn("this host does not know whether other hosts have claimed its instances; the next pass looks again", keyReason, err.Error())
		}
	}
	for _, c := range lost {
		k.log.Error("another host took over the claim on an instance that this host has: see that only one of the two runs the instance",
			keyInstance, c.Instance, "host", c.Host)
	}
	return well
}

// claimTenants are the tenants in whose vaults this host may have claims: it
// knows a backup of one of their instances, or tried to restore an instance.
func (k *Claims) claimTenants() map[string]bool {
	tenants := map[string]bool{}
	for _, in := range k.instances.All() {
		b, err := k.journal.Belongs(in.cfg.ID)
		if err == nil && b.Known {
			tenants[in.cfg.Tenant] = true
		}
		if err == nil && b.Tenant != "" {
			tenants[b.Tenant] = true
		}
	}
	return tenants
}

// seeClaims looks whether other hosts have claims on instances of the tenant whose content is
// here. So a host whose claim was taken over while the host was away finds that out, and so does a
// host that never had a claim. The next backup here is a fork only where the lineage says so.
func (k *Claims) seeClaims(ctx context.Context, tenant string, opened *vault.Vault) error {
	var ids []string
	for _, in := range k.instances.All() {
		if in.cfg.Tenant == tenant {
			ids = append(ids, in.cfg.ID)
		}
	}
	slices.Sort(ids)
	found, err := opened.ClaimsOfOthers(ctx, k.self.Identity.ID, 0, ids...)
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, claimed := found[id]
		if !claimed || !k.volumes.has(ctx, k.instances.Configured(id)) {
			k.claimed.note(id, nil)
			continue
		}
		how := "has claimed it"
		if opened.TookOver(c, k.self.Identity.ID) {
			how = "took over the claim of this host"
		}
		why := ""
		if c.Reason != "" {
			why = ": " + c.Reason
		}
		err := fmt.Errorf("host %s %s, at %s by its clock (%s)%s", c.Host, how, c.Made.UTC().Format("2006-01-02 15:04:05Z"), c.Job, why)
		if k.claimed.note(id, err) {
			k.log.Error("another host has claimed an instance whose content is on this host: see that only one of the two runs the instance",
				keyInstance, id, "host", c.Host, keyReason, err.Error())
		}
	}
	return nil
}

// Elsewhere looks at the vault of a tenant for other hosts that back up the instances, or have
// claimed them. After the time it returns, whatever the store does.
func (k *Claims) Elsewhere(ctx context.Context, tenant string, ids []string, limit time.Duration) (vault.Elsewhere, error) {
	return act(ctx, k.patience, "the vault of "+tenant, "the look for other hosts", limit, 0, func(ctx context.Context) (vault.Elsewhere, error) {
		opened, err := k.vaults.Existing(ctx, tenant)
		if err != nil {
			return vault.Elsewhere{}, fmt.Errorf("open vault: %w", err)
		}
		return opened.Elsewhere(ctx, k.self.Identity.ID, k.silence, ids...)
	})
}
