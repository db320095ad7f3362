package vault

import (
	"context"
	"errors"

	"holdfast/internal/obs"
	"holdfast/internal/vault/secondlook"
)

// Again reads and opens a chunk over a new connection after err, with which the bytes
// of a run did not open. An error is err, or says why no second look was possible.
func (v *Vault) Again(ctx context.Context, kind ChunkKind, loc Loc, err error) ([]byte, error) {
	if !secondlook.Damaged(err) {
		return nil, err
	}
	plain, again := v.readChunk(obs.Afresh(ctx), kind, loc)
	switch {
	case again == nil:
		obs.TellDamage(v.st, v.packKey(loc.Pack))
		return plain, nil
	case secondlook.Damaged(again):
		return nil, err
	}
	return nil, again
}

// ReadChunk reads and opens the chunk at loc.
func (v *Vault) ReadChunk(ctx context.Context, kind ChunkKind, loc Loc) ([]byte, error) {
	return secondlook.Read(ctx, v.st, v.packKey(loc.Pack), func(ctx context.Context) ([]byte, error) { return v.readChunk(ctx, kind, loc) })
}

// Manifest reads and opens a backup's manifest. ErrNoBackup, ErrCorrupt, ErrNewer.
func (v *Vault) Manifest(ctx context.Context, ref BackupRef) (*Manifest, error) {
	return secondlook.Read(ctx, v.st, v.manifestKey(ref.Instance, ref.ID), func(ctx context.Context) (*Manifest, error) { return v.readManifest(ctx, ref) })
}

// packTable is PackTable of a pack that is to have that many bytes.
func (v *Vault) packTable(ctx context.Context, id PackID, size int64) ([]Row, error) {
	return secondlook.Read(ctx, v.st, v.packKey(id), func(ctx context.Context) ([]Row, error) { return v.readPackTable(ctx, id, size) })
}

// opened is a header that was read and opened.
type opened struct {
	h header
	s secret
}

// readHeader reads and opens a header.
func readHeader(ctx context.Context, st obs.Store, ref headerRef, vid string, id *Identity) (header, secret, error) {
	o, err := secondlook.Read(ctx, st, ref.key, func(ctx context.Context) (o opened, err error) {
		raw := make([]byte, ref.size)
		n, err := st.ReadAt(ctx, ref.key, raw, 0)
		switch {
		case errors.Is(err, obs.ErrNotFound):
			return o, err
		case err != nil || n != len(raw):
			return o, readError(ref.key, n, len(raw), 0, err)
		}
		o.h, o.s, err = openHeader(ref, vid, raw, id)
		return o, err
	})
	return o.h, o.s, err
}
