package vault

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault/secondlook"
)

// The objects of a stored backup can go away: a lifecycle rule removes the oldest objects
// of a bucket first, and the header of a vault is the oldest of all. This file looks again.

// Confirm looks whether the vault can still be opened: its header is in the store
// and belongs to this vault's key. A lost signpost is put again, and mended is
// told; mended may be nil. It takes two requests, both at once. ErrCorrupt where
// the header is gone or is another vault's: then nobody can open the objects of
// the vault. Any other error says that the store could not be asked.
func (v *Vault) Confirm(ctx context.Context, mended func(error)) error {
	g, ctx := contain.WithContext(ctx)
	g.Go(func() error { return v.confirmHeader(ctx) })
	g.Go(func() error { return v.confirmSignpost(ctx, mended) })
	return g.Wait()
}

func (v *Vault) confirmHeader(ctx context.Context) error {
	at := v.header.Load()
	err := v.readOwnHeader(ctx, *at)
	if !errors.Is(err, obs.ErrNotFound) {
		return err
	}
	// A rekey replaces the header. A list tells of the new one, and
	// so does no list of a vault without any.
	refs, err := headersOf(obs.Afresh(ctx), v.st, v.info.ID)
	if err != nil {
		return fmt.Errorf("look at the header of vault %s: %w", v.info.Name, err)
	}
	gone := &CorruptError{Object: at.key, Reason: "the header of the vault is missing from the store: without it nobody can open the vault, " +
		"nor any backup in it; bring the object back from an earlier version or a copy, and end what removed it, such as a lifecycle rule"}
	if len(refs) == 0 {
		return gone
	}
	now := refs[len(refs)-1]
	err = v.readOwnHeader(obs.Afresh(ctx), now)
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return gone
	case err == nil:
		v.header.Store(&now)
	}
	return err
}

// readOwnHeader reads a header and checks that it is one of this vault. ErrNotFound, ErrCorrupt.
func (v *Vault) readOwnHeader(ctx context.Context, ref headerRef) error {
	_, err := secondlook.Read(ctx, v.st, ref.key, func(ctx context.Context) (none struct{}, err error) {
		raw := make([]byte, min(ref.size, maxHeader))
		n, err := v.st.ReadAt(ctx, ref.key, raw, 0)
		switch {
		case errors.Is(err, obs.ErrNotFound):
			return none, err
		case err != nil || n != len(raw):
			return none, readError(ref.key, n, len(raw), 0, err)
		}
		var doc document
		var compact bytes.Buffer
		if err := errors.Join(json.Unmarshal(raw, &doc), json.Compact(&compact, doc.Vault)); err != nil {
			return none, &CorruptError{Object: ref.key, Reason: "is no vault header: " + err.Error()}
		}
		if !hmac.Equal([]byte(macOf(v.headers, compact.Bytes())), []byte(doc.MAC)) {
			return none, &CorruptError{Object: ref.key, Reason: "is not the header of the vault that was opened: it was changed, or somebody made " +
				"another vault in the place of this one; what is stored under the first header can't be read with this one"}
		}
		return none, nil
	})
	return err
}

// confirmSignpost puts the signpost again where it is missing: its
// bytes are the same whoever puts it.
func (v *Vault) confirmSignpost(ctx context.Context, mended func(error)) error {
	key := signpostKey(v.info.ID)
	_, err := v.st.Stat(ctx, key)
	if !errors.Is(err, obs.ErrNotFound) {
		return err
	}
	if err := v.st.Put(ctx, key, []byte(signpost)); err != nil {
		return fmt.Errorf("put the signpost of vault %s again, which was missing: %w", v.info.Name, err)
	}
	if mended != nil {
		mended(fmt.Errorf("object %s was missing from the store and is put again: look for what removes objects there, such as a lifecycle rule", key))
	}
	return nil
}

