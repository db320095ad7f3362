package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/observe"
	"holdfast/internal/backup"
	"holdfast/internal/contain"
	"holdfast/internal/evidence"
	"holdfast/internal/seal"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// counters count what backups find.
type counters interface {
	Drift()
	DamagedPack()
	Fork()
}

// backups runs the engine for jobs. It is the job.Backuper, for any goroutine.
type backups struct {
	log         *slog.Logger
	self        Self
	allowed     func() error // nil while the agent may act
	patience    *patience
	pool        *backup.Pool
	instances   *Instances
	volumes     *Volumes
	vaults      *Vaults
	looks       *Looks
	snapshots   *snapshotter
	counters    counters
	trouble     func(instance, job, doing string, err error)
	compression config.Compression
	// catalogues and index are folders, which may be deleted at any time.
	catalogues, index string

	mu sync.Mutex
	// jobs are the engine's, by the agent's id: jobs with a
	// finished round of pre-copy and without a backup yet.
	jobs map[string]*backup.Job
}

// sampleTime is how near a deadline is when the sample is left out:
// reading it back takes some round trips to the store.
const sampleTime = 30 * time.Second

// Look fails for a volume that is not mounted, and where the
// tenant's vault can't be opened: the instance is not touched then.
func (b *backups) Look(ctx context.Context, instance, tenant string) error {
	in, err := b.instances.known(instance)
	if err != nil {
		return err
	}
	if err := b.volumes.answers(ctx, in); err != nil {
		return err
	}
	if err := b.volumes.fit(ctx, in); err != nil {
		return err
	}
	if err := b.volumes.ofTenant(ctx, in, tenant); err != nil {
		return err
	}
	opened, err := b.vaults.confirmed(ctx, tenant)
	if err != nil {
		return fmt.Errorf("open vault: %w", err)
	}
	o := backup.Options{Vault: opened, Instance: instance, Host: b.self.Host, CatalogueDir: b.catalogues}
	for _, c := range in.cfg.Volumes {
		o.Sources = append(o.Sources, backup.Source{Volume: c.Name, Root: c.Path, AllowEmpty: c.AllowEmpty})
	}
	_, err = act(ctx, b.patience, in.volumes(), "looking what is mounted", forEver, EngineTime, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, backup.Look(ctx, o)
	})
	return err
}

// Backup runs the engine for a job. When ctx has ended it returns soon,
// also where the engine hangs on storage that does not answer: such a run
// has no effect any more. It journals no pack, and writes no manifest.
func (b *backups) Backup(ctx context.Context, r job.BackupRequest) (*model.Result, error) {
	if _, err := b.instances.known(r.Instance); err != nil {
		return nil, err
	}
	in, err := b.instances.Recall(r.Instance, r.Kept)
	if err != nil {
		return nil, err
	}
	if err := b.volumes.ofTenant(ctx, in, r.Tenant); err != nil {
		return nil, err
	}
	intent, progress := r.PackIntent, r.Progress
	r.PackIntent = func(pack string) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return intent(pack)
	}
	r.Progress = func(p model.Progress) {
		if ctx.Err() == nil {
			progress(p)
		}
	}
	return act(ctx, b.patience, in.volumes(), "the backup", forEver, EngineTime, func(ctx context.Context) (*model.Result, error) {
		res, err := b.backup(ctx, in, r)
		return res, inDoubt(err)
	})
}

