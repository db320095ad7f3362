package engine

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/report"
	"holdfast/internal/vault"
)

// replace puts a file into the place of another, as tools do.
func replaceFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func soon(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

func newKey(t *testing.T) (text []byte, recipient string) {
	t.Helper()
	identity, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if text, err = identity.MarshalText(); err != nil {
		t.Fatal(err)
	}
	return text, identity.Recipient()
}

// The host's key counts as it is now. Another name key does not:
// the vaults of this host lie where the first one says.
func TestKeysOfVaultsAreReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keyFile, nameFile := filepath.Join(dir, "host.key"), filepath.Join(dir, "name.key")
	first, _ := newKey(t)
	replaceFile(t, keyFile, first)
	replaceFile(t, nameFile, []byte("a secret\n"))
	k, err := OpenKeys(keyFile, nameFile)
	if err != nil {
		t.Fatal(err)
	}
	if name, identity, err := k.get(); err != nil || string(name) != "a secret" || identity == nil {
		t.Fatalf("%q, %v", name, err)
	}
	second, recipient := newKey(t)
	replaceFile(t, keyFile, second)
	soon(t, "the new key is used", func() bool {
		_, identity, err := k.get()
		return err == nil && identity.Recipient() == recipient
	})
	replaceFile(t, keyFile, []byte("no key"))
	soon(t, "a broken key is told of", func() bool {
		_, _, err := k.get()
		return err != nil && strings.Contains(err.Error(), "key_file: ")
	})
	replaceFile(t, keyFile, second)
	replaceFile(t, nameFile, []byte("another secret"))
	soon(t, "another name key is refused", func() bool {
		_, _, err := k.get()
		return errors.Is(err, errNameKeyChanged)
	})
	replaceFile(t, nameFile, []byte("a secret")) // without its end of line
	soon(t, "the first one is back", func() bool {
		_, _, err := k.get()
		return err == nil
	})
	if _, err := OpenKeys(keyFile, filepath.Join(dir, "none")); err == nil {
		t.Error("a name key that is not there")
	}
}

// Receipts are signed with the key that its file holds now, and
// with the last good one while the file is no good.
func TestSigningKeyIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, other := filepath.Join(dir, "signing.pem"), filepath.Join(dir, "other.pem")
	var told []error
	s, err := OpenSigning(path, func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	first := s.Signer().PublicKey()
	next, err := report.LoadSigner(other, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	soon(t, "that it is gone is told", func() bool { return s.Signer().PublicKey().Equal(first) && len(told) == 1 })
	if _, err := os.Stat(path); err == nil {
		t.Error("another identity was made while the agent ran")
	}
	for range 3 {
		s.Signer()
	}
	data, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	replaceFile(t, path, data)
	soon(t, "the new key signs", func() bool { return s.Signer().PublicKey().Equal(next.PublicKey()) })
	if len(told) != 2 || told[0] == nil || told[1] != nil {
		t.Errorf("told of %v", told)
	}
}
