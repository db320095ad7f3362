package agent

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"

	"holdfast/agent/report"
	"holdfast/internal/reread"
	"holdfast/internal/vault"
)

// keys are what vaults are opened with. Their files are looked at
// each time that a vault is opened. It is safe for concurrent use.
type keys struct {
	identity *reread.Files[*vault.Identity]
	nameKey  *reread.Files[[]byte] // nil: there is none
	first    []byte                // the name key that the agent began with
}

var errNameKeyChanged = errors.New("store.name_key_file has changed since the agent started: what has been backed up lies in vaults " +
	"that go by the key before; put that file back, or restart the agent to go by the new key")

// openKeys reads the files, which must be right.
func openKeys(keyFile, nameKeyFile string) (*keys, error) {
	k := &keys{identity: reread.New(nil, func() (*vault.Identity, error) {
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
func (k *keys) get() (nameKey []byte, identity *vault.Identity, err error) {
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

// signing is the key that signs receipts. While its file is no good the last good
// key signs: an instance stands still for a receipt. It is safe for concurrent use.
type signing struct {
	file *reread.Files[*report.Signer]
	tell func(err error) // why the file is no good; nil when it is good again

	mu    sync.Mutex
	fault bool // tell was told
}

// openSigning reads the file, or makes it.
func openSigning(path string, tell func(error)) (*signing, error) {
	if _, err := report.LoadSigner(path, rand.Reader); err != nil {
		return nil, err
	}
	s := &signing{file: reread.New(nil, func() (*report.Signer, error) { return report.ReadSigner(path) }, path), tell: tell}
	_, err := s.file.Get()
	return s, err
}

func (s *signing) signer() *report.Signer {
	key, err := s.file.Last()
	s.mu.Lock()
	changed := s.fault != (err != nil)
	s.fault = err != nil
	s.mu.Unlock()
	if changed {
		s.tell(err)
	}
	return key
}