func (b *backups) backup(ctx context.Context, in *Instance, r job.BackupRequest) (*model.Result, error) {
	opened, err := b.vaults.forBackup(ctx, r.Tenant)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	least, lerr := seal.ParseLevel(b.compression.Min)
	most, merr := seal.ParseLevel(b.compression.Max)
	if err := errors.Join(lerr, merr); err != nil {
		return nil, fmt.Errorf("configuration, compression: %w", err)
	}
	o := backup.Options{
		Pool:     b.pool,
		MinLevel: least, MaxLevel: most,
		Vault: opened, Instance: r.Instance, Host: b.self.Host, Identity: b.self.Identity, Agent: b.self.Version,
		Precopy: r.Precopy, Resume: r.Resume, PackIntent: r.PackIntent,
		Progress: func(p backup.Progress) {
			r.Progress(model.Progress{Files: p.Files, BytesRead: p.BytesRead, BytesNew: p.BytesNew, BytesSent: p.BytesSent})
		},
		Job:          b.engineJob(r.Job),
		Origin:       contentOrigin(r.Content, opened.Info().ID),
		Intent:       r.BackupIntent,
		CatalogueDir: b.catalogues,
		// as with the catalogues, it may be deleted at any time
		IndexDir: b.index,
	}
	if !r.Precopy {
		defer b.Over(ctx, r.Job)
	}
	depth := "every pack confirmed by the store, manifest read back, "
	if !r.Deadline.IsZero() {
		// A deadline costs first compression, then the reading back of a sample.
		// The manifest is read back in any case (Invariant release-last).
		o.MinLevel = min(least, seal.Fastest)
		o.MaxLevel = o.MinLevel
		if time.Until(r.Deadline) < sampleTime {
			o.Sample = -1
			depth += "for lack of time before the deadline "
		}
	}
	for _, s := range r.Sources {
		source, err := source(in, s)
		if err != nil {
			return nil, err
		}
		if source.Nested, err = snapshot.Nested(snapshot.Ref(s.Ref)); err != nil {
			return nil, fmt.Errorf("volume %q: %w", s.Volume, err)
		}
		o.Sources = append(o.Sources, source)
	}
	space := &viewRoom{}
	read := &views{sources: r.Sources, every: space.every(r.Sources), check: space.check}
	_ = read.look(ctx) // the space before anything is read
	o.Begin = read.begin
	o.Sent = func() {
		read.stored.Store(true)
		if r.Sent != nil {
			r.Sent()
		}
	}
	o.Accept = func(ctx context.Context, so *backup.Result) error {
		if !r.Precopy {
			if err := refuseLosses(so); err != nil {
				return err
			}
		}
		if err := context.Cause(ctx); err != nil {
			return err // nobody waits for the backup any more
		}
		if r.Accept != nil {
			if err := r.Accept(ctx); err != nil {
				return err
			}
		}
		return read.sound(ctx)
	}
	o.Drifted = func(d *backup.DriftError) {
		b.counters.Drift()
		b.log.Error("content changed without a sign, and its whole volume is read; verify the earlier backups of the instance",
			keyInstance, r.Instance, keyJob, r.Job, "volume", d.Volume, keyReason, "known by "+d.By)
	}
	o.Damaged = func(p vault.LostPack) {
		b.counters.DamagedPack()
		b.log.Error("a pack of the vault can't be used, and what this backup needs of it is stored anew; earlier backups may need it: run holdfast verify",
			keyInstance, r.Instance, keyJob, r.Job, "object", p.Object, keyReason, p.Reason)
	}
	var res *backup.Result
	err = contain.Call(func() error {
		return read.reading(ctx, func(ctx context.Context) error {
			defer b.useBases(ctx, r, o.Sources)()
			res, err = backup.Run(ctx, o)
			return err
		})
	})
	if contain.Of(err) != nil {
		b.vaults.drop(r.Tenant, opened)
	}
	if err != nil {
		return nil, err
	}
	if !r.Precopy {
		if err := b.snapshots.thawStored(ctx, r.Sources); err != nil {
			// the end of the job tries again
			b.trouble(r.Instance, r.Job, "let a frozen file system go", err)
		}
	}
	out := &model.Result{
		BackupID: res.BackupID, Seq: res.Seq, Parent: res.Parent, VaultID: opened.Info().ID, Object: res.Object, ManifestSHA256: res.ManifestSHA256,
		Files: res.Files, Dirs: res.Dirs, Bytes: res.Bytes, BytesRead: res.BytesRead, BytesNew: res.BytesNew, BytesSent: res.BytesSent,
		BytesDeduplicated: res.BytesDeduplicated, Packs: res.Packs, Sampled: res.Sampled, SampledReused: res.SampledReused, Warnings: res.WarningCount,
		Compressed: res.Compressed, CompressedWhy: res.CompressedWhy,
		LossesAccepted: res.LostAccepted,
		Depth:          fmt.Sprintf("%s%d chunks read back (%d new, %d reused)", depth, res.Sampled, res.Sampled-res.SampledReused, res.SampledReused),
		Created:        res.Created.UTC(), Verified: res.Verified.UTC(), StageSeconds: map[string]float64{},
		Catalogues: res.Catalogues, Fork: b.forksOf(ctx, opened, r, res),
	}
	if !r.Precopy {
		out.Roots = b.volumes.rootsOf(ctx, in, r, res)
	}
	b.logAccepted(r, res)
	for stage, d := range res.Stages {
		out.StageSeconds[stage] = d.Seconds()
	}
	return out, nil
}

