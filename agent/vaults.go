package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/backup"
	"holdfast/internal/contain"
	"holdfast/internal/evidence"
	"holdfast/internal/seal"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// vaults opens each tenant's vault when it is first needed and
// keeps it open. It is the job.Backuper.
type vaults struct {
	a    *Agent
	keys *keys
	// fault is why no vault can be opened in this life, which recovers; nil when that can be tried.
	fault error

	mu   sync.Mutex
	open map[string]*openVault // by tenant
	// jobs are the engine's, by the agent's id: jobs with a
	// finished round of pre-copy and without a backup yet.
	jobs map[string]*backup.Job
}

// openVault is one tenant's vault; the turn lets one job open it
// while others of the tenant wait, and jobs of other tenants do not.
type openVault struct {
	turn  chan struct{} // 1 token
	vault *vault.Vault  // nil: not open yet; guarded by turn
}

// of gives the tenant's vault, which is made if that may be.
func (v *vaults) of(ctx context.Context, tenant string) (*vault.Vault, error) {
	return v.once(ctx, tenant, v.openOrCreate)
}

// existing gives the tenant's vault; vault.ErrNoVault when there is none.
func (v *vaults) existing(ctx context.Context, tenant string) (*vault.Vault, error) {
	return v.once(ctx, tenant, func(ctx context.Context, tenant string) (*vault.Vault, error) {
		nameKey, identity, err := v.keys.get()
		if err != nil {
			return nil, err
		}
		return vault.Open(ctx, v.a.store, tenant, nameKey, identity)
	})
}

// once opens the tenant's vault unless it is open.
func (v *vaults) once(ctx context.Context, tenant string, open func(context.Context, string) (*vault.Vault, error)) (*vault.Vault, error) {
	if v.fault != nil {
		return nil, v.fault
	}
	v.mu.Lock()
	o := v.open[tenant]
	if o == nil {
		o = &openVault{turn: make(chan struct{}, 1)}
		o.turn <- struct{}{}
		v.open[tenant] = o
	}
	v.mu.Unlock()
	select {
	case <-o.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { o.turn <- struct{}{} }()
	if o.vault == nil {
		opened, err := open(ctx, tenant)
		if err != nil {
			return nil, err
		}
		// before anything is done in the vault, above all before sessions are taken for ended
		if err := v.a.looks.look(ctx, opened); err != nil {
			return nil, err
		}
		o.vault = opened
	}
	return o.vault, nil
}

// drop makes the next job of the tenant open the vault again, after a panic of a job that
// used it: the shared parts of a vault's jobs may be locked for ever, or half changed.
// Jobs that use it now go on with it, and its memory goes with the last of them.
func (v *vaults) drop(tenant string, used *vault.Vault) {
	v.mu.Lock()
	o := v.open[tenant]
	v.mu.Unlock()
	if o == nil {
		return
	}
	<-o.turn
	defer func() { o.turn <- struct{}{} }()
	if o.vault == used {
		o.vault = nil
	}
}

// openOrCreate makes a missing vault only where the configuration says so
// and the store can put conditionally: elsewhere two hosts could each make
// one for the same tenant, and nobody could read the loser's objects.
func (v *vaults) openOrCreate(ctx context.Context, tenant string) (*vault.Vault, error) {
	store := v.a.store
	nameKey, identity, err := v.keys.get()
	if err != nil {
		return nil, err
	}
	opened, err := vault.Open(ctx, store, tenant, nameKey, identity)
	if !errors.Is(err, vault.ErrNoVault) {
		return opened, err
	}
	nameKeyFlag := ""
	if f := v.a.cfg.Store.NameKeyFile; f != "" {
		nameKeyFlag = " --name-key " + f
	}
	hint := fmt.Sprintf("make it with `holdfast vault create --store '%s' --vault %s --key %s%s --recipient age1…`",
		store, tenant, v.a.cfg.KeyFile, nameKeyFlag)
	if !v.a.cfg.Vault.AutoCreate {
		return nil, fmt.Errorf("the tenant has no vault, and vault.auto_create is off; %s: %w", hint, err)
	}
	if kerr := v.notKnown(tenant, nameKey); kerr != nil {
		return nil, fmt.Errorf("the tenant has no vault, and none is made: %w; %s: %w", kerr, hint, err)
	}
	once, cerr := vault.CreatesOnce(ctx, store, tenant, nameKey)
	if cerr != nil {
		return nil, fmt.Errorf("the tenant has no vault, and whether the store takes a name once can't be found out; %s: %w", hint, cerr)
	}
	if !once {
		return nil, fmt.Errorf("the tenant has no vault, and on this store two hosts could make it at the same time; %s: %w", hint, err)
	}
	opened, err = vault.Create(ctx, store, tenant, nameKey, v.a.cfg.Recipients, identity)
	if errors.Is(err, vault.ErrVaultExists) { // another host was faster
		return vault.Open(ctx, store, tenant, nameKey, identity)
	}
	if err == nil {
		v.a.log.Info("vault created", "vault", opened.Info().ID)
	}
	return opened, err
}

// hurry is how near a deadline is when the sample is left out:
// reading it back takes some round trips to the store.
const hurry = 30 * time.Second

// Look fails for a volume that is not mounted, and where the
// tenant's vault can't be opened: the instance is not touched then.
func (v *vaults) Look(ctx context.Context, instance, tenant string) error {
	in := v.a.instances[instance]
	if in == nil {
		return fmt.Errorf("instance %q is not in the configuration: %w", instance, model.ErrNotFound)
	}
	if err := v.a.answers(ctx, in); err != nil {
		return err
	}
	if err := v.a.volumesFit(ctx, in); err != nil {
		return err
	}
	if err := v.a.ofTenant(ctx, in, tenant); err != nil {
		return err
	}
	opened, err := v.confirmed(ctx, tenant)
	if err != nil {
		return fmt.Errorf("open vault: %w", err)
	}
	o := backup.Options{Vault: opened, Instance: instance, Host: v.a.cfg.HostID, CatalogueDir: v.a.catalogues()}
	for _, c := range in.cfg.Volumes {
		o.Sources = append(o.Sources, backup.Source{Volume: c.Name, Root: c.Path, AllowEmpty: c.AllowEmpty})
	}
	_, err = act(ctx, &v.a.patience, in.volumes(), "looking what is mounted", forEver, engineTime, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, backup.Look(ctx, o)
	})
	return err
}

