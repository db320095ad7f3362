package vault

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/contain"
)

// Elsewhere tells which instances other hosts have.
type Elsewhere struct {
	Writes map[string]string // by instance, the host that has a backup of it under way
	Claims map[string]Claim  // by instance, a claim of another host
}

// Elsewhere looks which of the instances other hosts than the host of that identity back up, or
// have claimed. It changes nothing: some lists, and a read for each session and for each claim of
// another host on the instances. A host without a sign of life for longer than the silence is left
// out, as ClaimOptions.Silence tells; 0: none is.
//
// The look has no time of the store to compare with, so it takes the time of this host. A sign of
// life counts while it is no further than the silence from that time, to either side. So a wrong
// clock hides a living host, or shows a host that is gone for a while, and never for ever.
func (v *Vault) Elsewhere(ctx context.Context, identity string, silence time.Duration, instances ...string) (Elsewhere, error) {
	var found Elsewhere
	g, ctx := contain.WithContext(ctx)
	g.Go(func() error {
		hosts, err := v.named(ctx, identity, func(put time.Time) bool { return namingSilent(time.Since(put).Abs(), silence) })
		found.Writes = hosts
		return err
	})
	g.Go(func() (err error) {
		found.Claims, err = v.ClaimsOfOthers(ctx, identity, silence, instances...)
		return err
	})
	if err := g.Wait(); err != nil {
		return Elsewhere{}, fmt.Errorf("look whether other hosts have the instances: %w", err)
	}
	for id := range found.Writes {
		if !slices.Contains(instances, id) {
			delete(found.Writes, id)
		}
	}
	return found, nil
}

// claimReads is how many claims are read at a time.
const claimReads = 8

// ClaimsOfOthers is the part of Elsewhere that looks at claims, by instance. It needs no sessions,
// so no session that does not open stands in its way. A claim that goes
// while it is read, or that is renewed, is left out.
func (v *Vault) ClaimsOfOthers(ctx context.Context, identity string, silence time.Duration, instances ...string) (map[string]Claim, error) {
	prefix := ""
	if len(instances) == 1 {
		prefix = instances[0]
	}
	listed, err := v.listClaims(ctx, prefix)
	if err != nil {
		return nil, err
	}
	tag := v.claimTag(identity)
	found := map[string]Claim{}
	var mu sync.Mutex
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(claimReads)
	for _, c := range listed {
		if c.tag == tag || !slices.Contains(instances, c.Instance) {
			continue
		}
		g.Go(func() error {
			ended, err := v.seeClaim(ctx, &c)
			if err != nil || ended || c.silent(time.Since(c.Renewed).Abs(), silence) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			found[c.Instance] = c
			return nil
		})
	}
	return found, g.Wait()
}

// TookOver tells whether the claim took over a claim of the host of that identity.
func (v *Vault) TookOver(c Claim, identity string) bool {
	tag := v.claimTag(identity)
	return slices.ContainsFunc(c.Over, func(o string) bool { return len(o) > len(tag) && o[:len(tag)] == tag })
}
