package vault

import "strings"

// Retained tells whether a key is that of a pack or a manifest. These are what a retention of the store (WORM) is
// for: with them and the header a vault can be read. The index can be rebuilt, and segments of it are merged and
// deleted; the header stays deletable, since deleting it destroys the vault.
func Retained(key string) bool {
	_, rest, _ := strings.Cut(key, "/")
	return strings.HasPrefix(rest, "packs/") || strings.HasPrefix(rest, "backups/")
}