// Present looks whether a backup is still in the store: the header of the vault, the
// manifest with that SHA-256 (hex), and every pack that the manifest names, in its
// size and not in an archive class, or the packs into which a prune has moved its
// chunks. It reads no pack. A few packs take a request each, many a list of all
// packs. ErrCorrupt names the object that is missing or differs from the stored one;
// any other error says that the store could not be asked. mended is as in Confirm.
func (v *Vault) Present(ctx context.Context, ref BackupRef, manifestSHA256 string, mended func(error)) error {
	var m *Manifest
	g, gctx := contain.WithContext(ctx)
	g.Go(func() error { return v.Confirm(gctx, mended) })
	g.Go(func() (err error) {
		m, err = v.Manifest(gctx, ref)
		key := v.manifestKey(ref.Instance, ref.ID)
		switch {
		case errors.Is(err, ErrNoBackup):
			return &CorruptError{Object: key, Reason: "the manifest of the backup is missing from the store"}
		case err == nil && m.Digest != manifestSHA256:
			return &CorruptError{Object: key, Reason: "the manifest of the backup is not the one that was stored"}
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return v.packsPresent(ctx, m.Packs, true)
}

// fewPacks is how many packs are looked at one by one rather than by a list
// of all packs, which takes a request for each folder of packs at the least.
const fewPacks = 2 * prefixes

// packsPresent is a *MissingPacksError unless the store has all of the packs. With moved, a pack
// whose chunks were moved counts as there. No backup may be made with such a pack: the chunks that
// only this backup needs were not moved.
func (v *Vault) packsPresent(ctx context.Context, packs []PackRef, moved bool) error {
	seen := v.NewPackLooks()
	if len(packs) > fewPacks {
		if err := seen.list(ctx); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var lost []LostPack
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, p := range packs {
		if s, known := seen.get(p.ID); known && s.size == p.Size {
			continue
		}
		g.Go(func() error {
			reason, err := v.packAbsent(gctx, p)
			if err == nil && reason != "" && moved {
				reason, err = v.movedAbsent(gctx, p, reason, 0)
			}
			if err != nil || reason == "" {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			lost = append(lost, LostPack{ID: p.ID, Object: v.packKey(p.ID), Reason: reason})
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(lost) > 0 {
		return &MissingPacksError{Vault: v.info.ID, Packs: lost}
	}
	return nil
}

// packAbsent tells why a pack can't be used; "" where the store has it. A pack
// that seems to be missing is looked at a second time, over another connection.
func (v *Vault) packAbsent(ctx context.Context, p PackRef) (string, error) {
	key := v.packKey(p.ID)
	info, err := v.st.Stat(ctx, key)
	if errors.Is(err, obs.ErrNotFound) {
		info, err = v.st.Stat(obs.Afresh(ctx), key)
	}
	if errors.Is(err, obs.ErrNotFound) {
		return "is missing from the store", nil
	} else if err != nil {
		return "", fmt.Errorf("look at pack %s: %w", p.ID, err)
	}
	s := seenAs(info)
	if s.size > 0 && s.size != p.Size {
		return fmt.Sprintf("has %d bytes, the manifest says %d", s.size, p.Size), nil
	}
	return s.reason, nil
}

// movedAbsent tells why a pack can't be read that itself can't be used for that reason; "" where a
// prune has moved its chunks into packs that the store has.
func (v *Vault) movedAbsent(ctx context.Context, p PackRef, reason string, moves int) (string, error) {
	all, err := v.relocationsOf(ctx, p.ID)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
		return fmt.Sprintf("%s, and it is not known where its chunks are now: %v", reason, err), nil
	} else if err != nil {
		return "", err
	}
	for _, r := range all {
		if r.Size != p.Size || moves == maxMoves {
			continue
		}
		lacks := ""
		for _, to := range r.Packs {
			why, err := v.packAbsent(ctx, to)
			if err == nil && why != "" {
				why, err = v.movedAbsent(ctx, to, why, moves+1)
			}
			if err != nil {
				return "", err
			}
			if why != "" {
				lacks = fmt.Sprintf("%s; its chunks were moved into pack %s, which %s", reason, to.ID, why)
				break
			}
		}
		if lacks == "" {
			return "", nil
		}
		reason = lacks
	}
	return reason, nil
}
