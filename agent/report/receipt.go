// Package report tells the control plane the outcome of a job: receipts that
// this host signs, and the delivery of events until each is acknowledged.
//
// Package agent gives a Deliverer the outbox of the journal and runs it; Run starts one goroutine
// per event on its way and waits for them. A control plane uses Verify. Nothing is kept here: a
// crash leaves every unsettled event in the outbox, and it is sent again with the same id.
package report

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"holdfast/agent/model"
	"holdfast/internal/durable"
)

// PayloadType is the DSSE payload type of a receipt.
const PayloadType = "application/vnd.holdfast.receipt+json"

// StatementVersion is the version of Statement that this package writes.
const StatementVersion = 1

// Statement is the content of a receipt: this backup of this
// instance was stored, read back and matched. Times are UTC. A receipt is kept and verified for
// years, so its fields are of their own, although most are also in the record of the backup
// (model.Result): that record changes with the program.
type Statement struct {
	Version  int    `json:"version"`
	Instance string `json:"instance"`
	Tenant   string `json:"tenant"`
	Task     string `json:"task"`
	Job      string `json:"job"`
	Vault    string `json:"vault"` // its id in the store
	Backup   string `json:"backup"`
	// orders the backups of the instance, whatever clocks say
	Sequence uint64 `json:"sequence"`
	// the backup from which the volumes' content came; "" where none is known
	Parent string `json:"parent,omitempty"`
	// the other newest backups of the instance, which this one does not descend from
	Fork           []model.Fork `json:"fork,omitempty"`
	Object         string       `json:"object"`          // the manifest's key in the store
	ManifestSHA256 string       `json:"manifest_sha256"` // of the stored object, hex
	Store          string       `json:"store"`           // URL without secrets
	Files          uint64       `json:"files"`
	Dirs           uint64       `json:"dirs"`
	Bytes          uint64       `json:"bytes"`      // of content, as the instance sees it
	BytesSent      uint64       `json:"bytes_sent"` // to the store for this backup
	// Compressed is the new content by its level of compression, bytes before
	// compression, and CompressedWhy tells in words how the levels were chosen.
	Compressed    map[string]uint64 `json:"compressed,omitempty"`
	CompressedWhy string            `json:"compressed_why,omitempty"`
	// Frozen is when the freeze began: the backup holds the instance as it was
	// from then on. Zero where nobody runs the instance, and nothing was frozen.
	Frozen        time.Time `json:"frozen,omitzero"`
	FreezeSeconds float64   `json:"freeze_seconds"`
	// how it was held: precopy, frozen, stop or live
	Hold     string    `json:"hold,omitempty"`
	Stored   time.Time `json:"stored"`
	Verified time.Time `json:"verified"` // when the manifest was read back
	// ChunksReadBack is how many chunks of content were read back from the store and compared with
	// their names, and ChunksReadBackReused how many of those the vault had before this backup.
	ChunksReadBack       int    `json:"chunks_read_back"`
	ChunksReadBackReused int    `json:"chunks_read_back_reused"`
	Verification         string `json:"verification"` // how deep, in words
	// the metadata that could not be kept exactly; the manifest lists it
	Warnings int `json:"warnings"`
	// places without their content, where the configuration accepts it; the manifest names them
	LossesAccepted int    `json:"losses_accepted"`
	Host           string `json:"host"`
	// of the state folder, random: copies of one host have one Host and different identities
	Identity string `json:"identity,omitempty"`
	Agent    string `json:"agent"` // version
}

// Errors of receipts.
var (
	// ErrNotReceipt says that the bytes are no receipt, whoever signed them.
	ErrNotReceipt = errors.New("not a receipt")
	// ErrSignature says that none of the given keys signed the receipt.
	ErrSignature = errors.New("not signed by a known host")
)

// Signer signs receipts with the key of this host. It may be used by any number of goroutines.
type Signer struct {
	key      ed25519.PrivateKey
	envelope *dsse.EnvelopeSigner
}

