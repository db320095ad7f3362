package vault

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
)

// condemned is the sealed content of a condemned/ object: packs
// that a collector found in no manifest and is about to delete.
type condemned struct {
	Session string   `cbor:"1,keyasint"` // id of the collector's
	Packs   []PackID `cbor:"2,keyasint"`
}

const (
	condemnedMagic = "HFCOND\x00\x01"
	// maxCondemned is how many packs one object condemns; a collector writes several.
	maxCondemned       = 1 << 16
	maxCondemnedObject = 2 << 20
)

var condemnedPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (v *Vault) condemnedPrefix() string { return v.info.ID + "/condemned/" }

// readCondemned returns all condemned packs. An object that does not
// open is an error: a backup that used its packs would lose them.
func (v *Vault) readCondemned(ctx context.Context) ([]PackID, error) {
	var packs []PackID
	if err := v.eachCondemnation(ctx, func(_ string, c condemned) { packs = append(packs, c.Packs...) }); err != nil {
		return nil, err
	}
	slices.SortFunc(packs, comparePacks)
	return slices.Compact(packs), nil
}

// eachCondemnation reads all condemnations and calls f for each, one call at a time.
func (v *Vault) eachCondemnation(ctx context.Context, f func(id string, c condemned)) error {
	err := v.readSmall(ctx, v.condemnedPrefix(), "", maxCondemnedObject, condemnedPattern.MatchString, func(id string, object []byte) error {
		var c condemned
		if err := v.openSmall("condemned", condemnedMagic, v.condemnedPrefix(), id, object, &c); err != nil {
			return err
		}
		f(id, c)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read condemned packs: %w", err)
	}
	return nil
}

func comparePacks(a, b PackID) int { return bytes.Compare(a[:], b[:]) }
