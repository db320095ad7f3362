// Package backup is the way from volumes to a backup in a vault: walk, read, cut, name, skip what is
// known, compress, seal, upload, and at the end the manifest that makes it exist.
//
// The agent's jobs and the CLI call Run, which starts goroutines and waits for all of them. Memory is
// bounded by Options.Budget, however large a volume is. A crash leaves packs that no manifest names,
// which a later Run with Options.Resume uses.
package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/evidence"
	"holdfast/internal/hostid"
	"holdfast/internal/pattern"
	"holdfast/internal/pulse"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Source is one volume to back up.
type Source struct {
	Volume string // name
	Root   string // path of the tree or image to read: a snapshot's, or the volume's own
	// View names the snapshot that Root is or lies in, to which nobody writes and which stands until the Run has ended. Images in
	// views share what was read of blocks that they share (see Host.BeginView). "" says that Root is read in place.
	View string
	// Taken is a time not after the making of the snapshot began; zero when not known. The nearer it is, the fewer
	// files that changed around it does the next backup read again.
	Taken time.Time
	// Base is an earlier view of the volume, where one stands: what did not change since is not read. Nil is allowed.
	Base *Base
	// Exclude are patterns (github.com/bmatcuk/doublestar/v4) of paths in the volume that the backup
	// leaves out, folders with all that they hold. A pattern without a slash matches the last element
	// of a path. An image has no paths and ignores them.
	Exclude []string
	// ExcludeCaches leaves out what folders with a CACHEDIR.TAG hold, but for the tag.
	ExcludeCaches bool
	// AcceptLosses are patterns of the same form. Losses at matching paths are recorded, and do not
	// make the backup incomplete.
	AcceptLosses []string
	// AllowEmpty backs up a volume that is empty, or lies on another file system, although the last
	// backup had content of it and found it elsewhere.
	AllowEmpty bool
	// Mounted identifies the mount of the live file system that Root is a snapshot of, where Root lies
	// on a mount of its own (see evidence.MountOf): asked before and after the snapshot was made, and the
	// same. "" where Root lies on the same file system as the volume, or that is not known.
	Mounted string
	// Quiet says that nobody writes to what Root shows while the Run reads it: it is a snapshot, or
	// the instance stands still. An entry that vanishes meanwhile is then a loss.
	Quiet bool
	// Nested has the snapshots of the btrfs subvolumes that are nested in the tree, by their paths below Root, in whose places a snapshot has
	// nothing (see snapshot.Nested).
	Nested map[string]string

	readAll bool // what was known of it turned out to be wrong
}