// LoadSigner reads the key (PKCS #8, PEM, Ed25519) from the file. If the file is not there it makes
// a key from rand, writes it with mode 0600 and its public half beside it (".pub", 0644), so that a
// host needs no step before its first start. A file that others than its owner can read is refused.
func LoadSigner(path string, rand io.Reader) (*Signer, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path, rand); err != nil {
			return nil, fmt.Errorf("make signing key %s: %w", path, err)
		}
	}
	return ReadSigner(path)
}

// ReadSigner is LoadSigner for a file that must be there.
func ReadSigner(path string) (*Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("signing key %s: others can read it (mode %04o), set it to 0600", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	defer clear(data)
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("signing key %s: no PEM block of type PRIVATE KEY", path)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key %s: it is a %T, not an Ed25519 key", path, parsed)
	}
	return NewSigner(key)
}

func makeKey(path string, rand io.Reader) error {
	// The seed is read here: key generation from a given reader is not repeatable otherwise.
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return err
	}
	key := ed25519.NewKeyFromSeed(seed)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := marshalPublic(key.Public())
	if err != nil {
		return err
	}
	err = durable.Publish(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	if err != nil {
		return err
	}
	return durable.WriteFile(path+".pub", public, 0o644)
}

// NewSigner returns a Signer with the key.
func NewSigner(key ed25519.PrivateKey) (*Signer, error) {
	s := &Signer{key: key}
	var err error
	s.envelope, err = dsse.NewEnvelopeSigner(ed25519Key{public: key.Public().(ed25519.PublicKey), private: key})
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return s, nil
}

// PublicKey is the key with which a control plane verifies.
func (s *Signer) PublicKey() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// PublicPEM is PublicKey as a file: PKIX in PEM.
func (s *Signer) PublicPEM() ([]byte, error) { return marshalPublic(s.key.Public()) }

func marshalPublic(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublic reads what PublicPEM wrote.
func ParsePublic(data []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("public key: no PEM block of type PUBLIC KEY")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("public key: it is a %T, not an Ed25519 key", parsed)
	}
	return key, nil
}

// Sign returns the receipt: a DSSE envelope as JSON.
func (s *Signer) Sign(ctx context.Context, statement Statement) (json.RawMessage, error) {
	statement.Version = StatementVersion
	body, err := json.Marshal(statement)
	if err != nil {
		return nil, fmt.Errorf("encode receipt: %w", err)
	}
	return s.seal(ctx, PayloadType, body)
}

// Verify returns the receipt's statement, if one of the keys signed it: else ErrSignature, or
// ErrNotReceipt where it can't be read or is of a version that this package does not know.
func Verify(ctx context.Context, receipt []byte, keys ...ed25519.PublicKey) (Statement, error) {
	body, err := unseal(ctx, PayloadType, receipt, keys)
	if err != nil {
		return Statement{}, err
	}
	var s Statement
	if err := json.Unmarshal(body, &s); err != nil {
		return Statement{}, fmt.Errorf("%w: %w", ErrNotReceipt, err)
	}
	if s.Version != StatementVersion {
		return Statement{}, fmt.Errorf("%w: version %d", ErrNotReceipt, s.Version)
	}
	return s, nil
}

// ed25519Key is a key as package dsse wants it; private is nil for verifying.
type ed25519Key struct {
	public  ed25519.PublicKey
	private ed25519.PrivateKey
}

func (k ed25519Key) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(k.private, data), nil
}

func (k ed25519Key) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(k.public, data, sig) {
		return ErrSignature
	}
	return nil
}

// KeyID is the SHA-256 of the public key's 32 bytes, hex.
func (k ed25519Key) KeyID() (string, error) {
	sum := sha256.Sum256(k.public)
	return hex.EncodeToString(sum[:]), nil
}

func (k ed25519Key) Public() crypto.PublicKey { return k.public }
