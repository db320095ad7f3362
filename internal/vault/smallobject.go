package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
	"holdfast/internal/vault/secondlook"
)

// readSmall reads the objects below folder whose names begin with prefix and that are wanted,
// and calls each for one at a time. An object that was deleted meanwhile is passed over.
func (v *Vault) readSmall(ctx context.Context, folder, prefix string, limit int64, wanted func(id string) bool, each func(id string, object []byte) error) error {
	var infos []obs.Info
	for info, err := range v.st.List(ctx, folder+prefix) {
		if err != nil {
			return fmt.Errorf("list %s: %w", folder, err)
		}
		if wanted(strings.TrimPrefix(info.Key, folder)) {
			if info.Size > limit {
				return &CorruptError{Object: info.Key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", info.Size, limit)}
			}
			infos = append(infos, info)
		}
	}
	return v.readListed(ctx, folder, infos, each, nil)
}

// readListed reads listed objects below folder, and calls each for one at a time. When an object
// seems damaged, readListed reads it again over a new connection. With bad, a damaged object is
// told to bad and is no error. An object that was deleted meanwhile is passed over.
func (v *Vault) readListed(ctx context.Context, folder string, infos []obs.Info, each func(id string, object []byte) error, bad func(id string, err error)) error {
	var mu sync.Mutex
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(8)
	for _, info := range infos {
		g.Go(func() error {
			id := strings.TrimPrefix(info.Key, folder)
			_, err := secondlook.Read(gctx, v.st, info.Key, func(ctx context.Context) (none struct{}, err error) {
				object := make([]byte, info.Size)
				n, err := v.st.ReadAt(ctx, info.Key, object, 0)
				if errors.Is(err, obs.ErrNotFound) {
					return none, nil
				} else if err != nil && n < len(object) {
					return none, readError(info.Key, n, len(object), 0, err)
				}
				mu.Lock()
				defer mu.Unlock()
				return none, each(id, object)
			})
			if bad == nil || !secondlook.Damaged(err) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			bad(id, err)
			return nil
		})
	}
	return g.Wait()
}

// sealSmall returns the bytes of a small object: its magic and its
// value, sealed under a key of its own.
func (v *Vault) sealSmall(kind, magic, id string, value any) ([]byte, error) {
	plain, err := encMode.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	object := []byte(magic)
	return seal.NewAEAD(format.Subkey(v.meta, kind, []byte(id))).Seal(object, format.Nonce(0), plain, object), nil
}

// openSmall opens what sealSmall made, the object of that id below folder. ErrCorrupt, ErrNewer.
func (v *Vault) openSmall(kind, magic, folder, id string, object []byte, value any) error {
	bad := func(reason string) error { return &CorruptError{Object: folder + id, Reason: reason} }
	if !bytes.HasPrefix(object, []byte(magic)) {
		if bytes.HasPrefix(object, []byte(magic[:6])) {
			return fmt.Errorf("object %s: %w", folder+id, ErrNewer)
		}
		return bad("does not begin as its kind does")
	}
	n := len(magic)
	plain, err := seal.NewAEAD(format.Subkey(v.meta, kind, []byte(id))).Open(nil, format.Nonce(0), object[n:], object[:n])
	if err != nil {
		return bad(seal.ErrOpen.Error())
	}
	if err := decodeSmall(plain, value); format.IsNewer(err) {
		return fmt.Errorf("object %s: %w", folder+id, err)
	} else if err != nil {
		return bad(err.Error())
	}
	return nil
}

// decodeSmall decodes the value of a small object.
func decodeSmall(plain []byte, value any) error {
	if err := decMode.Unmarshal(plain, value); err != nil {
		return pageError(err)
	}
	return nil
}