// Options say what is backed up, and with what means.
type Options struct {
	Vault    *vault.Vault
	Instance string
	Host     string // of the agent; goes into the manifest
	// Identity tells the host from all others (internal/hostid), by which the sessions of its earlier boots are removed. The zero
	// value leaves them.
	Identity hostid.Identity
	Agent    string // version; goes into the manifest
	Sources  []Source
	Now      func() time.Time // nil: time.Now
	// Clock is how far the wall clock is ahead of the time since the boot; nil is evidence.ClockOffset.
	Clock func() time.Duration

	// Precopy stores what the sources have and remembers it in the catalogues, but makes no backup: a later Run
	// reads only what changed since. Without CatalogueDir that is still the content that is not sent again.
	Precopy bool
	// Job is the job that this Run belongs to, when there are several: rounds of pre-copy, and the backup. Nil is one of its own.
	Job *Job
	// Resume names packs that earlier tries of this job meant to send, as PackIntent was told.
	Resume []string
	// PackIntent is called before a pack is sent, from any goroutine, with its id and size as one text, and must make
	// that durable. Nil when nobody resumes.
	PackIntent func(pack string) error
	// Progress is called at most five times a second and once at the end, one call at a time. Nil is allowed.
	Progress func(Progress)
	// Sent is called when the store has all content, from any goroutine: what is left is small requests, for which the backup needs neither
	// workers nor memory for packs. It comes once more when the backup has to be made again. Nil is allowed.
	Sent func()
	// Begin is called before the sources are read, and again each time the backup has to be made again. Nil is allowed.
	Begin func()
	// Drifted is told of a volume in which something had changed without a sign; it is read whole then. Result lists them too, of a Run that succeeds.
	// Nil is allowed.
	Drifted func(*DriftError)
	// Damaged is told, once each, of packs of the vault that are missing, or can't be read, or do not open: an alarm, since earlier
	// backups may need them. This one stores anew what it needs of them. Result lists them too, of a Run that succeeds. Nil is allowed.
	Damaged func(vault.LostPack)
	// Accept is asked when all has been read and the store has all content, before anything comes to rest on that: the manifest, and the
	// catalogues. It gets what was counted so far, and what was lost. Its error ends the Run, and there is no backup. It is asked again when the
	// backup has to be made again. Nil accepts.
	Accept func(ctx context.Context, so *Result) error
	// Warn is told of each thing that could not be kept exact, one call at a time; Result lists the
	// first thousand too. Nil is allowed.
	Warn func(tree.Warning)

	// CatalogueDir is a folder of this host's where a catalogue of each volume is kept, by which the next
	// backup knows the files that did not change and need not be read. What is in it may be deleted at any
	// time: the store has the same in the instance's last backup. "" keeps none, here or there, and reads all.
	CatalogueDir string
	// IndexDir is a folder of this host's where the vault's index is kept, so that the next backup fetches what is new
	// only. "" fetches all of it each time. What is in it may be deleted at any time.
	IndexDir string
	// Sample is how many of the chunks that were stored are read back at the end; 0 is 16, negative none. Of packs that the vault
	// had before, half as many are read back; as many where nothing was stored.
	Sample int
	// On is the host that this backup shares with others; nil is one of its own, with Budget and Workers.
	On *Host
	// Budget and Workers are as in HostOptions. They are not looked at where On is set.
	Budget  int64
	Workers int
	// MinLevel and MaxLevel bound the compression, which is stronger while the store is what the backup waits for. 0 is
	// seal.Fastest and seal.Default; a MaxLevel below MinLevel is MinLevel.
	MinLevel, MaxLevel seal.Level
}

// Progress says how far a backup is. All counts only grow.
type Progress struct {
	Entries      uint64 `json:"entries"`
	Files        uint64 `json:"files"`
	Bytes        uint64 `json:"bytes"`         // content of files that is dealt with: read, or known not to have changed
	BytesRead    uint64 `json:"bytes_read"`    // of it
	BytesNew     uint64 `json:"bytes_new"`     // of those, not known to the vault before
	BytesSent    uint64 `json:"bytes_sent"`    // packs that the store confirmed
	WalkFinished bool   `json:"walk_finished"` // what is left is to send and to confirm
}

// Result is what a finished backup is.
type Result struct {
	BackupID          string `json:"backup_id"`
	Seq               uint64 `json:"sequence"`
	Parent            string `json:"parent,omitempty"` // the backup that was the newest when this one began
	Object            string `json:"object"`           // the manifest's key in the store
	ManifestSHA256    string `json:"manifest_sha256"`
	Entries           uint64 `json:"entries"`
	Files             uint64 `json:"files"`
	Dirs              uint64 `json:"dirs"`
	Excluded          uint64 `json:"excluded"`   // entries that patterns left out, not counting what lies below them
	Unchanged         uint64 `json:"unchanged"`  // files that were not read, since they are as they were
	Bytes             uint64 `json:"bytes"`      // content of the backup, holes not counted
	BytesRead         uint64 `json:"bytes_read"` // of it
	BytesNew          uint64 `json:"bytes_new"`
	BytesDeduplicated uint64 `json:"bytes_deduplicated"` // read, but known to the vault
	BytesSent         uint64 `json:"bytes_sent"`
	Packs             int    `json:"packs"`
	// Sampled is how many chunks were read back and compared, by this Run and those of its Job before it, and SampledReused
	// how many of those the vault had before.
	Sampled       int            `json:"sampled"`
	SampledReused int            `json:"sampled_reused"`
	Created       time.Time      `json:"created"`
	Verified      time.Time      `json:"verified"` // when the manifest had been read back and the sample compared
	Warnings      []tree.Warning `json:"warnings"`
	WarningCount  int            `json:"warning_count"`
	// Lost counts the losses that nobody accepted: content that the backup does not hold as it was. An
	// instance must not be powered down on a backup with any. LostAccepted counts those that
	// Source.AcceptLosses allows, and Losses names both, the first vault.MaxLosses.
	Lost         int          `json:"lost"`
	LostAccepted int          `json:"lost_accepted"`
	Losses       []vault.Loss `json:"losses,omitempty"`
	// Fork names other backups of the instance that another host made at the same time, on top of the
	// same parent. While they and this one are the newest, no restore chooses among them by itself.
	Fork []vault.BackupRef `json:"fork,omitempty"`
	// Compressed is the content that was new by the level of compression that it met, bytes before.
	Compressed map[string]uint64 `json:"compressed"`
	// Catalogues has, by volume, the id of the catalogue that was kept of the view that was backed up, so that the view can
	// be the Base of the next backup; of an image, that of the backup itself. A volume of which none could be kept is not in it.
	Catalogues map[string]string `json:"catalogues"`
	// Checked is how many pieces of content that was known not to have changed were read and compared all the same, and
	// Drifts says what of it had changed: an alarm, see DriftError. This backup has read all of those volumes.
	Checked uint64        `json:"checked"`
	Drifts  []*DriftError `json:"drifts,omitempty"`
	// Damaged lists the packs that this backup found that they can't be used, see Options.Damaged.
	Damaged []vault.LostPack `json:"damaged,omitempty"`
	// Stages is the wall time of the parts that follow each other: "pipeline", "finish", "verify".
	Stages map[string]time.Duration `json:"stages"`
}

