package model

import (
	"strings"
	"time"
)

// Place is where a volume belongs on this host, and where its tree is built before it gets there,
// by one rename. internal/restore has a Place of its own, with the paths and identities alone: the
// engine knows neither the names of volumes nor the content that a job has decided about.
type Place struct {
	Volume string `json:"volume"` // its name
	Target string `json:"target"`
	Stage  string `json:"stage"` // beside Target
	// tells the folder that held both when the restore was planned; opaque here
	Holder string `json:"holder,omitempty"`
	// tells the restored tree from others; empty until it is complete
	Tree string `json:"tree,omitempty"`
	// Old tells the tree that the restored one has replaced; empty until that is known,
	// and where nothing was. It is kept at Aside, or removed where that is empty.
	Old   string `json:"old,omitempty"`
	Aside string `json:"aside,omitempty"`
	// Empty says that Old was an empty folder, and is removed only while it still is.
	Empty bool `json:"empty,omitempty"`
	// Was are the figures of the content at Target when the restore was decided, where
	// a backup holds that for certain; else zero.
	Was Count `json:"was,omitzero"`
}

// Restore is the record of a restore's work.
type Restore struct {
	Backup  string    `json:"backup_id,omitempty"`
	Seq     uint64    `json:"sequence,omitempty"` // of the backup
	Created time.Time `json:"created,omitzero"`   // of the backup
	Vault   string    `json:"vault,omitempty"`    // its id
	Places  []Place   `json:"places,omitempty"`
	Placed  bool      `json:"placed,omitempty"` // all are in place, and stay there
	Ready   bool      `json:"ready,omitempty"`  // nothing had to be restored
	// Certain and Warning are as in job.Decision.
	Certain  bool           `json:"certain,omitempty"`
	Warning  string         `json:"warning,omitempty"`
	Result   *RestoreResult `json:"result,omitempty"`
	Replaced *Replaced      `json:"replaced,omitempty"` // once all are in place, and something was there
	// Out are the old volumes that are removed before the restore, for lack of room, and
	// Condemned says that all are out of their places and that nothing brings them back.
	// Known is the journal's knowledge of the content that a put-back brings back; nil for others.
	Known     *Content `json:"known,omitempty"`
	Out       []Place  `json:"out,omitempty"`
	Condemned bool     `json:"condemned,omitempty"`
}

// RestoreResult describes a finished restore, by the engine.
type RestoreResult struct {
	Files        uint64 `json:"files"`
	Bytes        uint64 `json:"bytes"` // of content written
	BytesFetched uint64 `json:"bytes_fetched"`
	Warnings     int    `json:"warnings"` // differences from the backed-up state
	// Parent is the backup from which the restored one came; "" where it has none.
	Parent string `json:"parent,omitempty"`
	// Catalogues has, by volume, the id of the engine's
	// catalogue of the tree that it made; see Base.
	Catalogues map[string]string `json:"catalogues,omitempty"`
	// Roots identifies, by volume, the trees that the engine made; all of them bear their mark
	// unless Root.Marked says otherwise.
	Roots map[string]Root `json:"roots,omitempty"`
}

// Count has the figures of a tree. Its fields are the fields of restore.Measure, which a conversion
// turns into a Count.
type Count struct {
	Files   uint64    `json:"files"`
	Bytes   uint64    `json:"bytes"`
	Entries uint64    `json:"entries"` // 0: an empty folder
	Newest  time.Time `json:"newest_mtime,omitzero"`
	Changed time.Time `json:"changed,omitzero"`
	Whole   bool      `json:"whole"` // else the figures are the least there is
}

// Same tells for certain that a tree did not change between two counts.
func (c Count) Same(other Count) bool {
	return c.Whole && other.Whole && c.Files == other.Files && c.Bytes == other.Bytes && c.Entries == other.Entries &&
		c.Newest.Equal(other.Newest) && c.Changed.Equal(other.Changed)
}

