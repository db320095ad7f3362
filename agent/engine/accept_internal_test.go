package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/vault"
)

// TestInDoubtSaysToWait: the error of a backup that
// may exist says to wait, and no other error does.
func TestInDoubtSaysToWait(t *testing.T) {
	if err := inDoubt(fmt.Errorf("put: %w", vault.ErrMayExist)); !errors.Is(err, vault.ErrMayExist) || !strings.Contains(err.Error(), "wait before the instance is prepared elsewhere") {
		t.Error(err)
	}
	for _, err := range []error{nil, errors.New("other")} {
		if got := inDoubt(err); got != err { //nolint:errorlint // the very error
			t.Errorf("%v became %v", err, got)
		}
	}
}
