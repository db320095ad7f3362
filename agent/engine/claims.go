package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/vault"
)

// Claim implements job.Claimer.
func (r restores) Claim(ctx context.Context, j *model.Job, newest model.Content) (string, error) {
	opened, err := r.vaults.Existing(ctx, j.Tenant)
	if errors.Is(err, vault.ErrNoVault) {
		return "", nil // an instance that runs, and of which there is no backup
	} else if err != nil {
		return "", fmt.Errorf("open vault: %w", err)
	}
	if r.self.Identity.ID == "" {
		return "this host has no identity that lasts, so it claims no instance, and a second host that prepares this one is not told", nil
	}
	taken, err := opened.Claim(ctx, vault.ClaimOptions{
		Instance: j.Instance, Host: r.self.Host, Identity: r.self.Identity.ID, Job: j.ID, Backup: newest.Backup, Seq: newest.Seq,
		Silence: r.claimSilence, Writers: true, Every: claimPause(r.claimSilence), Keeps: r.keepsClaim,
	})
	if err != nil {
		return "", err
	}
	var hosts []string
	for _, c := range taken {
		hosts = append(hosts, c.Host)
		r.log.Warn("the claim of a host that gives no sign of life is taken over", keyInstance, j.Instance, keyJob, j.ID, "host", c.Host,
			"since", c.Renewed.UTC().Format(time.RFC3339))
	}
	if len(hosts) == 0 {
		return "", nil
	}
	return fmt.Sprintf("the claim of %s was taken over, which gave no sign of life for longer than %s; should that host be alive, its next backup is a fork",
		strings.Join(hosts, ", "), r.claimSilence), nil
}

// unclaimTime is how long a release waits for the removal of a claim: the instance is down, and the
// control plane is to be told. A claim that stays goes with a later pass over the claims.
const unclaimTime = 10 * time.Second

// Unclaim implements job.Claimer. A store may be a folder on a file
// system that hangs, so the removal is left behind when its time is over.
func (r restores) Unclaim(ctx context.Context, j *model.Job) error {
	_, err := act(ctx, r.patience, r.vaults.asked(j.Tenant), "letting go of the claim on "+j.Instance, unclaimTime, 0, func(ctx context.Context) (none struct{}, err error) {
		opened, err := r.vaults.Existing(ctx, j.Tenant)
		if err != nil {
			return none, fmt.Errorf("open vault: %w", err)
		}
		return none, opened.Unclaim(ctx, j.Instance, r.self.Identity.ID)
	})
	return err
}
