package vault_test

import (
	"testing"
	"time"

	"holdfast/internal/vault"
)

// TestRetention: a pack is locked longer than the manifests that name it, by
// a bounded time, and objects that can be made anew are not locked at all.
func TestRetention(t *testing.T) {
	const id, day = "0123456789abcdef0123456789abcdef", 24 * time.Hour
	for _, c := range []struct {
		key         string
		asked, want time.Duration
	}{
		{id + "/packs/ab/abcd", 40 * day, 50 * day},
		{id + "/packs/ab/abcd", time.Hour, 75 * time.Minute},
		{id + "/packs/ab/abcd", 3650 * day, 3680 * day},
		{id + "/backups/cp-7/b-1", 40 * day, 40 * day},
		{id + "/index/abcd", day, 0},
		{id + "/vault.json", day, 0},
		{"integrity-check/ABCD", day, 0},
		{"packs/ab/abcd", day, 0},
		{id + "/packs", day, 0},
		{"", day, 0},
		{id + "/backupsx/cp-7/packs/", day, 0},
	} {
		if got := vault.Retention(c.key, c.asked); got != c.want {
			t.Errorf("%s: %v, want %v", c.key, got, c.want)
		}
	}
}
