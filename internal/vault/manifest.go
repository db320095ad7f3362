package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
)

// What a volume is.
const (
	KindTree  = "tree"  // a folder with all that is in it
	KindImage = "image" // the content of one file or block device; its recipe has one item, a file whose path is empty
)

// Volume is one volume of a backup.
type Volume struct {
	Name    string    `cbor:"1,keyasint" json:"name"`
	Kind    string    `cbor:"2,keyasint" json:"kind"` // KindTree or KindImage
	Lists   []PageRef `cbor:"3,keyasint" json:"-"`    // of the recipe
	Entries uint64    `cbor:"4,keyasint" json:"entries"`
	Files   uint64    `cbor:"5,keyasint" json:"files"`
	Dirs    uint64    `cbor:"6,keyasint" json:"dirs"`
	Bytes   uint64    `cbor:"7,keyasint" json:"bytes"` // of the files' content, holes not counted
	// Stats are the lists of stat pages, beside Lists. Empty when none were stored; a restore does not need them.
	Stats []PageRef `cbor:"8,keyasint,omitempty" json:"-"`
}

// Manifest is what makes a backup exist.
type Manifest struct {
	Format   int       `cbor:"1,keyasint" json:"format"`
	Instance string    `cbor:"2,keyasint" json:"instance"`
	ID       string    `cbor:"3,keyasint" json:"id"`
	Host     string    `cbor:"4,keyasint" json:"host"`
	Agent    string    `cbor:"5,keyasint" json:"agent"` // version of the program that wrote it
	Created  time.Time `cbor:"6,keyasint" json:"created"`
	Finished time.Time `cbor:"7,keyasint" json:"finished"`
	Volumes  []Volume  `cbor:"8,keyasint" json:"volumes"`
	Packs    []PackRef `cbor:"9,keyasint" json:"-"`          // every pack that the recipes name
	Bytes    uint64    `cbor:"10,keyasint" json:"bytes"`     // content of all volumes
	NewBytes uint64    `cbor:"11,keyasint" json:"new_bytes"` // stored by this backup, sealed

	Object string `cbor:"-" json:"object"` // its key in the store
	Digest string `cbor:"-" json:"sha256"` // of the stored object, hex
}

// BackupRef names a backup.
type BackupRef struct {
	Instance string    `json:"instance"`
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Size     int64     `json:"-"` // of the manifest, bytes
}

const (
	manifestMagic = "HFMANI\x00\x01"
	maxManifest   = 64 << 20
	idTime        = "20060102T150405.000Z"
)

