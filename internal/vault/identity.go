package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Identity is the secret half of an age key pair: what opens a vault. Its zero value opens nothing.
// It is constant and may be shared.
type Identity struct {
	ids  []age.Identity
	pubs []string // of each, its recipient
}

// GenerateIdentity makes a new X25519 identity.
func GenerateIdentity() (*Identity, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make age identity: %w", err)
	}
	return &Identity{ids: []age.Identity{id}, pubs: []string{id.Recipient().String()}}, nil
}

// ParseIdentity reads an age identity file: lines of AGE-SECRET-KEY-1…, comments with #. The recipient
// is that of the first. The message of its errors never repeats the file's content.
func ParseIdentity(file []byte) (*Identity, error) {
	ids, err := age.ParseIdentities(bytes.NewReader(file))
	if err != nil || len(ids) == 0 {
		return nil, errors.New("is no age identity file (a line that begins with AGE-SECRET-KEY-1)")
	}
	out := &Identity{ids: ids}
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			out.pubs = append(out.pubs, id.Recipient().String())
		case *age.HybridIdentity:
			out.pubs = append(out.pubs, id.Recipient().String())
		default:
			return nil, errors.New("holds an age identity of a kind that has no recipient of its own")
		}
	}
	return out, nil
}

// LoadIdentity reads the identity file at path.
func LoadIdentity(path string) (*Identity, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer clear(b)
	id, err := ParseIdentity(b)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	return id, nil
}

// Recipient returns the public half, age1…, of the first key.
func (id *Identity) Recipient() string { return id.pubs[0] }

// recipients returns the public halves of all keys.
func (id *Identity) recipients() []string { return slices.Clone(id.pubs) }

// MarshalText returns an identity file with these keys. It is secret.
func (id *Identity) MarshalText() ([]byte, error) {
	var text []byte
	for i, key := range id.ids {
		text = fmt.Appendf(text, "# public key: %s\n%s\n", id.pubs[i], key)
	}
	return text, nil
}

// String returns the recipient, so that no message shows the secret by mistake.
func (id *Identity) String() string { return id.Recipient() }

// ParseRecipient says whether s is an age recipient that a vault can be wrapped for.
func ParseRecipient(s string) error {
	_, err := parseRecipient(s)
	return err
}

func parseRecipient(s string) (age.Recipient, error) {
	r, err := age.ParseRecipients(strings.NewReader(s))
	if err != nil || len(r) != 1 {
		return nil, fmt.Errorf("recipient %q: is no age recipient (age1…)", s)
	}
	return r[0], nil
}

// wrap encrypts plain for the recipients, and returns them without repetitions.
func wrap(plain []byte, recipients []string) (armored string, unique []string, err error) {
	unique = slices.Clone(recipients)
	slices.Sort(unique)
	unique = slices.Compact(unique)
	rs := make([]age.Recipient, 0, len(unique))
	for _, s := range unique {
		r, err := parseRecipient(s)
		if err != nil {
			return "", nil, err
		}
		rs = append(rs, r)
	}
	var buf bytes.Buffer
	a := armor.NewWriter(&buf)
	w, err := age.Encrypt(a, rs...)
	if err != nil {
		return "", nil, fmt.Errorf("wrap vault key: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return "", nil, fmt.Errorf("wrap vault key: %w", err)
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return "", nil, fmt.Errorf("wrap vault key: %w", err)
	}
	return buf.String(), unique, nil
}

// unwrap opens what wrap made. ErrWrongKey when id is not among the recipients.
func (id *Identity) unwrap(armored string) ([]byte, error) {
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(armored)), id.ids...)
	if err != nil {
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return nil, ErrWrongKey
		}
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	return plain, nil
}
