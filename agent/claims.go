package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/vault"
)

const (
	// claimBeats is how many signs of life of a living host fit into the
	// silence after which another host takes its claim over: some may fail.
	claimBeats = 4
	// claimEvery is the shortest time between two of them, also where the silence is short or
	// endless, and the time after which a pass that failed is tried again.
	claimEvery = 10 * time.Second
	// claimPass bounds one pass over the claims of all tenants.
	claimPass = 5 * time.Minute
)

// Claim implements job.Claimer.
func (r restores) Claim(ctx context.Context, j *job.Job, newest job.Content) (string, error) {
	opened, err := r.a.vaults.existing(ctx, j.Tenant)
	if errors.Is(err, vault.ErrNoVault) {
		return "", nil // an instance that runs, and of which there is no backup
	} else if err != nil {
		return "", fmt.Errorf("open vault: %w", err)
	}
	if r.a.identity.ID == "" {
		return "this host has no identity that lasts, so it claims no instance, and a second host that prepares this one is not told", nil
	}
	taken, err := opened.Claim(ctx, vault.ClaimOptions{
		Instance: j.Instance, Host: r.a.cfg.HostID, Identity: r.a.identity.ID, Job: j.ID, Backup: newest.Backup, Seq: newest.Seq,
		Silence: r.a.cfg.Prepare.ClaimSilence, Writers: true,
	})
	if err != nil {
		return "", err
	}
	var hosts []string
	for _, c := range taken {
		hosts = append(hosts, c.Host)
		r.a.log.Warn("the claim of a host that gives no sign of life is taken over", keyInstance, j.Instance, keyJob, j.ID, "host", c.Host,
			"since", c.Renewed.UTC().Format(time.RFC3339))
	}
	if len(hosts) == 0 {
		return "", nil
	}
	return fmt.Sprintf("the claim of %s was taken over, which gave no sign of life for longer than %s; should that host be alive, its next backup is a fork",
		strings.Join(hosts, ", "), r.a.cfg.Prepare.ClaimSilence), nil
}

// Unclaim implements job.Claimer.
func (r restores) Unclaim(ctx context.Context, j *job.Job) error {
	opened, err := r.a.vaults.existing(ctx, j.Tenant)
	if err != nil {
		return fmt.Errorf("open vault: %w", err)
	}
	return opened.Unclaim(ctx, j.Instance, r.a.identity.ID)
}

// hasInstance tells whether the host keeps its claim on an instance. A
// journal that can't be read lets no claim go.
func (a *Agent) hasInstance(id string) bool {
	b, err := a.journal.Belongs(id)
	return err != nil || b.Here
}

// keepClaims gives signs of life for the claims of this host until ctx ends,
// and lets go of those on instances that were released, soon after the release.
func (a *Agent) keepClaims(ctx context.Context) {
	every := max(claimEvery, a.cfg.Prepare.ClaimSilence/claimBeats)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case <-a.watcher.claims:
		}
		pass, cancel := context.WithTimeout(ctx, min(claimPass, every))
		pause := every
		if !a.passClaims(pass) {
			// A claim that could not be let go keeps the next host out.
			pause = claimEvery
		}
		cancel()
		next.Reset(pause)
	}
}

// passClaims looks once at the claims in the vaults where this host may
// have some. It tells whether all of them are as they are to be.
func (a *Agent) passClaims(ctx context.Context) (well bool) {
	if a.identity.ID == "" || a.standing.reason() != nil {
		return true
	}
	well = true
	for tenant := range a.claimTenants() {
		opened, err := a.vaults.existing(ctx, tenant)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, vault.ErrNoVault) {
				a.log.Debug("the claims of this host are not renewed", "tenant", tenant, keyError, err.Error())
			}
			well = well && errors.Is(err, vault.ErrNoVault)
			continue
		}
		_, lost, err := opened.KeepClaims(ctx, a.identity.ID, a.hasInstance)
		if err != nil {
			well = false
			if ctx.Err() == nil {
				a.log.Warn("the claims of this host are not all renewed; the next pass tries again", keyReason, err.Error())
			}
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
func (w *watcher) released(j *job.Job) {
	if j.State != job.Released && (j.State != job.Failed || !j.IsRestore()) {
		return
	}
	select {
	case w.claims <- struct{}{}:
	default:
	}
}