const (
	defaultSample = 16
	pulseEvery    = 200 * time.Millisecond // of Progress
)

// run is one call of Run.
type run struct {
	o        Options
	w        *vault.Writer
	packs    *vault.NamedPacks
	job      *Job
	first    bool // nothing was tried before
	session  *session
	turn     *turn
	earlier  func() ([]vault.BackupRef, error) // the instance's backups when the run began
	newest   func() (*vault.Manifest, error)   // of the last of them; vault.ErrNoBackup
	readable func() (*vault.Manifest, error)   // of the last of them whose manifest opens; vault.ErrNoBackup
	lost     []vault.PackID                    // packs that can't be used
	without  []vault.PackID                    // those, and what is condemned
	gone     map[vault.PackID]bool             // the same
	cats     []*catalogue
	sending  *sending
	counts   struct{ entries, files, unchanged, known, read, fresh, sent, checked, excluded atomic.Uint64 }
	recorded struct{ entries, files, dirs atomic.Uint64 } // what the recipes have; counts has what the walk saw
	checks   sampler
	images   []string // volumes that are
	walked   atomic.Bool

	governor *governor
	started  time.Time     // of the process's clock: what waiting is compared with
	clock    time.Duration // Options.Clock when the run began

	warnings tree.Collector
	losses   losses
	res      Result
}

