package backup

import (
	"context"
	"time"

	"holdfast/internal/backup/known"
	"holdfast/internal/hostid"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Source is one volume to back up.
type Source struct {
	Volume string // name
	Root   string // path of the tree or image to read: a snapshot's, or the volume's own
	// View names the snapshot that Root is, or in which Root lies. Nobody writes to the
	// snapshot, and it stands until the Run has ended. Images in views share the content
	// of common blocks (see Pool.BeginView). "" says that Root is read in place.
	View string
	// Taken is a time not after the making of the snapshot began; zero when not known. The
	// nearer it is, the fewer files that changed around it does the next backup read again.
	Taken time.Time
	// Base is an earlier view of the volume, where one stands: what
	// did not change since is not read. Nil is allowed.
	Base *known.Base
	// Exclude are patterns (github.com/bmatcuk/doublestar/v4) of paths in the volume
	// that the backup leaves out, folders with all that they hold. A pattern without a
	// slash matches the last element of a path. An image has no paths and ignores them.
	Exclude []string
	// ExcludeCaches leaves out what folders with a CACHEDIR.TAG hold, but for the tag.
	ExcludeCaches bool
	// AcceptLosses are patterns of the same form. Losses at matching paths are recorded, and do not
	// make the backup incomplete.
	AcceptLosses []string
	// AllowEmpty backs up a volume that is empty, or lies on another file system, although the last
	// backup had content of it and found it elsewhere.
	AllowEmpty bool
	// Mounted identifies the mount of the live file system that Root is a
	// snapshot of, where Root lies on a mount of its own (see evidence.MountOf):
	// asked before and after the snapshot was made, and the same. "" where Root
	// lies on the same file system as the volume, or that is not known.
	Mounted string
	// Quiet says that nobody writes to what Root shows while the Run reads it: it is a snapshot, or
	// the instance stands still. An entry that vanishes meanwhile is then a loss.
	Quiet bool
	// Nested has the snapshots of the btrfs subvolumes that are nested in the tree, by
	// their paths below Root, in whose places a snapshot has nothing (see snapshot.Nested).
	Nested map[string]string

	readAll bool // the catalogue of the source turned out to be wrong
}

func (s *Source) volume() known.Volume {
	return known.Volume{
		Name: s.Volume, Root: s.Root, Taken: s.Taken, Base: s.Base, AllowEmpty: s.AllowEmpty, Mounted: s.Mounted, Quiet: s.Quiet, ReadAll: s.readAll,
	}
}

// volumesOf returns the sources as a History looks at them.
func volumesOf(sources []Source) []known.Volume {
	volumes := make([]known.Volume, len(sources))
	for i := range sources {
		volumes[i] = sources[i].volume()
	}
	return volumes
}

// Options say which volumes are backed up, where to, and with which means.
type Options struct {
	Vault    *vault.Vault
	Instance string
	Host     string // of the agent; goes into the manifest
	// Identity tells the host from all others (internal/hostid), by which the
	// sessions of its earlier boots are removed. The zero value leaves them.
	Identity hostid.Identity
	Agent    string // version; goes into the manifest
	Sources  []Source
	Now      func() time.Time // nil: time.Now
	// Clock is how far the wall clock is ahead of the time since the
	// boot; nil is evidence.ClockOffset.
	Clock func() time.Duration

	// Precopy stores the content of the sources and remembers it in the catalogues,
	// but makes no backup: a later Run reads only content that changed since.
	// Without CatalogueDir a later Run reads everything, and sends only new content.
	Precopy bool
	// Job is the job that this Run belongs to, when there are several:
	// rounds of pre-copy, and the backup. Nil is one of its own.
	Job *Job
	// Resume names packs that earlier tries of this job meant to send, as PackIntent was told.
	Resume []string
	// PackIntent is called before a pack is sent, from any goroutine, with its id
	// and size as one text, and must make that durable. Nil when nobody resumes.
	PackIntent func(pack string) error
	// Progress is called at most five times a second and once at the
	// end, one call at a time. Nil is allowed.
	Progress func(Progress)
	// Sent is called when the store has all content, from any goroutine. After that only
	// small requests follow, for which the backup needs neither workers nor memory for
	// packs. Sent comes once more when the backup has to be made again. Nil is allowed.
	Sent func()
	// Begin is called before the sources are read, and again each
	// time the backup has to be made again. Nil is allowed.
	Begin func()
	// Drifted is told of a volume in which something had changed without a sign; it is
	// read whole then. Result lists them too, of a Run that succeeds. Nil is allowed.
	Drifted func(*DriftError)
	// Damaged is told, once each, about packs of the vault that are missing, or
	// can't be read, or do not open. That is an alarm, since earlier backups may
	// need these packs. This backup stores the needed content of them again.
	// Result lists these packs too when the Run succeeds. Nil is allowed.
	Damaged func(vault.LostPack)
	// Accept is asked when everything was read and the store has all content,
	// before the manifest and the catalogues rest on it. It gets the counts
	// and the losses so far. Its error ends the Run, and there is no backup.
	// It is asked again when the backup has to be made again. Nil accepts.
	Accept func(ctx context.Context, so *Result) error
	// Origin says from which backup the content of the volumes came, the parent of this backup.
	// Nil: the caller does not know, and the last backup of the instance is the parent.
	Origin *Origin
	// Intent is told the id of the backup right before its manifest is written, so that the caller
	// can name it in the Origin of a later Run should this one end without an answer. Its error
	// ends the Run. It is called again where the backup has to be made again. Nil is allowed.
	Intent func(id string) error
	// Warn is told of each thing that could not be kept exact, one call at a time; Result lists the
	// first thousand too. Nil is allowed.
	Warn func(tree.Warning)

	// CatalogueDir is a folder of this host with a catalogue of each volume. From it the
	// next backup knows the files that did not change and need not be read. The folder may
	// be deleted at any time: the store has the same facts in the instance's last backup.
	// "" keeps no catalogues, neither here nor in the store, and reads everything.
	CatalogueDir string
	// IndexDir is a folder of this host with a copy of the vault's index, so
	// that the next backup fetches only new parts of the index. "" fetches
	// the whole index each time. The folder may be deleted at any time.
	IndexDir string
	// Sample is how many of the chunks that were stored are read back at
	// the end; 0 is 16, negative none. Of packs that the vault had before,
	// half as many are read back; as many where nothing was stored.
	Sample int
	// Pool is the host that this backup shares with others; nil is one
	// of its own, with Budget and Workers.
	Pool *Pool
	// Budget and Workers are as in PoolOptions. They are not looked at where Pool is set.
	Budget  int64
	Workers int
	// MinLevel and MaxLevel bound the compression, which gets stronger while the
	// backup waits for the store. 0 is seal.Fastest and seal.Default, so that S2
	// is used only on request. A MaxLevel below MinLevel counts as MinLevel.
	MinLevel, MaxLevel seal.Level
}

// Origin is a host's knowledge of the backup from which the content of an instance's volumes came.
type Origin struct {
	// Backup is the last backup that was made of the volumes, or restored to them; "" where none is
	// known.
	Backup string
	// Tried are ids that Intent was told since, in order, by Runs
	// that ended without a result: any of those backups may exist.
	Tried []string
}

// Progress says how far a backup is. All counts only grow.
type Progress struct {
	Entries uint64 `json:"entries"`
	Files   uint64 `json:"files"`
	// content of files that is dealt with: read, or known not to have changed
	Bytes        uint64 `json:"bytes"`
	BytesRead    uint64 `json:"bytes_read"`    // of it
	BytesNew     uint64 `json:"bytes_new"`     // of those, not known to the vault before
	BytesSent    uint64 `json:"bytes_sent"`    // packs that the store confirmed
	WalkFinished bool   `json:"walk_finished"` // only sending and confirming are left
}

// Result describes a finished backup.
type Result struct {
	BackupID string `json:"backup_id"`
	Seq      uint64 `json:"sequence"`
	// the backup from which the content of the volumes came; "" where none is known
	Parent         string `json:"parent,omitempty"`
	Object         string `json:"object"` // the manifest's key in the store
	ManifestSHA256 string `json:"manifest_sha256"`
	Entries        uint64 `json:"entries"`
	Files          uint64 `json:"files"`
	Dirs           uint64 `json:"dirs"`
	// entries that patterns left out, without the entries below them
	Excluded uint64 `json:"excluded"`
	// files that were not read, since they are as they were
	Unchanged         uint64 `json:"unchanged"`
	Bytes             uint64 `json:"bytes"`      // content of the backup, holes not counted
	BytesRead         uint64 `json:"bytes_read"` // of it
	BytesNew          uint64 `json:"bytes_new"`
	BytesDeduplicated uint64 `json:"bytes_deduplicated"` // read, but known to the vault
	BytesSent         uint64 `json:"bytes_sent"`
	Packs             int    `json:"packs"`
	// Sampled is how many chunks were read back and compared, by this Run and those
	// of its Job before it, and SampledReused how many of those the vault had before.
	Sampled       int       `json:"sampled"`
	SampledReused int       `json:"sampled_reused"`
	Created       time.Time `json:"created"`
	// when the manifest had been read back and the sample compared
	Verified     time.Time      `json:"verified"`
	Warnings     []tree.Warning `json:"warnings"`
	WarningCount int            `json:"warning_count"`
	// Lost counts the losses that nobody accepted: content that the backup does
	// not hold in its true form. An instance must not be powered down on a backup
	// with any such loss. LostAccepted counts the losses that Source.AcceptLosses
	// allows, and Losses names both kinds, the first vault.MaxLosses.
	Lost         int          `json:"lost"`
	LostAccepted int          `json:"lost_accepted"`
	Losses       []vault.Loss `json:"losses,omitempty"`
	// Fork names the other newest backups of the instance: the newest backups from which this one
	// does not descend. While there are any, no restore chooses among them and this one by itself.
	Fork []vault.BackupRef `json:"fork,omitempty"`
	// Compressed is the content that was new by the level of compression that it met, bytes before.
	Compressed map[string]uint64 `json:"compressed"`
	// CompressedWhy tells in words how the levels were chosen.
	CompressedWhy string `json:"compressed_why"`
	// Catalogues has, by volume, the id of the catalogue that was kept of the backed-up
	// view, so that the view can be the Base of the next backup. For an image the id is
	// the backup's. A volume whose catalogue could not be kept is not in the map.
	Catalogues map[string]string `json:"catalogues"`
	// Contents has, by volume, the content of the backup, as vault.Volume.Content counts it.
	Contents map[string]uint64 `json:"-"`
	// Checked is how many pieces of content that was known not to have changed
	// were read and compared all the same, and Drifts says what of it had changed:
	// an alarm, see DriftError. This backup has read all of those volumes.
	Checked uint64        `json:"checked"`
	Drifts  []*DriftError `json:"drifts,omitempty"`
	// Damaged lists the packs that this backup found that they can't be used, see Options.Damaged.
	Damaged []vault.LostPack `json:"damaged,omitempty"`
	// Stages is the wall time of the parts that follow each other: "pipeline", "finish", "verify".
	Stages map[string]time.Duration `json:"stages"`
}