// Replaced describes the content that a restore has taken out of the places of all volumes of an
// instance.
type Replaced struct {
	Files  uint64    `json:"files"`
	Bytes  uint64    `json:"bytes"`
	Newest time.Time `json:"newest_mtime,omitzero"` // UTC
	// Backup is the backup from which this host knew the content to come; "": the host knew of
	// none.
	Backup string `json:"known_backup,omitempty"`
	// AtLeast says that the count stopped at a bound.
	AtLeast bool `json:"at_least,omitempty"`
	// Kept says that the content is kept aside; else a backup holds it for certain, or it was
	// empty.
	Kept bool `json:"kept"`
}

// Add counts the content of one more tree.
func (r *Replaced) Add(c Count) {
	r.Files, r.Bytes, r.AtLeast = r.Files+c.Files, r.Bytes+c.Bytes, r.AtLeast || !c.Whole
	if c.Newest.After(r.Newest) {
		r.Newest = c.Newest
	}
}

// AsideVolume is one volume of the kept content. Its Place has Old and Aside set.
type AsideVolume struct {
	Place Place `json:"place"`
	Count Count `json:"count"`
}

// Aside is the journal's record of the content that one job has replaced, and that is kept.
type Aside struct {
	Instance string        `json:"instance"`
	Tenant   string        `json:"tenant"`
	Job      string        `json:"job"`      // that has replaced it
	Since    time.Time     `json:"since"`    // UTC, for people
	SinceUp  time.Duration `json:"since_up"` // by the journal's clock
	// Known is the backup from which this host knew the content to come; zero: the host knew of
	// none.
	Known    Content       `json:"known"`
	By       string        `json:"by,omitempty"` // the backup that took its place
	Replaced Replaced      `json:"replaced"`
	Volumes  []AsideVolume `json:"volumes"`
	// Missing are the volumes of which nothing was there.
	Missing []string `json:"missing,omitempty"`
	// Removing says that it is being removed, which nothing stops any more.
	Removing bool `json:"removing,omitempty"`
	// Adopted is when the agent found the trees, of which the journal did not know; UTC, zero for
	// others. The time for which the content is kept begins then.
	Adopted time.Time `json:"adopted,omitzero"`
	// Partial says that a removal of the trees had begun, of which the journal does not know, so
	// that the content may not be whole.
	Partial bool `json:"partial,omitempty"`
	// Error is of the last try to remove it, or to rename it.
	Error string `json:"error,omitempty"`
}

// Key tells it from other records.
func (s *Aside) Key() string { return s.Instance + "\x00" + s.Job }

// KeptNote is the note on a tree that a job takes, or has taken, out of the place of a volume. The
// note goes where the tree goes. A tree that went back to its place keeps the note, which says
// nothing there.
type KeptNote struct {
	Instance string    `json:"instance"`
	Tenant   string    `json:"tenant"`
	Job      string    `json:"job"`
	Volume   string    `json:"volume"`
	Target   string    `json:"target"`           // the place
	Since    time.Time `json:"since"`            // UTC, for people
	Backup   string    `json:"known_backup"`     // the backup from which the host knew the content to come
	Seq      uint64    `json:"sequence"`         // of Backup
	Created  time.Time `json:"created,omitzero"` // of Backup
	Vault    string    `json:"vault,omitempty"`  // of Backup
	By       string    `json:"by,omitempty"`     // the backup that took its place
	// Removing says that the removal has begun, so that the tree may not be whole. The note has the
	// value false too, since a full disk takes a note that is no longer than the note before it.
	Removing bool `json:"removing"`
}

// FoundKept is a tree that was found beside the place of a volume.
type FoundKept struct {
	Path string
	// Place has Volume, Target, Stage, Aside, Holder and Old set; zero without a note.
	Place Place
	// Note is the note on the tree; nil where there is none, or where the name of the tree is no
	// name that an agent gives to the noted volume.
	Note *KeptNote
}

// TakesOut tells whether a tree may be of the job, which is unfinished.
func (j *Job) TakesOut(f FoundKept) bool {
	if strings.Contains(f.Path, j.ID) || j.PutBack != "" && strings.Contains(f.Path, j.PutBack) {
		return true
	}
	return f.Note != nil && (f.Note.Job == j.ID || f.Note.Job == j.PutBack)
}
