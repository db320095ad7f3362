package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// The kinds of volumes.
const (
	KindTree = "tree" // a folder with all that is in it
	// the content of one file or block device; its recipe has one item, a file whose path is empty
	KindImage = "image"
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
	// Stats are the lists of stat pages, beside Lists. Empty when
	// none were stored; a restore does not need them.
	Stats []PageRef `cbor:"8,keyasint,omitempty" json:"-"`
	// FileSystem identifies the file system that the volume lay on: its type and, where the kernel
	// tells, its UUID. "" means that it is not known.
	FileSystem string `cbor:"9,keyasint,omitempty" json:"file_system,omitempty"`
	// Mounted identifies one mount of that file system in one boot of one host. The stat pages are
	// evidence of unchanged content only while that mount stands. "" means that they never are.
	Mounted string `cbor:"10,keyasint,omitempty" json:"-"`
	// Excludes are the patterns whose matches the backup leaves out on purpose.
	Excludes []string `cbor:"11,keyasint,omitempty" json:"excludes,omitempty"`
	// ExcludeCaches says that the backup leaves out the content of folders with a CACHEDIR.TAG.
	ExcludeCaches bool `cbor:"12,keyasint,omitempty" json:"exclude_caches,omitempty"`
	// Clock and Young are as in Evidence, in nanoseconds. Without stat pages they are 0.
	Clock int64 `cbor:"13,keyasint,omitempty" json:"-"`
	Young int64 `cbor:"14,keyasint,omitempty" json:"-"`
}

// Content counts the content of the volume beside folders:
// entries, or bytes of an image. A volume without any is empty.
func (v *Volume) Content() uint64 {
	if v.Kind == KindImage {
		return v.Bytes
	}
	return v.Entries - v.Dirs
}

// Loss is content of a volume that a backup should have and lacks,
// or has not as it was at one moment.
type Loss struct {
	Volume string `cbor:"1,keyasint" json:"volume"`
	// in the volume, raw bytes; empty is the volume as a whole
	Path []byte `cbor:"2,keyasint" json:"-"`
	What string `cbor:"3,keyasint" json:"what"` // one sentence without the path
	// Accepted says that the configuration of the instance accepts losses at this path.
	Accepted bool `cbor:"4,keyasint,omitempty" json:"accepted,omitempty"`
}

// MaxLosses is how many losses a manifest names. It counts all of them.
const MaxLosses = 1000

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
	// Seq orders the backups of an instance: it is one more than the greatest that the writer found
	// when it began. No clock has a part in it.
	Seq uint64 `cbor:"12,keyasint" json:"sequence"`
	// Parent is the id of the backup from which the content of the volumes came: the last
	// backup that was made of them or restored to them; "" where the writer knows of none.
	Parent string `cbor:"13,keyasint,omitempty" json:"parent,omitempty"`
	// Lost counts the losses that nobody accepted. A backup with any
	// is incomplete, and its id says so.
	Lost uint64 `cbor:"14,keyasint,omitempty" json:"lost"`
	// LostAccepted counts the losses that the configuration accepts.
	LostAccepted uint64 `cbor:"15,keyasint,omitempty" json:"lost_accepted"`
	// Losses names the losses of both kinds, the first MaxLosses of them.
	Losses []Loss `cbor:"16,keyasint,omitempty" json:"losses,omitempty"`
	// Fork are the ids of the newest backups that this one does not descend from, as the writer
	// found them right before it wrote this; empty for a backup on top of the newest one.
	Fork []string `cbor:"17,keyasint,omitempty" json:"fork,omitempty"`

	Object string `cbor:"-" json:"object"` // its key in the store
	Digest string `cbor:"-" json:"sha256"` // of the stored object, hex
}

const (
	manifestMagic = "HFMANI\x00\x01"
	maxManifest   = 64 << 20
)

var instancePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// CheckInstance says whether id is of the form of an instance's.
func CheckInstance(id string) error {
	if !instancePattern.MatchString(id) {
		return fmt.Errorf("instance id %q: must have 1 to 32 of A-Z a-z 0-9 . _ - and begin with a letter or digit", id)
	}
	return nil
}

