package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"

	"holdfast/internal/vault/format"
)

// Look is the object that an agent leaves in a vault each time that it looks whether
// another copy of its own state folder is alive: a copy finds a look that it never put.
type Look struct {
	Name string `cbor:"-"` // of the object, below the looks of the vault; LookName makes it
	// Life is random for each life of the agent, and Parent the life that put the looks
	// which this life found first; "" where it found none, or took over.
	Life   string `cbor:"1,keyasint"`
	Parent string `cbor:"2,keyasint"`
	// Count is the number of the look in its life, from 1 on.
	Count uint64 `cbor:"3,keyasint"`
	// Host and Machine are for people: the host's id, and the name of the machine.
	Host    string    `cbor:"4,keyasint"`
	Machine string    `cbor:"5,keyasint"`
	At      time.Time `cbor:"6,keyasint"` // for people only
}

const (
	lookMagic = "HFLOOK\x00\x01"
	maxLook   = 1 << 12
)

var lookPattern = regexp.MustCompile(`^[0-9a-f]{16}-[0-9a-f]{32}$`)

func (v *Vault) looksPrefix() string { return v.info.ID + "/looks/" }

// lookTag begins the names of all looks of one identity.
func (v *Vault) lookTag(identity string) string {
	k := format.Subkey(v.meta, "looks of", []byte(identity))
	return hex.EncodeToString(k[:8])
}

// LookName makes the name of a look of the identity. The caller
// writes the name down before PutLook, and so knows the look again.
func (v *Vault) LookName(identity string) string {
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return v.lookTag(identity) + "-" + hex.EncodeToString(r[:])
}

// PutLook stores a look under its name.
func (v *Vault) PutLook(ctx context.Context, l Look) error {
	object, err := v.sealSmall("look", lookMagic, l.Name, &l)
	if err != nil {
		return err
	}
	if err := v.st.Put(ctx, v.looksPrefix()+l.Name, object); err != nil {
		return fmt.Errorf("store look: %w", err)
	}
	return nil
}

// Looks returns the looks of the identity. Of known looks it has nothing but
// the name, and reads none. With an error it returns the readable looks: a
// damaged look is ErrCorrupt, and tells nothing about the host that put it.
func (v *Vault) Looks(ctx context.Context, identity string, known func(name string) bool) ([]Look, error) {
	var all []Look
	var failed error
	wanted := func(id string) bool {
		if !lookPattern.MatchString(id) {
			return false
		}
		if known(id) {
			all = append(all, Look{Name: id})
			return false
		}
		return true
	}
	var read []Look
	err := v.readSmall(ctx, v.looksPrefix(), v.lookTag(identity)+"-", maxLook, wanted, func(id string, object []byte) error {
		l := Look{}
		if err := v.openSmall("look", lookMagic, v.looksPrefix(), id, object, &l); err != nil {
			failed = errors.Join(failed, err)
			return nil
		}
		l.Name = id
		read = append(read, l)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("read looks: %w", err)
	}
	return append(all, read...), errors.Join(err, failed)
}

// DeleteLooks deletes looks by their names.
func (v *Vault) DeleteLooks(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = v.looksPrefix() + name
	}
	if err := v.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("remove looks: %w", err)
	}
	return nil
}
