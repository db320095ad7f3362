package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// Unclaim removes the claims of a host on an instance. None is no error.
func (v *Vault) Unclaim(ctx context.Context, instance, identity string) error {
	end, err := v.claiming.take(ctx, instance)
	if err != nil {
		return fmt.Errorf("remove the claim on instance %s: wait for its renewal: %w", instance, err)
	}
	defer end()
	all, err := v.listClaims(ctx, instance)
	if err != nil {
		return err
	}
	var old []string
	for _, c := range all {
		if c.tag == v.claimTag(identity) {
			old = append(old, c.keys...)
		}
	}
	if len(old) == 0 {
		return nil
	}
	if err := v.st.Delete(ctx, old...); err != nil {
		return fmt.Errorf("remove the claim on instance %s: %w", instance, err)
	}
	return nil
}

// KeepOptions say how KeepClaims keeps the claims of a host.
type KeepOptions struct {
	Host     string        // name of the host, for people
	Identity string        // tells this host from all others
	Every    time.Duration // as in ClaimOptions
	// Keeps tells whether the host keeps a claim. It may be called from any goroutine. A claim that
	// is damaged has no Job and no Origin.
	Keeps func(Claim) bool
}

// jobUnknown stands in the place of the job in a claim that is put anew because it was damaged.
const jobUnknown = "unknown, since the claim was damaged"

// KeepClaims renews the claims that a host has in the vault and keeps, and removes the others. lost
// are the claims that other hosts took over, which it removes too. It makes no claim. It does as
// much as it can also where it returns an error. It begins with the claim whose last sign of life
// is the oldest one, and removes the older object of each claim right after the renewal. So of
// passes that are cut off, each one goes on where the earlier ones stopped.
func (v *Vault) KeepClaims(ctx context.Context, o KeepOptions) (kept, lost []Claim, err error) {
	all, err := v.listClaims(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	tag := v.claimTag(o.Identity)
	mine := slices.DeleteFunc(slices.Clone(all), func(c Claim) bool { return c.tag != tag })
	slices.SortStableFunc(mine, func(a, b Claim) int { return a.Renewed.Compare(b.Renewed) })
	var mu sync.Mutex
	var g contain.Group
	g.SetLimit(claimReads)
	for _, c := range mine {
		g.Go(func() error {
			by, renewed, kerr := v.keepClaim(ctx, &c, all, o)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case kerr != nil:
				err = errors.Join(err, kerr)
			case by != nil:
				lost = append(lost, *by)
			case renewed:
				kept = append(kept, c)
			}
			return nil
		})
	}
	err = errors.Join(g.Wait(), err) // a panic
	byName := func(a, b Claim) int { return cmp.Compare(a.Instance, b.Instance) }
	slices.SortFunc(kept, byName)
	slices.SortFunc(lost, byName)
	return kept, lost, err
}

// keepClaim renews one claim, or removes it. by is the claim that took it over; nil where none did.
func (v *Vault) keepClaim(ctx context.Context, c *Claim, all []Claim, o KeepOptions) (by *Claim, renewed bool, err error) {
	end, err := v.claiming.take(ctx, c.Instance)
	if err != nil {
		return nil, false, fmt.Errorf("renew the claim on instance %s: %w", c.Instance, err)
	}
	defer end()
	if by, err = v.takenBy(ctx, *c, all); err != nil {
		return nil, false, fmt.Errorf("look whether the claim on instance %s is taken over: %w", c.Instance, err)
	}
	if by == nil {
		if renewed, err = v.renewClaim(ctx, c, o); err != nil {
			return nil, false, fmt.Errorf("renew the claim on instance %s: %w", c.Instance, err)
		}
	}
	// A host whose credentials only append can't remove the objects, and would put one more with
	// each further try. The claim counts by its newest object, and ends by the silence of its host.
	if err := v.st.Delete(ctx, c.keys...); err != nil && !errors.Is(err, obs.ErrAccess) {
		return by, false, fmt.Errorf("remove what is over of the claim on instance %s: %w", c.Instance, err)
	}
	return by, renewed, nil
}

// takenBy is the claim of another host that took over a claim; nil where none did.
func (v *Vault) takenBy(ctx context.Context, c Claim, all []Claim) (*Claim, error) {
	for _, o := range all {
		if o.Instance != c.Instance || o.tag == c.tag {
			continue
		}
		gone, err := v.readClaim(ctx, &o)
		if errors.Is(err, ErrCorrupt) {
			continue
		} else if err != nil {
			return nil, err
		}
		if !gone && slices.Contains(o.Over, c.tag+"-"+c.ID) {
			return &o, nil
		}
	}
	return nil, nil //nolint:nilnil // no claim took it over
}

// renewClaim puts a claim under its next number, if the host keeps it.
func (v *Vault) renewClaim(ctx context.Context, c *Claim, o KeepOptions) (renewed bool, err error) {
	gone, err := v.readClaim(ctx, c)
	switch {
	case errors.Is(err, ErrCorrupt):
		// The host lives, so other hosts must not count it as gone.
		c.Host, c.Identity, c.Job, c.Made = o.Host, o.Identity, jobUnknown, time.Now().UTC()
	case err != nil || gone:
		return false, err
	}
	if !o.Keeps(*c) {
		return false, nil
	}
	c.Host, c.Every = cmp.Or(o.Host, c.Host), o.Every // the host may have another name by now
	return true, v.putClaim(ctx, c)
}
