package vault

import (
	"strings"
	"time"
)

// Retention returns how long the store locks an object of that key (WORM) when the
// store's URL asks for locks of that length; 0 is not at all. It is for obs.Options.
//
// Packs, relocations of packs and manifests are locked: with them and the header a
// vault can be read. The index can be rebuilt from the packs, and segments of it are
// merged and deleted; the header stays deletable, since deleting it destroys the vault.
//
// A manifest is locked as long as asked. Each pack that it names has to be
// locked at least as long, and a pack is put before the manifest, and used
// again by later backups; so a pack is locked longer, see packRetention.
func Retention(key string, asked time.Duration) time.Duration {
	_, rest, _ := strings.Cut(key, "/")
	switch {
	case strings.HasPrefix(rest, "packs/"), strings.HasPrefix(rest, "moved/"):
		return packRetention(asked)
	case strings.HasPrefix(rest, "backups/"):
		return asked
	}
	return 0
}

// maxLockSlack bounds lockSlack, which is how much longer than any manifest garbage stays.
const maxLockSlack = 30 * 24 * time.Hour

// lockSlack is how much longer the lock of a pack is than the lock of a manifest, when it is put
// and each time that it is prolonged: a quarter of it. A backup prolongs the lock of a pack when
// a quarter of the slack is left (lookMargin), so daily backups that use a pack prolong it once
// in three quarters of the slack and not each day: with locks of 30 days once in 5 to 6 days.
func lockSlack(retain time.Duration) time.Duration { return min(retain/4, maxLockSlack) }

// packRetention is how long a pack is locked in a store whose manifests are locked that long.
func packRetention(retain time.Duration) time.Duration { return retain + lockSlack(retain) }

// lookMargin is how much longer than a manifest that is put now a pack has to be
// locked when a backup looks at it. The manifest is put later, so the locks are
// compared again just before it, with commitMargin: a backup may take an eighth of the
// slack, with locks of 30 days almost a day, until locks are prolonged a second time.
func lookMargin(retain time.Duration) time.Duration { return lockSlack(retain) / 4 }

// commitMargin is how much longer than a manifest that is put now its packs
// have to be locked. It is for a put that takes long, or is tried again.
func commitMargin(retain time.Duration) time.Duration { return lockSlack(retain) / 8 }
