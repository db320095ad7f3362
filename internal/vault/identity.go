package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

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

// KeyError says why a file is no key, and what to do about it. It never repeats the file's content.
type KeyError struct {
	File   string // "" where the content came from elsewhere
	Reason string
	Remedy string
	Err    error // of the file system; nil is allowed
}

func (e *KeyError) Error() string {
	if e.File == "" {
		return "key: " + e.Reason
	}
	return fmt.Sprintf("key %s: %s", e.File, e.Reason)
}

func (e *KeyError) Unwrap() error { return e.Err }

// maxKeyFile is more than any file of identities has: a device gives bytes without an end.
const maxKeyFile = 1 << 20

// ParseIdentity reads an age identity file: lines of AGE-SECRET-KEY-1…, comments with #,
// with any line ends. The recipient belongs to the first identity. Its errors are *KeyError.
func ParseIdentity(file []byte) (*Identity, error) {
	// an editor may begin a file with this mark
	lines := bytes.Split(bytes.TrimPrefix(file, []byte("\xef\xbb\xbf")), []byte("\n"))
	for i := range lines {
		lines[i] = bytes.TrimSpace(lines[i])
	}
	clean := bytes.Join(lines, []byte("\n"))
	defer clear(clean)
	ids, err := age.ParseIdentities(bytes.NewReader(clean))
	if err != nil || len(ids) == 0 {
		return nil, noIdentity(clean)
	}
	out := &Identity{ids: ids}
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			out.pubs = append(out.pubs, id.Recipient().String())
		case *age.HybridIdentity:
			out.pubs = append(out.pubs, id.Recipient().String())
		default:
			return nil, &KeyError{Reason: "holds an age identity of a kind that has no recipient of its own", Remedy: makeKey}
		}
	}
	return out, nil
}

const makeKey = "holdfast key new --out FILE makes a key"

// noIdentity names the kind of a file that is no identity file.
func noIdentity(file []byte) *KeyError {
	const secret = "AGE-SECRET-KEY-"
	text := string(bytes.ToUpper(bytes.TrimSpace(file)))
	begins := func(prefix string) bool { return strings.HasPrefix(text, strings.ToUpper(prefix)) }
	holds := func(prefix string) bool {
		return begins(prefix) || strings.Contains(text, "\n"+strings.ToUpper(prefix))
	}
	switch {
	case text == "":
		return &KeyError{Reason: "is empty", Remedy: "take the file from your copy of the key; " + makeKey + ", which opens no vault that is there already"}
	case begins("age-encryption.org/"), begins("-----BEGIN AGE ENCRYPTED FILE"):
		return &KeyError{Reason: "is encrypted by age itself", Remedy: "decrypt it first (age --decrypt --output KEY FILE), and name what comes out"}
	case strings.IndexByte(text, 0) >= 0:
		return &KeyError{Reason: "is no text in UTF-8", Remedy: "a key is a text file with a line that begins with " + secret + "1; store it as UTF-8"}
	case holds("AGE-PLUGIN-"):
		return &KeyError{Reason: "holds an identity of an age plugin, which Holdfast does not run", Remedy: makeKey}
	case holds(secret):
		return &KeyError{Reason: "holds an age identity that is damaged or incomplete", Remedy: "take the file from your copy of the key; lines must be whole"}
	case holds("age1"):
		return &KeyError{
			Reason: "holds a recipient (age1…), the public half of a key",
			Remedy: "name the file with the identity (AGE-SECRET-KEY-1…) that belongs to it; recipients go to --recipient",
		}
	case begins("-----BEGIN OPENSSH"), begins("ssh-"), begins("-----BEGIN"):
		return &KeyError{Reason: "holds a key of another program (SSH or TLS)", Remedy: makeKey}
	}
	return &KeyError{Reason: "is no age identity file", Remedy: "name a file with a line that begins with " + secret + "1; " + makeKey}
}

// LoadIdentity reads the identity file at path. Its errors are *KeyError.
func LoadIdentity(path string) (*Identity, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	id, err := ParseIdentity(b)
	if bad, ok := errors.AsType[*KeyError](err); ok {
		bad.File = path
	}
	return id, err
}

// readKeyFile reads a file that a person named.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	var b []byte
	if err == nil {
		defer f.Close() // only read
		b, err = io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	}
	fault := &KeyError{File: path, Err: err}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		fault.Reason = pe.Err.Error()
	}
	switch {
	case err == nil && len(b) > maxKeyFile:
		clear(b)
		return nil, &KeyError{File: path, Reason: "has more than 1 MiB", Remedy: "name a file with a line that begins with AGE-SECRET-KEY-1; " + makeKey}
	case err == nil:
		return b, nil
	case errors.Is(err, fs.ErrNotExist):
		fault.Remedy = "check the path; " + makeKey
	case errors.Is(err, fs.ErrPermission):
		fault.Remedy = "the key may be right, but this user may not read it: run as the owner of the file, or let its owner change that (chmod, chown)"
	case errors.Is(err, syscall.EISDIR):
		fault.Remedy = "name the file in that folder"
	default:
		fault.Remedy = "the file could not be read: look at its disk (dmesg), or take your copy of the key"
	}
	return nil, fault
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
