package vault

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/obs"
)

// Locate finds the id of a vault without any key: the id that follows from the name and the name
// key, or the name itself where it is an id. Of the vault anything has to stand in the store, a
// header or not. ErrNoVault; an error where the name fits two vaults.
func Locate(ctx context.Context, st obs.Store, name string, nameKey []byte) (string, error) {
	var found []string
	for _, vid := range []string{ID(name, nameKey), name} {
		if !isVaultID(vid) {
			continue
		}
		stands, err := somethingStands(ctx, st, vid)
		if err != nil {
			return "", fmt.Errorf("look for vault %s: %w", name, err)
		}
		if stands {
			found = append(found, vid)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%w: %s in %s", ErrNoVault, name, st)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s is the name of vault %s and the id of another one in %s: give the former's id", name, found[0], st)
}

func somethingStands(ctx context.Context, st obs.Store, vid string) (bool, error) {
	for _, err := range st.List(ctx, vid+"/") {
		return err == nil, err
	}
	_, err := st.Stat(ctx, signpostKey(vid))
	if errors.Is(err, obs.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
