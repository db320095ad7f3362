package backup_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// third calls fail in the place of storing the third pack and all after it.
type third struct {
	obs.Store
	n    atomic.Int64
	fail func() error
}

func (s *third) Put(ctx context.Context, key string, body []byte) error {
	if strings.Contains(key, "/packs/") && s.n.Add(1) > 2 && s.fail != nil {
		return s.fail()
	}
	return s.Store.Put(ctx, key, body)
}

// TestAbortedBackupIsNotLost: what arrived of a backup that nobody
// can resume is known to the next one.
func TestAbortedBackupIsNotLost(t *testing.T) {
	for name, cancelled := range map[string]bool{"failed": false, "cancelled": true} {
		t.Run(name, func(t *testing.T) {
			st := &third{Store: obs.NewMemory()}
			v := newVault(t, st)
			dir := volumeDir(t)
			want := makeTree(t, dir, 15, 20, 20)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			st.fail = func() error {
				if cancelled {
					cancel(errFull)
				}
				return errFull
			}
			o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}}
			if _, err := backup.Run(ctx, o); !errors.Is(err, errFull) {
				t.Fatalf("error is %v", err)
			}
			if refs, err := v.Backups(t.Context(), "i"); err != nil || len(refs) != 0 {
				t.Errorf("backups %v, %v", refs, err)
			}
			st.fail = nil
			res, err := backup.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			// The other of the two may have been on its way when the third failed.
			if res.BytesDeduplicated < 15<<20 {
				t.Errorf("packs had arrived, and yet %d of %d bytes were new", res.BytesNew, res.BytesRead)
			}
			compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
			if report, err := v.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100}); err != nil || len(report.Damaged) > 0 {
				t.Errorf("%+v, %v", report, err)
			}
		})
	}
}
