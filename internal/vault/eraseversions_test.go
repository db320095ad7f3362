package vault_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// TestEraseInABucketWithVersions: an object that was deleted before
// is in the bucket as a version, also an old header, with which its
// recipients would read on. Nothing is left but locked objects.
func TestEraseInABucketWithVersions(t *testing.T) {
	m := testbed.StartMinIO(t)
	for name, c := range map[string]struct {
		bucket func(testing.TB) string
		retain string
		keeps  bool
	}{
		"plain":    {m.Bucket, "", false},
		"versions": {m.LockedBucket, "", true},
		"locked":   {m.LockedBucket, "&retain=24h", true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			st, err := obs.Open(ctx, m.URL(c.bucket(t), "v")+c.retain, obs.Options{Getenv: m.Getenv, Retention: vault.Retention})
			must(t, err)
			t.Cleanup(func() { _ = st.Close() })
			if keeps, err := obs.KeepsVersions(ctx, st); err != nil || keeps != c.keeps {
				t.Fatalf("KeepsVersions: %v, %v", keeps, err)
			}
			id := identity(t)
			other, err := vault.Create(ctx, st, "other", nil, nil, id)
			must(t, err)
			v, err := vault.Create(ctx, st, "tenant", nil, nil, id)
			must(t, err)
			_, err = v.Rekey(ctx, id, vault.Change{Add: []string{identity(t).Recipient()}})
			must(t, err)
			store(t, v, t.TempDir(), 0, 20)
			must(t, v.WriteManifest(ctx, &vault.Manifest{Instance: "i", Seq: 1, ID: vault.NewBackupID(1, time.Now(), false)}))
			session, err := v.BeginSession(ctx, vault.SessionOptions{Host: "h"})
			must(t, err)
			must(t, session.End(ctx))

			e, err := vault.Erase(ctx, st, vault.EraseOptions{ID: v.Info().ID, Vault: v})
			if err != nil || !e.HeadersGone || len(e.Headers) != 1 {
				t.Fatalf("erase: %+v, %v", e, err)
			}
			want := map[bool]string{false: vault.VersionsNone, true: vault.VersionsRemoved}[c.keeps]
			if e.Versions != want || c.keeps && e.Removed["versions"].Objects == 0 && e.Removed["header"].Objects < 2 {
				t.Errorf("versions: %+v", e)
			}
			locked := c.retain != ""
			if e.Complete == locked || locked != (e.Kept.Objects == 2) || locked != e.KeptUntil.After(time.Now().Add(23*time.Hour)) {
				t.Errorf("erase: %+v", e)
			}
			kept := 0
			for row, err := range obs.Versions(ctx, st, v.Info().ID) {
				must(t, err)
				switch {
				case strings.Contains(row.Key, "/packs/"), strings.Contains(row.Key, "/backups/"):
					kept++
				case !locked || !strings.Contains(row.Key, "/erasing/"):
					t.Errorf("left: %+v", row)
				}
			}
			if kept != e.Kept.Objects {
				t.Errorf("%d versions are left, %d were told", kept, e.Kept.Objects)
			}
			if _, err := vault.Open(ctx, st, "tenant", nil, id); !errors.Is(err, vault.ErrNoVault) {
				t.Errorf("open the erased vault: %v", err)
			}
			if _, err := vault.Open(ctx, st, other.Info().Name, nil, id); err != nil {
				t.Errorf("the other vault: %v", err)
			}
		})
	}
}
