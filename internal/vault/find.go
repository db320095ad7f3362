package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// Found is a vault of a store, as far as an identity opens it.
type Found struct {
	ID   string
	Info Info  // zero when Err is not nil
	Err  error // why the identity does not open it: ErrWrongKey, ErrCorrupt, ErrNewer
}

// List returns the vaults of a store in the order of their ids, also vaults that id does not
// open. It needs no name key. A vault that id opens says its name itself, and anybody who knows
// the recipient could have made it: only Open, with the name key, tells that it is the fleet's.
func List(ctx context.Context, st obs.Store, id *Identity) ([]Found, error) {
	var all []Found
	for info, err := range st.List(ctx, signpostPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list vaults: %w", err)
		}
		if vid := strings.TrimPrefix(info.Key, signpostPrefix); isVaultID(vid) {
			all = append(all, Found{ID: vid})
		}
	}
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(8)
	for i := range all {
		g.Go(func() error {
			_, h, s, err := newestHeader(gctx, st, all[i].ID, id)
			defer s.clear()
			switch {
			case err == nil:
				all[i].Info = infoOf(st, h, s)
			case errors.Is(err, ErrNoVault), errors.Is(err, ErrWrongKey), errors.Is(err, ErrCorrupt), errors.Is(err, ErrNewer):
				all[i].Err = err
			default:
				return fmt.Errorf("list vaults: %w", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	vaults := all[:0]
	for _, f := range all {
		if !errors.Is(f.Err, ErrNoVault) { // deleted, or never finished
			vaults = append(vaults, f)
		}
	}
	return vaults, nil
}

func isVaultID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16 && s == strings.ToLower(s)
}

// Search opens the vault of that name without its name key, by looking into every vault
// of the store that id opens. In place of a name it takes a vault's id. Who backs up must
// not use it: see List. ErrNoVault; an error that lists the ids when there are several.
func Search(ctx context.Context, st obs.Store, name string, id *Identity) (*Vault, error) {
	found, err := List(ctx, st, id)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, f := range found {
		if f.ID == name {
			ids = []string{name}
			break
		}
		if f.Err == nil && f.Info.Name == name {
			ids = append(ids, f.ID)
		}
	}
	switch len(ids) {
	case 0:
		return nil, fmt.Errorf("%w: %s in %s", ErrNoVault, name, st)
	case 1:
		at, h, s, err := newestHeader(ctx, st, ids[0], id)
		if err != nil {
			return nil, fmt.Errorf("open vault %s: %w", ids[0], err)
		}
		defer s.clear()
		return newVault(st, at, h, s), nil
	}
	return nil, fmt.Errorf("%d vaults in %s have the name %s: %s; give the name key, or the id of one in place of the name", len(ids), st, name, strings.Join(ids, ", "))
}