func (v *Vault) backupsPrefix() string { return v.info.ID + "/backups/" }

func (v *Vault) manifestKey(instance, id string) string {
	return v.backupsPrefix() + instance + "/" + id
}

// WriteManifest stores m, reads it back, and returns nil only when the
// store gave back the very bytes. It sets m's Object and Digest. Invariant
// manifest-last: the caller calls it after Writer.Finish returned nil.
// After an error no such backup exists, unless the error is ErrMayExist.
// No session protects the packs: beside collectors use Session.WriteManifest.
func (v *Vault) WriteManifest(ctx context.Context, m *Manifest) error {
	return v.writeManifest(ctx, m, nil)
}

// writeManifest is WriteManifest under a session, which stays while the outcome is in doubt.
func (v *Vault) writeManifest(ctx context.Context, m *Manifest, s *Session) error {
	if err := CheckInstance(m.Instance); err != nil {
		return err
	}
	ref, ok := RefOf(m.Instance, m.ID)
	if !ok || ref.Seq != m.Seq || ref.Incomplete != (m.Lost > 0) {
		return fmt.Errorf("backup id %q does not fit sequence number %d and %d losses", m.ID, m.Seq, m.Lost)
	}
	if !ref.follows(m.Parent) {
		return fmt.Errorf("backup id %q does not fit the parent %q", m.ID, m.Parent)
	}
	m.Format = Format
	plain, err := encMode.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if most := maxManifest - len(manifestMagic) - format.Tag; len(plain) > most {
		return fmt.Errorf("manifest of %d bytes: more than the %d that the format allows", len(plain), most)
	}
	if err := decManifest.Unmarshal(plain, new(Manifest)); err != nil {
		return fmt.Errorf("manifest is more than the format allows: %w", err)
	}
	object := []byte(manifestMagic)
	object = seal.NewAEAD(v.manifestSubkey(m.Instance, m.ID)).Seal(object, format.Nonce(0), plain, object)
	m.Object = v.manifestKey(m.Instance, m.ID)
	m.Digest = digest(object)
	ref.Size = int64(len(object))
	return v.confirm(ctx, &doubt{backup: ref, key: m.Object, object: object, session: s, packs: m.Packs})
}

func (v *Vault) manifestSubkey(instance, id string) [32]byte {
	return format.Subkey(v.meta, "manifest", []byte(instance+"/"+id))
}

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

// readManifest is Manifest by one look.
func (v *Vault) readManifest(ctx context.Context, ref BackupRef) (*Manifest, error) {
	id, ok := parseBackupID(ref.ID)
	if CheckInstance(ref.Instance) != nil || !ok {
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
	plain, err := seal.NewAEAD(v.manifestSubkey(ref.Instance, ref.ID)).Open(nil, format.Nonce(0), object[n:], object[:n])
	if err != nil {
		return nil, bad(seal.ErrOpen.Error())
	}
	m := new(Manifest)
	if err := decManifest.Unmarshal(plain, m); err != nil {
		if err := pageError(err); format.IsNewer(err) {
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
	if m.Seq != id.Seq || id.Incomplete != (m.Lost > 0) {
		return nil, bad("says another sequence number, or another number of losses, than its name")
	}
	if !id.follows(m.Parent) {
		return nil, bad("says another parent than its name")
	}
	m.Object, m.Digest = key, sum
	return m, nil
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

// manifestReads is how many manifests are read at a time.
const manifestReads = 8

// eachManifest reads the manifests of backups, in any order, and calls each for one at a time. A
// backup that was deleted since it was listed is passed over.
func (v *Vault) eachManifest(ctx context.Context, refs []BackupRef, each func(BackupRef, *Manifest)) error {
	var mu sync.Mutex
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(manifestReads)
	for _, ref := range refs {
		g.Go(func() error {
			m, err := v.Manifest(ctx, ref)
			if errors.Is(err, ErrNoBackup) {
				return nil
			} else if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			each(ref, m)
			return nil
		})
	}
	return g.Wait()
}