// answers fails for a volume on storage that does not answer. A missing volume answers.
func (a *Agent) answers(ctx context.Context, in *instance) error {
	for _, v := range in.cfg.Volumes {
		_, err := ask(ctx, &a.patience, v.Path, "looking at the volume", lookTime, func(context.Context) (snapshot.Kind, error) { return snapshot.KindOf(v.Path) })
		if noAnswer(err) {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return nil
}

// volumes names all volumes of the instance together.
func (in *instance) volumes() string {
	paths := make([]string, len(in.cfg.Volumes))
	for i, v := range in.cfg.Volumes {
		paths[i] = v.Path
	}
	return strings.Join(paths, ", ")
}

// Backup runs the engine for a job. When ctx has ended it returns soon,
// also where the engine hangs on storage that does not answer: such a run
// has no effect any more. It journals no pack, and writes no manifest.
func (v *vaults) Backup(ctx context.Context, r job.BackupRequest) (*model.Result, error) {
	if v.a.instances[r.Instance] == nil {
		return nil, fmt.Errorf("instance %q is not in the configuration: %w", r.Instance, model.ErrNotFound)
	}
	in, err := v.a.recallInstance(r.Instance, r.Kept)
	if err != nil {
		return nil, err
	}
	if err := v.a.ofTenant(ctx, in, r.Tenant); err != nil {
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
	return act(ctx, &v.a.patience, in.volumes(), "the backup", forEver, engineTime, func(ctx context.Context) (*model.Result, error) {
		res, err := v.backup(ctx, in, r)
		return res, inDoubt(err)
	})
}

func (v *vaults) backup(ctx context.Context, in *instance, r job.BackupRequest) (*model.Result, error) {
	opened, err := v.of(ctx, r.Tenant)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	least, lerr := seal.ParseLevel(v.a.cfg.Compression.Min)
	most, merr := seal.ParseLevel(v.a.cfg.Compression.Max)
	if err := errors.Join(lerr, merr); err != nil {
		return nil, fmt.Errorf("configuration, compression: %w", err)
	}
	o := backup.Options{
		Pool:     v.a.engine,
		MinLevel: least, MaxLevel: most,
		Vault: opened, Instance: r.Instance, Host: v.a.cfg.HostID, Identity: v.a.identity, Agent: v.a.version,
		Precopy: r.Precopy, Resume: r.Resume, PackIntent: r.PackIntent,
		Progress: func(p backup.Progress) {
			r.Progress(model.Progress{Files: p.Files, BytesRead: p.BytesRead, BytesNew: p.BytesNew, BytesSent: p.BytesSent})
		},
		Job:          v.engineJob(r.Job),
		Origin:       contentOrigin(r.Content, opened.Info().ID),
		Intent:       r.BackupIntent,
		CatalogueDir: v.a.catalogues(),
		// as with the catalogues, it may be deleted at any time
		IndexDir: filepath.Join(v.a.cfg.StateDir, "index"),
	}
	if !r.Precopy {
		defer v.Over(ctx, r.Job)
	}
	depth := "every pack confirmed by the store, manifest read back, "
	if !r.Deadline.IsZero() {
		// A deadline costs first compression, then the reading back of a sample.
		// The manifest is read back in any case (Invariant release-last).
		o.MinLevel = min(least, seal.Fastest)
		o.MaxLevel = o.MinLevel
		if time.Until(r.Deadline) < hurry {
			o.Sample = -1
			depth += "for lack of time before the deadline "
		}
	}
	for _, s := range r.Sources {
		source, err := v.a.source(in, s)
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
			if err := whole(so); err != nil {
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
		v.a.metrics.Drift()
		v.a.log.Error("content changed without a sign, and its whole volume is read; verify the earlier backups of the instance",
			keyInstance, r.Instance, keyJob, r.Job, "volume", d.Volume, keyReason, "known by "+d.By)
	}
	o.Damaged = func(p vault.LostPack) {
		v.a.metrics.DamagedPack()
		v.a.log.Error("a pack of the vault can't be used, and what this backup needs of it is stored anew; earlier backups may need it: run holdfast verify",
			keyInstance, r.Instance, keyJob, r.Job, "object", p.Object, keyReason, p.Reason)
	}
	var res *backup.Result
	err = contain.Call(func() error {
		return read.reading(ctx, func(ctx context.Context) error {
			defer v.a.useBases(ctx, r, o.Sources)()
			res, err = backup.Run(ctx, o)
			return err
		})
	})
	if contain.Of(err) != nil {
		v.drop(r.Tenant, opened)
	}
	if err != nil {
		return nil, err
	}
	if !r.Precopy {
		if err := v.a.thawStored(ctx, r.Sources); err != nil {
			// the end of the job tries again
			v.a.watcher.Trouble(r.Instance, r.Job, "let a frozen file system go", err)
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
		Catalogues: res.Catalogues, Fork: v.forksOf(ctx, opened, r, res),
	}
	if !r.Precopy {
		out.Roots = v.a.rootsOf(ctx, in, r, res)
	}
	v.a.logAccepted(r, res)
	for stage, d := range res.Stages {
		out.StageSeconds[stage] = d.Seconds()
	}
	return out, nil
}

// engineJob gives the engine's job for a job of the agent, of which Over is due.
func (v *vaults) engineJob(id string) *backup.Job {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.jobs[id] == nil {
		v.jobs[id] = v.a.engine.BeginJob()
	}
	return v.jobs[id]
}

// Over ends the session of the job's rounds of pre-copy.
func (v *vaults) Over(ctx context.Context, id string) {
	v.mu.Lock()
	j := v.jobs[id]
	delete(v.jobs, id)
	v.mu.Unlock()
	if j == nil {
		return
	}
	if err := j.End(ctx); err != nil {
		v.a.log.Warn("the session of a job stays in the vault until the next backup of this host", keyJob, id, keyReason, err.Error())
	}
}

// source names the engine's source of a volume of an instance.
func (a *Agent) source(in *instance, s job.Source) (backup.Source, error) {
	vol, err := snapshots{a, in}.volume(s.Volume)
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
func (a *Agent) logAccepted(r job.BackupRequest, res *backup.Result) {
	if res.LostAccepted == 0 || r.Precopy {
		return
	}
	a.log.Warn("the backup lacks content at places where the configuration accepts it",
		keyInstance, r.Instance, keyJob, r.Job, "backup", res.BackupID, "losses", res.LostAccepted)
	for i, l := range res.Losses {
		if i == maxShownLosses {
			break
		}
		a.log.Warn("accepted loss", keyInstance, r.Instance, keyJob, r.Job, "volume", l.Volume, keyReason, lossText(l))
	}
}

func lossText(l vault.Loss) string { return tree.Warning{Path: string(l.Path), What: l.What}.String() }

// whole fails for a backup that lacks something that the configuration does not accept (Invariant
// nothing-lost): no release on it, and as an instance's newest a restore would take it.
func whole(so *backup.Result) error {
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

// close closes the vaults. No backup runs any more.
func (v *vaults) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, o := range v.open {
		if o.vault != nil {
			o.vault.Close()
		}
	}
	v.open = map[string]*openVault{}
	return nil
}
