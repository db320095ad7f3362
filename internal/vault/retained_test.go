package vault_test

import (
	"testing"

	"holdfast/internal/vault"
)

func TestRetained(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	for key, want := range map[string]bool{
		id + "/packs/ab/abcd":        true,
		id + "/backups/cp-7/b-1":     true,
		id + "/index/abcd":           false,
		id + "/vault.json":           false,
		"integrity-check/ABCD":       false,
		"packs/ab/abcd":              false,
		id + "/packs":                false,
		"":                           false,
		id + "/backupsx/cp-7/packs/": false,
	} {
		if vault.Retained(key) != want {
			t.Errorf("%s: %v, want %v", key, !want, want)
		}
	}
}
