package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/obs"
)

// header is the part of a header object that the MAC covers.
type header struct {
	Format     int       `json:"format"`
	ID         string    `json:"id"`
	Generation uint32    `json:"generation"`
	Created    time.Time `json:"created"` // of the vault
	Params     Params    `json:"params"`
	Recipients []string  `json:"recipients"`
	Key        string    `json:"key"` // age, armored; opens to a secret
}

type document struct {
	Vault json.RawMessage `json:"vault"`
	MAC   string          `json:"mac"` // hex HMAC-SHA256 of the compact form of Vault
}

// secret is the plaintext of the wrapped key. The name
// is in here so that a bucket's owner can't read it.
type secret struct {
	Key   []byte `json:"key"`
	Name  string `json:"name"`
	Proof []byte `json:"proof"` // that the vault's maker had the name key
}

func (s *secret) clear() { clear(s.Key) }

// proofOf is known to holders of the name key, and to a vault's recipients for that vault
// only: with the name key itself, one tenant's recipient could ask for the vaults of others.
func proofOf(nameKey []byte, vid string) []byte {
	return keyedByName("holdfast vault proof v1\x00", nameKey, vid)
}

const (
	maxHeader     = 1 << 20
	maxGeneration = 99_999_999
	// signpost is what stands in an object that says that there is a vault; nobody reads it.
	signpost       = "HFVAULT\n"
	signpostPrefix = "vaults/"
)

func signpostKey(vid string) string { return signpostPrefix + vid }

func firstHeaderKey(vid string) string { return vid + "/vault.json" }

// newHeaderKey is the name of a later header: a name that nobody took before.
func newHeaderKey(vid string, generation uint32) string {
	var r [8]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return fmt.Sprintf("%s/vault-%08d-%s.json", vid, generation, hex.EncodeToString(r[:]))
}

var headerPattern = regexp.MustCompile(`^vault-([0-9]{8})-[0-9a-f]{16}\.json$`)

// headerRef is a header object.
type headerRef struct {
	key        string
	generation uint32
	size       int64
}

// headersOf lists the headers of a vault, the newest last. None is no error.
func headersOf(ctx context.Context, st obs.Store, vid string) ([]headerRef, error) {
	var refs []headerRef
	for info, err := range st.List(ctx, vid+"/vault") {
		if err != nil {
			return nil, fmt.Errorf("list headers: %w", err)
		}
		ref := headerRef{key: info.Key, generation: 1, size: info.Size}
		if info.Key != firstHeaderKey(vid) {
			m := headerPattern.FindStringSubmatch(strings.TrimPrefix(info.Key, vid+"/"))
			if m == nil {
				continue // not ours
			}
			n, err := strconv.ParseUint(m[1], 10, 32)
			if err != nil {
				continue
			}
			ref.generation = uint32(n)
		}
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b headerRef) int {
		return cmp.Or(cmp.Compare(a.generation, b.generation), cmp.Compare(a.key, b.key))
	})
	return refs, nil
}

// newestHeader reads and opens the header that is in force. The caller
// clears the secret. ErrNoVault, ErrWrongKey, ErrCorrupt, ErrNewer.
func newestHeader(ctx context.Context, st obs.Store, vid string, id *Identity) (headerRef, header, secret, error) {
	for seen := ""; ; {
		refs, err := headersOf(ctx, st, vid)
		if err != nil {
			return headerRef{}, header{}, secret{}, err
		} else if len(refs) == 0 {
			return headerRef{}, header{}, secret{}, ErrNoVault
		}
		ref := refs[len(refs)-1]
		if ref.size > maxHeader {
			return ref, header{}, secret{}, &CorruptError{Object: ref.key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", ref.size, maxHeader)}
		}
		h, s, err := readHeader(ctx, st, ref, vid, id)
		if errors.Is(err, obs.ErrNotFound) {
			if ref.key != seen {
				// replaced since the list was made: its successor was there before it went
				seen = ref.key
				continue
			}
			err = readError(ref.key, 0, int(ref.size), 0, err)
		}
		return ref, h, s, err
	}
}

// sealHeader wraps the secret for h's recipients and returns the bytes of the header object.
func sealHeader(h header, s secret) ([]byte, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode vault key: %w", err)
	}
	defer clear(plain)
	if h.Key, h.Recipients, err = wrap(plain, h.Recipients); err != nil {
		return nil, err
	}
	vault, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode vault header: %w", err)
	}
	doc, err := json.Marshal(document{Vault: vault, MAC: headerMAC(s.Key, vault)})
	if err != nil {
		return nil, fmt.Errorf("encode vault header: %w", err)
	}
	if len(doc) > maxHeader {
		return nil, fmt.Errorf("header for %d recipients has %d bytes: more than the %d that the format allows", len(h.Recipients), len(doc), maxHeader)
	}
	return doc, nil
}

// openHeader opens the bytes of the header object at ref, of the vault of that id.
func openHeader(ref headerRef, vid string, raw []byte, id *Identity) (h header, s secret, err error) {
	bad := func(reason string) (header, secret, error) {
		s.clear()
		return header{}, secret{}, &CorruptError{Object: ref.key, Reason: reason}
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return bad("is no vault header: " + err.Error())
	}
	if err := json.Unmarshal(doc.Vault, &h); err != nil {
		return bad("is no vault header: " + err.Error())
	}
	if h.Format > Format {
		return header{}, secret{}, fmt.Errorf("%w: format %d", ErrNewer, h.Format)
	}
	strict := json.NewDecoder(bytes.NewReader(doc.Vault))
	strict.DisallowUnknownFields()
	if err := strict.Decode(new(header)); err != nil { // it decoded before, so a key is not known
		return header{}, secret{}, fmt.Errorf("%w: %w", ErrNewer, err)
	}
	plain, err := id.unwrap(h.Key)
	if errors.Is(err, ErrWrongKey) {
		return header{}, secret{}, err
	} else if err != nil {
		return bad("key does not unwrap: " + err.Error())
	}
	defer clear(plain)
	if s, err = parseSecret(plain); err != nil {
		return bad(err.Error())
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc.Vault); err != nil {
		return bad("is no vault header: " + err.Error())
	}
	if !hmac.Equal([]byte(headerMAC(s.Key, compact.Bytes())), []byte(doc.MAC)) {
		return bad("header was changed: its MAC does not match")
	}
	if h.ID != vid || h.Generation != ref.generation || h.Format != Format {
		return bad(fmt.Sprintf("is the header of another vault, or another of this one (%s, generation %d)", h.ID, h.Generation))
	}
	if err := h.Params.check(); err != nil {
		return bad(err.Error())
	}
	return h, s, nil
}

// parseSecret decodes the plaintext of a wrapped key.
func parseSecret(plain []byte) (secret, error) {
	var s secret
	if err := json.Unmarshal(plain, &s); err != nil || len(s.Key) != 32 || s.Name == "" || len(s.Name) > 256 || len(s.Proof) != sha256.Size {
		s.clear()
		// never with its content
		return secret{}, errors.New("wrapped key is not of the form of a vault key")
	}
	return s, nil
}

func headerMAC(key, header []byte) string { return macOf(headerKey(key), header) }

// headerKey is the key of the MAC of a vault's headers.
func headerKey(key []byte) [32]byte { return derive(key, "header") }

func macOf(k [32]byte, header []byte) string {
	m := hmac.New(sha256.New, k[:])
	m.Write(header)
	return hex.EncodeToString(m.Sum(nil))
}