var (
	instancePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)
	backupPattern   = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{16}$`)
)

// CheckInstance says whether id is of the form of an instance's.
func CheckInstance(id string) error {
	if !instancePattern.MatchString(id) {
		return fmt.Errorf("instance id %q: must have 1 to 32 of A-Z a-z 0-9 . _ - and begin with a letter or digit", id)
	}
	return nil
}

// NewBackupID returns an id for a backup made at t: ids sort by time and are unique without asking.
func NewBackupID(t time.Time) string {
	var r [8]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return t.UTC().Format(idTime) + "-" + hex.EncodeToString(r[:])
}

func (v *Vault) backupsPrefix() string { return v.info.ID + "/backups/" }

func (v *Vault) manifestKey(instance, id string) string {
	return v.backupsPrefix() + instance + "/" + id
}

// WriteManifest stores m, reads it back, and returns nil only when the store gave back the very bytes. It
// sets m's Object and Digest. Invariant manifest-last: the caller calls it after Writer.Finish returned
// nil.
func (v *Vault) WriteManifest(ctx context.Context, m *Manifest) error {
	if err := CheckInstance(m.Instance); err != nil {
		return err
	}
	m.Format = Format
	plain, err := encMode.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if len(plain) > maxManifest/2 {
		return fmt.Errorf("manifest of %d bytes: more than the %d that the format allows", len(plain), maxManifest/2)
	}
	if err := decMode.Unmarshal(plain, new(Manifest)); err != nil {
		return fmt.Errorf("manifest is more than the format allows: %w", err)
	}
	object := []byte(manifestMagic)
	object = seal.NewAEAD(v.manifestSubkey(m.Instance, m.ID)).Seal(object, packNonce(0), plain, object)
	m.Object = v.manifestKey(m.Instance, m.ID)
	m.Digest = digest(object)
	if err := v.st.Put(ctx, m.Object, object); err != nil {
		return fmt.Errorf("store manifest: %w", err)
	}
	if err := readSame(ctx, v.st, m.Object, object); err != nil {
		return fmt.Errorf("read manifest back: %w", err)
	}
	return nil
}

func (v *Vault) manifestSubkey(instance, id string) [32]byte {
	return subkey(v.meta, "manifest", []byte(instance+"/"+id))
}

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

// readManifest is Manifest by one look.
func (v *Vault) readManifest(ctx context.Context, ref BackupRef) (*Manifest, error) {
	if CheckInstance(ref.Instance) != nil || !backupPattern.MatchString(ref.ID) {
		return nil, fmt.Errorf("%w: %s %s", ErrNoBackup, ref.Instance, ref.ID)
	}
	key := v.manifestKey(ref.Instance, ref.ID)
	object, err := readAll(ctx, v.st, key, maxManifest)
	if errors.Is(err, obs.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s %s in vault %s (%s)", ErrNoBackup, ref.Instance, ref.ID, v.info.Name, v.st)
	} else if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	bad := func(reason string) error { return &CorruptError{Object: key, Reason: reason} }
	sum := digest(object)
	if !bytes.HasPrefix(object, []byte(manifestMagic)) {
		if bytes.HasPrefix(object, []byte(manifestMagic[:6])) {
			return nil, fmt.Errorf("manifest %s: %w", key, ErrNewer)
		}
		return nil, bad("is no manifest")
	}
	n := len(manifestMagic)
	plain, err := seal.NewAEAD(v.manifestSubkey(ref.Instance, ref.ID)).Open(nil, packNonce(0), object[n:], object[:n])
	if err != nil {
		return nil, bad(seal.ErrOpen.Error())
	}
	m := new(Manifest)
	if err := decMode.Unmarshal(plain, m); err != nil {
		if err := pageError(err); isNewer(err) {
			return nil, err
		}
		return nil, bad("does not decode: " + err.Error())
	}
	if m.Format > Format {
		return nil, fmt.Errorf("manifest %s: %w: format %d", key, ErrNewer, m.Format)
	}
	if m.Instance != ref.Instance || m.ID != ref.ID {
		return nil, bad("is the manifest of another backup")
	}
	m.Object, m.Digest = key, sum
	return m, nil
}

func isNewer(err error) bool { return errors.Is(err, ErrNewer) }

// Backups lists the backups of an instance, or of all with "", the oldest first.
func (v *Vault) Backups(ctx context.Context, instance string) ([]BackupRef, error) {
	prefix := v.backupsPrefix()
	if instance != "" {
		if err := CheckInstance(instance); err != nil {
			return nil, err
		}
		prefix += instance + "/"
	}
	var refs []BackupRef
	for info, err := range v.st.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("list backups: %w", err)
		}
		inst, id, ok := strings.Cut(strings.TrimPrefix(info.Key, v.backupsPrefix()), "/")
		if !ok || CheckInstance(inst) != nil || !backupPattern.MatchString(id) {
			continue // not ours
		}
		t, err := time.Parse(idTime, id[:len(idTime)])
		if err != nil {
			continue
		}
		refs = append(refs, BackupRef{Instance: inst, ID: id, Time: t, Size: info.Size})
	}
	slices.SortFunc(refs, func(a, b BackupRef) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return refs, nil
}

// Find returns the backup of that id, or the newest of the instance with id "". With instance "" the id
// is looked for among all instances. ErrNoBackup.
func (v *Vault) Find(ctx context.Context, instance, id string) (BackupRef, error) {
	refs, err := v.Backups(ctx, instance)
	if err != nil {
		return BackupRef{}, err
	}
	for _, r := range slices.Backward(refs) {
		if id == "" && instance != "" || r.ID == id {
			return r, nil
		}
	}
	if id == "" {
		return BackupRef{}, fmt.Errorf("%w: instance %s has none in vault %s (%s)", ErrNoBackup, instance, v.info.Name, v.st)
	}
	return BackupRef{}, fmt.Errorf("%w: %q in vault %s (%s)", ErrNoBackup, id, v.info.Name, v.st)
}

// Volume returns the volume of that name, or the only one with "".
func (m *Manifest) Volume(name string) (*Volume, error) {
	for i := range m.Volumes {
		if m.Volumes[i].Name == name || name == "" && len(m.Volumes) == 1 {
			return &m.Volumes[i], nil
		}
	}
	return nil, fmt.Errorf("%w: backup %s has no volume %q", ErrNoBackup, m.ID, name)
}