// Run makes a backup. When it returns nil, every pack and recipe was confirmed by the store, a sample
// of the new chunks was opened, and then the manifest was written and read back (Invariant
// manifest-last). After an error no backup of this run exists, unless the outcome of writing or reading
// back the manifest is what is not known.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := vault.CheckInstance(o.Instance); err != nil {
		return nil, err
	}
	if len(o.Sources) == 0 {
		return nil, fmt.Errorf("back up %s: it has no volume", o.Instance)
	}
	seen := map[string]bool{}
	for _, s := range o.Sources {
		// A restore makes a folder of each name.
		if vault.CheckInstance(s.Volume) != nil || seen[s.Volume] {
			return nil, fmt.Errorf("back up %s: volume name %q is not allowed, or comes twice", o.Instance, s.Volume)
		}
		seen[s.Volume] = true
		for _, patterns := range [][]string{s.Exclude, s.AcceptLosses} {
			if _, err := pattern.Compile(patterns); err != nil {
				return nil, fmt.Errorf("back up %s: volume %s: %w", o.Instance, s.Volume, err)
			}
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Clock == nil {
		o.Clock = evidence.ClockOffset
	}
	if o.MinLevel == 0 {
		o.MinLevel = seal.Fastest
	}
	if o.MaxLevel == 0 {
		o.MaxLevel = seal.Default
	}
	o.MaxLevel = max(o.MinLevel, o.MaxLevel)
	if o.On == nil {
		o.On = NewHost(HostOptions{Budget: o.Budget, Workers: o.Workers, MaxLevel: o.MaxLevel, Pack: o.Vault.Params().Pack})
	}
	if o.Sample == 0 {
		o.Sample = defaultSample
	}
	res, err := untilWhole(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", o.Instance, err)
	}
	return res, nil
}

// untilWhole makes a backup, and makes it again when its session was gone, which is tried once, or when it turned out that
// somebody had removed packs from the bucket. What they held has to be read and stored again; the old backups that
// rest on them are lost, which verify tells. Where other packs with the same content are gone too, that shows only then; each try
// leaves out more packs, and what it stores itself is there.
func untilWhole(ctx context.Context, o Options) (*Result, error) {
	job := o.Job
	if job == nil {
		job = o.On.BeginJob()
	}
	var lost lostPacks
	var notes []string // of what made it begin again
	var drifts []*DriftError
	again := false
	for try := 0; ; try++ {
		if o.Begin != nil {
			o.Begin()
		}
		res, err := once(ctx, o, job, lost.ids(), try == 0)
		if missing, ok := errors.AsType[*vault.MissingPacksError](err); ok {
			lost.add(o, missing.Packs)
			if _, own := errors.AsType[rejected](err); own {
				lost.rejected++
			}
			if lost.rejected < 2 {
				continue
			}
			lost.forget(ctx, o)
		}
		if errors.Is(err, vault.ErrSessionGone) && !again {
			again = true
			continue
		}
		if drift, ok := errors.AsType[*DriftError](err); ok {
			// Happens once a volume: then nothing is known of it.
			o.On.drifted.add(distrustKey(o.Vault, o.Instance, drift.Volume, drift.By))
			o.Sources = slices.Clone(o.Sources)
			for i := range o.Sources {
				o.Sources[i].readAll = o.Sources[i].readAll || o.Sources[i].Volume == drift.Volume
			}
			drifts = append(drifts, drift)
			if o.Drifted != nil {
				o.Drifted(drift)
			}
			notes = append(notes, drift.Error()+"; the volume is read whole. Verify this instance's earlier backups")
			continue
		}
		if errors.Is(err, errShared) { // happens once: nothing is shared from then on
			notes = append(notes, err.Error()+"; each image is read whole until this program is started again. Verify this instance's earlier backups")
			continue
		}
		if err == nil {
			res.Drifts, res.Damaged = drifts, lost.damaged()
			notes = append(notes, lost.notes(o.Vault.Info().ID)...)
		}
		if o.Job == nil {
			if err := job.End(ctx); err != nil {
				notes = append(notes, err.Error()+"; the next backup of this host tries again")
			}
		}
		for _, what := range notes {
			w := tree.Warning{NoPlace: true, What: what}
			if err == nil {
				res.Warnings, res.WarningCount = append(res.Warnings, w), res.WarningCount+1
			}
			if o.Warn != nil {
				o.Warn(w)
			}
		}
		return res, err
	}
}

// once makes a backup that does not use the packs lost; first says that nothing was tried before.
func once(ctx context.Context, o Options, job *Job, lost []vault.PackID, first bool) (*Result, error) {
	r := &run{
		o: o, job: job, lost: lost, first: first,
		governor: newGovernor(o.MinLevel, o.MaxLevel), started: time.Now(), sending: newSending(o.Precopy),
	}
	var err error
	if r.turn, err = o.On.admit(ctx, first); err != nil {
		return nil, err
	}
	defer r.turn.leave()
	r.warnings.Tell = o.Warn
	r.res.Stages, r.res.Catalogues = map[string]time.Duration{}, map[string]string{}
	r.clock = o.Clock()
	r.res.Created = o.Now().UTC()
	stop := r.tellProgress()
	err = r.underSession(ctx)
	r.sending.end()
	stop()
	for _, c := range r.cats {
		c.close()
	}
	if err != nil {
		return nil, err
	}
	return r.result(), nil
}

// underSession does the work in the session of the job, which keeps what the vault has from being collected.
func (r *run) underSession(ctx context.Context) error {
	s, err := r.job.under(ctx, r.o.Vault, vault.SessionOptions{
		Host: r.o.Host, Identity: r.o.Identity, Instance: r.o.Instance,
		Warn: func(err error) {
			r.warnings.Warn(tree.Warning{NoPlace: true, What: err.Error() + "; garbage stays in the vault meanwhile"})
		},
		Settled: func(so vault.Settled) { r.warnings.Warn(tree.Warning{NoPlace: true, What: so.String()}) },
	})
	if err != nil {
		return err
	}
	r.session = s
	r.without = slices.Concat(s.Condemned(), r.lost)
	r.gone = r.withoutSet()
	err = r.all(ctx)
	if errors.Is(err, vault.ErrSessionGone) {
		_ = r.job.lost(ctx) // the session is gone already
	}
	return err
}

func (r *run) all(ctx context.Context) (err error) {
	start := time.Now() // of the process's clock, which does not jump: the stages are durations
	var beside contain.Group
	asking, end := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			end() // an instance may stand still meanwhile
		}
		if panicked := beside.Wait(); err == nil {
			err = panicked
		}
		end()
	}()
	r.ask(asking)
	beside.Go(func() error {
		if r.asksForNewest() {
			_, _ = r.newest() // whoever needs the manifest calls again and gets the same error
		} else if !r.o.Precopy {
			_, _ = r.earlier() // likewise
		}
		return nil
	})
	w, err := r.o.Vault.NewWriter(ctx, vault.WriterOptions{
		Buffers: r.o.On.buffers, Background: r.o.Precopy, Intent: r.o.PackIntent, Resume: r.o.Resume,
		Without: r.session.Condemned(), Lost: r.lost, IndexDir: r.o.IndexDir, Looks: r.session.looks,
		Warn: func(err error) {
			r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("index of the vault: %v; what it does not find is stored anew", err)})
		},
		Confirmed: r.confirmed,
		Sent: func(id vault.PackID, n int64) {
			r.counts.sent.Add(uint64(n))
			r.sending.sent(id)
		},
	})
	if err != nil {
		return err
	}
	r.w, r.packs = w, w.NamePacks(ctx, r.sending.pending)
	defer r.packs.Stop()
	var volumes []vault.Volume
	if err := r.mounted(ctx); err != nil {
		_ = w.Abort(err) // nothing was sent
		return err
	}
	for _, s := range r.o.Sources {
		vol, err := r.volume(ctx, s)
		if err != nil {
			err = fmt.Errorf("volume %s: %w", s.Volume, err)
			// When ctx ended while uploads waited for the store, they say what they waited for.
			if serr := w.Abort(err); serr != nil && ctx.Err() != nil {
				err = serr
			}
			return err
		}
		volumes = append(volumes, vol)
	}
	r.walked.Store(true)
	r.stage("pipeline", &start)

	var lost []vault.LostPack
	sampleErr := errors.New("the look at packs of earlier backups did not end") // stays where it panics
	sampled := make(chan struct{})
	beside.Go(func() error {
		defer close(sampled)
		lost, sampleErr = r.sampleReused(asking)
		return nil
	})
	if _, err = w.Finish(ctx); err != nil {
		return err
	}
	if err := r.sending.wait(ctx); err != nil {
		return err
	}
	r.stage("finish", &start)
	// In a round too: a loss that shows at the end lets the instance stand still for two backups.
	refs, err := r.refs(ctx, func() ([]vault.LostPack, error) {
		<-sampled
		return lost, sampleErr
	})
	if err != nil {
		return err
	}
	if r.o.Accept != nil {
		if err := r.o.Accept(ctx, r.result()); err != nil {
			return err
		}
	}
	beside.Go(func() error { r.tidy(asking); return nil }) // the manifest rests on nothing of it, and it takes as long
	if !r.o.Precopy {
		if err := r.commit(ctx, volumes, refs); err != nil {
			return err
		}
	}
	for _, c := range r.cats {
		if id, ok := c.keep(); ok {
			r.res.Catalogues[c.volume] = id
		}
	}
	r.stage("verify", &start)
	return nil
}

