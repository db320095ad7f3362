package vault

import (
	"context"
	"errors"

	"holdfast/internal/obs"
)

// An object is called damaged only after a second look over another
// connection: a bit that flips on the way would else make a restore fail
// for good, and of a header it would seem that the key is the wrong one.

// damaged tells the errors that bytes which changed on their way may have caused.
func damaged(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrWrongKey) || errors.Is(err, ErrNewer)
}

// lookTwice reads and opens an object, and does both again over a
// new connection when the object seems damaged.
func lookTwice[T any](ctx context.Context, st obs.Store, key string, look func(context.Context) (T, error)) (T, error) {
	seen, err := look(ctx)
	if !damaged(err) {
		return seen, err
	}
	again, err := look(obs.Afresh(ctx))
	if err == nil {
		obs.TellDamage(st, key)
	}
	return again, err
}

// Again reads and opens a chunk over a new connection after err, with which the bytes
// of a run did not open. An error is err, or says why no second look was possible.
func (v *Vault) Again(ctx context.Context, kind ChunkKind, loc Loc, err error) ([]byte, error) {
	if !damaged(err) {
		return nil, err
	}
	plain, again := v.readChunk(obs.Afresh(ctx), kind, loc)
	switch {
	case again == nil:
		obs.TellDamage(v.st, v.packKey(loc.Pack))
		return plain, nil
	case damaged(again):
		return nil, err
	}
	return nil, again
}

// ReadChunk reads and opens the chunk at loc.
func (v *Vault) ReadChunk(ctx context.Context, kind ChunkKind, loc Loc) ([]byte, error) {
	return lookTwice(ctx, v.st, v.packKey(loc.Pack), func(ctx context.Context) ([]byte, error) { return v.readChunk(ctx, kind, loc) })
}

// Manifest reads and opens a backup's manifest. ErrNoBackup, ErrCorrupt, ErrNewer.
func (v *Vault) Manifest(ctx context.Context, ref BackupRef) (*Manifest, error) {
	return lookTwice(ctx, v.st, v.manifestKey(ref.Instance, ref.ID), func(ctx context.Context) (*Manifest, error) { return v.readManifest(ctx, ref) })
}

// packTable is PackTable of a pack that is to have that many bytes.
func (v *Vault) packTable(ctx context.Context, id PackID, size int64) ([]Row, error) {
	return lookTwice(ctx, v.st, v.packKey(id), func(ctx context.Context) ([]Row, error) { return v.readPackTable(ctx, id, size) })
}

// opened is a header that was read and opened.
type opened struct {
	h header
	s secret
}

// readHeader reads and opens a header.
func readHeader(ctx context.Context, st obs.Store, ref headerRef, vid string, id *Identity) (header, secret, error) {
	o, err := lookTwice(ctx, st, ref.key, func(ctx context.Context) (o opened, err error) {
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
