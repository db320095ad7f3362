package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"holdfast/internal/reread"
	"holdfast/internal/vault"
)

// Keys are what vaults are opened with. Their files are looked at
// each time that a vault is opened. It is safe for concurrent use.
type Keys struct {
	identity *reread.Files[*vault.Identity]
	nameKey  *reread.Files[[]byte] // nil: there is none
	first    []byte                // the name key that the agent began with
}

var errNameKeyChanged = errors.New("store.name_key_file has changed since the agent started: what has been backed up lies in vaults " +

	"that go by the key before; put that file back, or restart the agent to go by the new key")

// OpenKeys reads the files, which must be right.
func OpenKeys(keyFile, nameKeyFile string) (*Keys, error) {
	k := &Keys{identity: reread.New(nil, func() (*vault.Identity, error) {
		identity, err := vault.LoadIdentity(keyFile)
		if bad, ok := errors.AsType[*vault.KeyError](err); ok {
			return nil, fmt.Errorf("key_file: %w; %s", err, bad.Remedy)
		}
		if err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
		return identity, nil
	}, keyFile)}
	if _, err := k.identity.Get(); err != nil {
		return nil, err
	}
	if nameKeyFile == "" {
		return k, nil
	}
	k.nameKey = reread.New(nil, func() ([]byte, error) {
		data, err := os.ReadFile(nameKeyFile)
		if err != nil {
			return nil, fmt.Errorf("store.name_key_file: %w", err)
		}
		return bytes.TrimSpace(data), nil
	}, nameKeyFile)
	var err error
	k.first, err = k.nameKey.Get()
	return k, err
}

// get returns the keys as they are. Another name key would look for
// vaults elsewhere, and make new ones there, so it is an error.
func (k *Keys) get() (nameKey []byte, identity *vault.Identity, err error) {
	if identity, err = k.identity.Get(); err != nil {
		return nil, nil, err
	}
	if k.nameKey == nil {
		return nil, identity, nil
	}
	if nameKey, err = k.nameKey.Get(); err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(nameKey, k.first) {
		return nil, nil, errNameKeyChanged
	}
	return nameKey, identity, nil
}
