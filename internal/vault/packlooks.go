package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
)

// PackLooks is the state of packs in the store, as found under one session: since then the
// session keeps them from being collected (FORMAT.md, Garbage), so each pack has to be looked
// at once, however many backups the session has. It may be used by any number of goroutines.
type PackLooks struct {
	v *Vault

	mu     sync.Mutex
	seen   map[PackID]packSeen
	listed bool // all packs were listed, and are in seen
}

// packSeen is the result of one look.
type packSeen struct {
	size   int64     // 0: the pack can't be used
	until  time.Time // the end of its lock; zero in a store without object lock
	reason string    // why it can't be used
	fit    bool      // the pack itself is whole, but its lock is too short
}

const (
	// looksInFlight is how many looks are under way at once.
	looksInFlight = 16
	// prefixes is how many folders the packs lie in. Listing all packs takes
	// a request for each folder, and one more for each listPage packs.
	prefixes = 256
	listPage = 1000
)

// NewPackLooks returns a PackLooks of a session that has looked at nothing.
func (v *Vault) NewPackLooks() *PackLooks {
	return &PackLooks{v: v, seen: map[PackID]packSeen{}}
}

// confirmed notes a pack whose put began at that time and was confirmed.
func (l *PackLooks) confirmed(p PackRef, begun time.Time) {
	s := packSeen{size: p.Size}
	if retain := l.v.st.Capabilities().Retain; retain > 0 {
		s.until = begun.Add(packRetention(retain))
	}
	l.note(p.ID, s)
}

func (l *PackLooks) note(id PackID, s packSeen) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[id] = s
}

// get returns the result of the look at a pack. known is false where it has to be looked at.
func (l *PackLooks) get(id PackID) (s packSeen, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, known = l.seen[id]
	return s, known
}

// stat looks at one pack, and prolongs its lock where that ends too early.
func (l *PackLooks) stat(ctx context.Context, id PackID) (packSeen, error) {
	info, err := l.v.st.Stat(ctx, l.v.packKey(id))
	if errors.Is(err, obs.ErrNotFound) {
		return packSeen{reason: "is missing from the store"}, nil
	} else if err != nil {
		return packSeen{}, fmt.Errorf("look at pack %s: %w", id, err)
	}
	s := seenAs(info)
	if retain := l.v.st.Capabilities().Retain; retain > 0 && s.size > 0 {
		s.until = info.RetainUntil
		return l.prolong(ctx, id, s, retain, lookMargin(retain))
	}
	return s, nil
}

// seenAs judges a pack by the store's answer.
func seenAs(info obs.Info) packSeen {
	switch {
	case info.Cold:
		return packSeen{reason: fmt.Sprintf("is in the storage class %s, from which nothing can be read", info.Class)}
	case info.Size < int64(format.PackHeader+format.TableRoom(1)):
		return packSeen{reason: fmt.Sprintf("has %d bytes, fewer than any pack", info.Size)}
	}
	return packSeen{size: info.Size}
}

// prolong prolongs the lock of a pack that ends before retain and margin have passed from now on.
func (l *PackLooks) prolong(ctx context.Context, id PackID, s packSeen, retain, margin time.Duration) (packSeen, error) {
	now := time.Now()
	if !s.until.Before(now.Add(retain + margin)) {
		return s, nil
	}
	until := now.Add(packRetention(retain))
	err := l.v.st.Extend(ctx, l.v.packKey(id), until)
	switch {
	case err == nil:
		s.until = until
		return s, nil
	case errors.Is(err, obs.ErrNotFound):
		return packSeen{reason: "is missing from the store"}, nil
	case errors.Is(err, obs.ErrAccess), errors.Is(err, errors.ErrUnsupported), errors.Is(err, obs.ErrUsage):
		return packSeen{fit: true, reason: fmt.Sprintf("is locked until %s only, and the store refuses a longer lock: %v", lockText(s.until), err)}, nil
	}
	return packSeen{}, fmt.Errorf("prolong the lock of pack %s: %w", id, err)
}

func lockText(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// list looks at all packs of the vault with as few requests as listing takes. Packs
// that are not in the list, or of which a list does not say enough, stay unknown.
func (l *PackLooks) list(ctx context.Context) error {
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for i := range prefixes {
		g.Go(func() error {
			return l.v.listPacks(ctx, packFolder(i), func(id PackID, info obs.Info) {
				s := seenAs(info)
				if s.size == 0 {
					return // a list does not tell whether a cold object was restored, for one
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				if _, known := l.seen[id]; !known {
					l.seen[id] = s
				}
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listed = true
	return nil
}

// listPacks calls each with the packs that the store has in a folder of packs, or in all with "".
func (v *Vault) listPacks(ctx context.Context, folder string, each func(PackID, obs.Info)) error {
	for info, err := range v.st.List(ctx, v.info.ID+"/packs/"+folder) {
		if err != nil {
			return fmt.Errorf("list the packs: %w", err)
		}
		id, err := ParsePackID(info.Key[strings.LastIndexByte(info.Key, '/')+1:])
		if err == nil && v.packKey(id) == info.Key {
			each(id, info)
		}
	}
	return nil
}

// packFolder is the folder of the packs whose ids begin with that byte.
func packFolder(i int) string { return fmt.Sprintf("%02x/", i) }