// confirmed makes room for another backup, since what is left takes small requests and no memory of the host, and looks at the packs
// that were added: no backup comes to be whose packs do not open.
func (r *run) confirmed(ctx context.Context, added []vault.PackRef) error {
	if err := r.turn.finish(ctx); err != nil {
		return err
	}
	if r.o.Sent != nil {
		r.o.Sent()
	}
	return r.sampleNew(ctx, added)
}

// commit writes the manifest, after every pack was confirmed and looked at. refs are all packs of the backup.
func (r *run) commit(ctx context.Context, volumes []vault.Volume, refs []vault.PackRef) error {
	for _, v := range volumes {
		r.res.Bytes += v.Bytes
	}
	earlier, err := r.earlier()
	if err != nil {
		return err
	}
	seq, parent, err := r.o.Vault.NextSeq(r.o.Instance, earlier)
	if err != nil {
		return err
	}
	r.tellClock(earlier)
	named, lost, accepted := r.losses.sum()
	m := &vault.Manifest{
		Instance: r.o.Instance, ID: vault.NewBackupID(seq, r.res.Created, lost > 0), Host: r.o.Host, Agent: r.o.Agent,
		Created: r.res.Created, Finished: r.o.Now().UTC(), Volumes: volumes, Packs: refs,
		Bytes: r.res.Bytes, NewBytes: r.counts.sent.Load(), Seq: seq, Parent: parent,
		Lost: uint64(lost), LostAccepted: uint64(accepted), Losses: named,
	}
	if err := r.session.WriteManifest(ctx, m); err != nil {
		return err
	}
	r.res.Seq, r.res.Parent = seq, parent
	r.tellFork(ctx, earlier, m)
	r.res.BackupID, r.res.Object, r.res.ManifestSHA256 = m.ID, m.Object, m.Digest
	for _, name := range r.images {
		r.res.Catalogues[name] = m.ID
	}
	r.res.Packs = len(refs)
	r.res.Verified = r.o.Now().UTC()
	return nil
}

