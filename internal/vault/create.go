package vault

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/obs"
)

// CreatesOnce tells whether, of two that create a vault in this store at the same moment, one is
// sure to get ErrVaultExists. It finds out from the store's behaviour, and not from its kind: it
// puts the signpost of the vault, whose bytes are the same for everybody, and puts it again.
func CreatesOnce(ctx context.Context, st obs.Store, name string, nameKey []byte) (bool, error) {
	return obs.ProveConditionalPut(ctx, st, signpostKey(ID(name, nameKey)), []byte(signpost))
}

// mustBeFree returns nil only when nothing answers below the id of a vault that
// is to be made. A new header over an old one would make every backup of the old
// vault unreadable, so a list that shows no header is not taken for proof alone.
func mustBeFree(ctx context.Context, st obs.Store, vid, name string) error {
	there, err := headersOf(ctx, st, vid)
	if err != nil {
		return fmt.Errorf("look for vault %s: %w", name, err)
	}
	if len(there) > 0 {
		return fmt.Errorf("%w: %s in %s", ErrVaultExists, name, st)
	}
	switch _, err := st.Stat(ctx, firstHeaderKey(vid)); {
	case err == nil:
		return fmt.Errorf("%w: %s in %s: its header answers, although no list of the store shows it", ErrVaultExists, name, st)
	case !errors.Is(err, obs.ErrNotFound):
		return fmt.Errorf("look for vault %s: %w", name, err)
	}
	for info, err := range st.List(ctx, vid+"/") {
		if err != nil {
			return fmt.Errorf("look for vault %s: %w", name, err)
		}
		return &CorruptError{Object: info.Key, Reason: fmt.Sprintf("belongs to a vault %s whose header is missing: "+
			"a vault is not made in its place; bring the header back, or move what is below %s/ away", name, vid)}
	}
	return nil
}
