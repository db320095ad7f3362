package vault

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

const holdMagic = "HFHOLD\x00\x01"

// Hold keeps a backup from being deleted, against all rules of retention.
type Hold struct {
	ID       string    `cbor:"-" json:"hold"` // 32 hex digits
	Instance string    `cbor:"1,keyasint" json:"instance"`
	Backup   string    `cbor:"2,keyasint" json:"backup"`
	Reason   string    `cbor:"3,keyasint" json:"reason"`
	Begun    time.Time `cbor:"4,keyasint" json:"begun"`          // by the clock of the host that put the hold
	Until    time.Time `cbor:"5,keyasint" json:"until,omitzero"` // zero: without an end
	Host     string    `cbor:"6,keyasint" json:"host"`
}

func (h Hold) name() string { return h.Instance + "/" + h.Backup }

func (v *Vault) holdsPrefix() string { return v.info.ID + "/holds/" }

// Holds returns the holds of the vault, also holds whose time is over, by backup and by begin.
// A hold that does not open is an error: nobody knows which backup it holds.
func (v *Vault) Holds(ctx context.Context) ([]Hold, error) {
	var all []Hold
	err := v.readSmall(ctx, v.holdsPrefix(), "", maxMark, condemnedPattern.MatchString, func(id string, object []byte) error {
		h := Hold{}
		if err := v.openSmall("hold", holdMagic, v.holdsPrefix(), id, object, &h); err != nil {
			return err
		}
		h.ID = id
		all = append(all, h)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the holds: %w", err)
	}
	slices.SortFunc(all, func(a, b Hold) int {
		return cmp.Or(cmp.Compare(a.name(), b.name()), a.Begun.Compare(b.Begun), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// Hold keeps a backup until that time, or for ever with a zero time. nil says that no prune deletes
// the backup while the hold stands. ErrTooLate where a prune deletes the backup already; then there
// is no hold.
func (v *Vault) Hold(ctx context.Context, o SessionOptions, ref BackupRef, reason string, until time.Time) (Hold, error) {
	h := Hold{
		ID: randomName(), Instance: ref.Instance, Backup: ref.ID, Reason: cut(reason),
		Begun: time.Now().UTC(), Host: o.Host,
	}
	if !until.IsZero() {
		h.Until = until.UTC()
	}
	object, err := v.sealSmall("hold", holdMagic, h.ID, &h)
	if err != nil {
		return Hold{}, err
	}
	key := v.holdsPrefix() + h.ID
	err = v.save(ctx, o, ref, func(ctx context.Context) error {
		if err := v.st.Put(ctx, key, bytes.Clone(object)); err != nil {
			return fmt.Errorf("store the hold: %w", err)
		}
		return nil
	}, func(ctx context.Context) error { return v.st.Delete(ctx, key) })
	return h, err
}

// Unhold removes holds by their ids.
func (v *Vault) Unhold(ctx context.Context, ids ...string) error {
	keys := make([]string, len(ids))
	for i, id := range ids {
		if !condemnedPattern.MatchString(id) {
			return fmt.Errorf("%q is not the id of a hold, which has 32 hex digits", id)
		}
		keys[i] = v.holdsPrefix() + id
	}
	if err := v.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("remove the hold: %w", err)
	}
	return nil
}