// engineJob gives the engine's job for a job of the agent, of which Over is due.
func (b *backups) engineJob(id string) *backup.Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.jobs[id] == nil {
		b.jobs[id] = b.pool.BeginJob()
	}
	return b.jobs[id]
}

// Over ends the session of the job's rounds of pre-copy.
func (b *backups) Over(ctx context.Context, id string) {
	b.mu.Lock()
	j := b.jobs[id]
	delete(b.jobs, id)
	b.mu.Unlock()
	if j == nil {
		return
	}
	if err := j.End(ctx); err != nil {
		b.log.Warn("the session of a job stays in the vault until the next backup of this host", keyJob, id, keyReason, err.Error())
	}
}

// source names the engine's source of a volume of an instance.
func source(in *Instance, s job.Source) (backup.Source, error) {
	vol, err := in.volume(s.Volume)
	if err != nil {
		return backup.Source{}, err
	}
	if err := steady(vol.Path); err != nil {
		return backup.Source{}, fmt.Errorf("volume %q: %w: %w", s.Volume, errVolumes, err)
	}
	src := backup.Source{
		Volume: s.Volume, Root: s.Root, View: s.Ref.Path, Mounted: s.Mounted, AllowEmpty: vol.AllowEmpty,
		Exclude: vol.Exclude, ExcludeCaches: vol.ExcludeCaches, AcceptLosses: vol.AcceptLosses,
	}
	if s.Ref != (model.Ref{}) {
		provider, err := snapshot.ByName(s.Ref.Provider)
		if err != nil {
			return backup.Source{}, fmt.Errorf("volume %q: %w", s.Volume, err)
		}
		// A source that is read in place stands still as far as its instance does.
		src.Quiet = !provider.InPlace() || in.runtime.Holds()
	}
	if !s.Taken.IsZero() {
		src.Taken = evidence.Earliest(s.Taken, time.Duration(s.Clock), evidence.ClockOffset())
	}
	return src, nil
}

// maxShownLosses bounds the log's lines about accepted losses
// of one backup; the manifest names more, and counts all.
const maxShownLosses = 10

// logAccepted tells of losses that the configuration accepts: nobody else does.
func (b *backups) logAccepted(r job.BackupRequest, res *backup.Result) {
	if res.LostAccepted == 0 || r.Precopy {
		return
	}
	b.log.Warn("the backup lacks content at places where the configuration accepts it",
		keyInstance, r.Instance, keyJob, r.Job, "backup", res.BackupID, "losses", res.LostAccepted)
	for i, l := range res.Losses {
		if i == maxShownLosses {
			break
		}
		b.log.Warn("accepted loss", keyInstance, r.Instance, keyJob, r.Job, "volume", l.Volume, keyReason, lossText(l))
	}
}

func lossText(l vault.Loss) string { return tree.Warning{Path: string(l.Path), What: l.What}.String() }

// refuseLosses fails for a backup that lacks something that the configuration does not accept
// (Invariant nothing-lost): no release on it, and as an instance's newest a restore would take it.
func refuseLosses(so *backup.Result) error {
	if so.Lost == 0 {
		return nil
	}
	err := fmt.Errorf("the backup would not hold all of the storage: %d places", so.Lost)
	if i := slices.IndexFunc(so.Losses, func(l vault.Loss) bool { return !l.Accepted }); i >= 0 {
		l := so.Losses[i]
		err = fmt.Errorf("%w, the first is in volume %s: %s; where the instance can do without it, name the path in exclude or accept_losses of that volume",
			err, l.Volume, lossText(l))
	}
	return err
}

// inDoubt adds the remedy to the error of a backup,
// of which nobody knows whether it exists: to wait.
func inDoubt(err error) error {
	if !errors.Is(err, vault.ErrMayExist) {
		return err
	}
	return fmt.Errorf("%w; wait before the instance is prepared elsewhere: the agent asks the store every %s whether the backup exists, and the log has the answer; "+
		"until then the newest backup may be this one or the one before", err, observe.Roughly(settleEvery))
}