// tidy does what is due to the vault's index, unless another backup is at it.
func (r *run) tidy(ctx context.Context) {
	end, ok := r.o.On.sessions.tidying(r.o.Vault)
	if !ok && len(r.lost) == 0 {
		return
	}
	if ok {
		defer end()
	}
	if err := r.w.Tidy(ctx); err != nil { // the next one tries again
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("index of the vault is not tidied: %v", err)})
	}
}

// result sums up what was counted.
func (r *run) result() *Result {
	res := &r.res
	res.Warnings, res.WarningCount = r.warnings.Sum()
	res.Losses, res.Lost, res.LostAccepted = r.losses.sum()
	res.Entries, res.Files, res.Dirs = r.recorded.entries.Load(), r.recorded.files.Load(), r.recorded.dirs.Load()
	res.BytesRead, res.BytesNew, res.BytesSent = r.counts.read.Load(), r.counts.fresh.Load(), r.counts.sent.Load()
	res.Unchanged, res.Checked = r.counts.unchanged.Load(), r.counts.checked.Load()
	res.Excluded = r.counts.excluded.Load()
	res.Compressed = r.governor.byLevel()
	res.Sampled, res.SampledReused = r.job.sampledSoFar()
	res.BytesDeduplicated = res.BytesRead - res.BytesNew
	return res
}

func (r *run) stage(name string, since *time.Time) {
	now := time.Now()
	r.res.Stages[name] += now.Sub(*since)
	*since = now
}

// tellProgress calls Progress until the returned function is called, which makes the last call.
func (r *run) tellProgress() (stop func()) {
	if r.o.Progress == nil {
		return func() {}
	}
	tell := func() {
		r.o.Progress(Progress{
			Entries: r.counts.entries.Load(), Files: r.counts.files.Load(), BytesRead: r.counts.read.Load(),
			Bytes: r.counts.read.Load() + r.counts.known.Load(), BytesNew: r.counts.fresh.Load(), BytesSent: r.counts.sent.Load(), WalkFinished: r.walked.Load(),
		})
	}
	return pulse.Every(pulseEvery, tell)
}

// errEnded is the cause that ends the workers of a volume that is done.
var errEnded = errors.New("volume is done")
