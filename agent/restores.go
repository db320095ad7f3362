package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/restore"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// maxShownWarnings bounds what the log says of one volume that
// could not be restored exactly; the report has their number.
const maxShownWarnings = 10

// restores brings back the volumes of this host's instances. It is the job.Restorer.
type restores struct{ a *Agent }

func (r restores) Look(ctx context.Context, id, _ string, known job.Content) ([]job.VolumeFacts, error) {
	in := r.a.instances[id]
	if in == nil {
		return nil, fmt.Errorf("instance %q is not in the configuration: %w", id, job.ErrNotFound)
	}
	return r.a.volumeFacts(ctx, in, known, lookTime)
}

// volumeFacts tells what of the instance's volumes is on this host.
func (a *Agent) volumeFacts(ctx context.Context, in *instance, known job.Content, limit time.Duration) ([]job.VolumeFacts, error) {
	var all []job.VolumeFacts
	for _, v := range in.cfg.Volumes {
		presence, err := ask(ctx, &a.patience, v.Path, "looking at the content", limit, func(context.Context) (job.Presence, error) { return presenceOf(v.Path) })
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		f := job.VolumeFacts{Volume: v.Name, Presence: presence}
		switch {
		case presence == job.VolumeMissing:
		case known.Backup != "":
			f.Origin, f.Backup = job.OriginSame, known
		case presence == job.VolumeContent:
			f.Origin = job.OriginUnknown
		}
		all = append(all, f)
	}
	return all, nil
}

// presenceOf looks at the path of a volume.
func presenceOf(path string) (job.Presence, error) {
	if _, err := snapshot.KindOf(path); errors.Is(err, fs.ErrNotExist) {
		return job.VolumeMissing, nil
	} else if err != nil {
		return "", err
	}
	holds, err := restore.Holds(path)
	switch {
	case err != nil:
		return "", err
	case holds:
		return job.VolumeContent, nil
	}
	return job.VolumeEmpty, nil
}

// Newest does not make a vault that is not there: a tenant without one has no backups.
func (r restores) Newest(ctx context.Context, id, tenant string) (job.Content, error) {
	opened, err := r.a.vaults.existing(ctx, tenant)
	if errors.Is(err, vault.ErrNoVault) {
		return job.Content{}, fmt.Errorf("%w: its tenant has no vault", job.ErrNoBackup)
	} else if err != nil {
		return job.Content{}, fmt.Errorf("open vault: %w", err)
	}
	ref, err := opened.Newest(ctx, id)
	if err != nil && !errors.Is(err, vault.ErrNoBackup) {
		return job.Content{}, err
	}
	// A bucket that was set back to an earlier state lacks the newest backup, if this host made it.
	_, latest, lookErr := r.a.journal.ByInstance(id)
	switch {
	case lookErr != nil:
		return job.Content{}, lookErr
	case latest != nil && latest.Tenant == tenant && latest.Result != nil &&
		(latest.Result.Seq > ref.Seq || latest.Result.Seq == ref.Seq && latest.Result.BackupID != ref.ID):
		return job.Content{}, fmt.Errorf("%w: %s, this host's last; the newest there is %q", errRolledBack, latest.Result.BackupID, ref.ID)
	case err != nil:
		return job.Content{}, fmt.Errorf("%w: %w", job.ErrNoBackup, err)
	}
	return job.Content{Backup: ref.ID, Seq: ref.Seq, Created: ref.Time.UTC(), Vault: opened.Info().ID}, nil
}

// errRolledBack says that the store is not what it was: whoever owns it deleted the newest
// backup, or set it back. What is left is restored by hand only (holdfast restore --backup).
var errRolledBack = errors.New("the store lacks a backup that it confirmed")

// restored tells whether every volume is on this host; else why not.
func (a *Agent) restored(ctx context.Context, in *instance) error {
	for _, v := range in.cfg.Volumes {
		if _, err := ask(ctx, &a.patience, v.Path, "looking at the volume", askTime, func(context.Context) (snapshot.Kind, error) { return snapshot.KindOf(v.Path) }); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	return nil
}

func (r restores) Plan(ctx context.Context, id, jobID string) ([]job.Place, error) {
	in := r.a.instances[id]
	if in == nil {
		return nil, fmt.Errorf("instance %q is not in the configuration: %w", id, job.ErrNotFound)
	}
	if err := r.a.volumesFit(ctx, in); err != nil {
		return nil, err
	}
	var places []job.Place
	for _, v := range in.cfg.Volumes {
		p, err := act(ctx, &r.a.patience, v.Path, "looking at the place", lookTime, engineTime, func(context.Context) (restore.Place, error) {
			return restore.PlaceOf(v.Path, jobID, v.Name)
		})
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		holder, err := holderOf(p.Stage)
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		places = append(places, job.Place{Volume: v.Name, Target: p.Target, Stage: p.Stage, Holder: holder})
	}
	return places, nil
}

// Restore brings back one volume after the other: each keeps the network busy by itself.
func (r restores) Restore(ctx context.Context, q job.RestoreRequest) (*job.RestoreResult, []job.Place, error) {
	type result struct {
		sum    *job.RestoreResult
		places []job.Place
	}
	progress := q.Progress
	q.Progress = func(p job.Progress) {
		if ctx.Err() == nil { // a restore that was given up tells nothing
			progress(p)
		}
	}
	got, err := act(ctx, &r.a.patience, volumesOf(q.Places), "restoring", forEver, engineTime, func(ctx context.Context) (result, error) {
		sum, places, err := r.restore(ctx, q)
		return result{sum, places}, err
	})
	return got.sum, got.places, err
}

// volumesOf names the volumes of a restore together.
func volumesOf(places []job.Place) string {
	var targets []string
	for _, p := range places {
		targets = append(targets, p.Target)
	}
	return strings.Join(targets, ", ")
}

func (r restores) restore(ctx context.Context, q job.RestoreRequest) (*job.RestoreResult, []job.Place, error) {
	opened, err := r.a.vaults.existing(ctx, q.Tenant)
	if err != nil {
		return nil, nil, fmt.Errorf("open vault: %w", err)
	}
	ref := vault.BackupRef{Instance: q.Instance, ID: q.Backup}
	m, err := opened.Manifest(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	total, err := matchVolumes(m, q.Places)
	if err != nil {
		return nil, nil, err
	}
	places, sum := slices.Clone(q.Places), &job.RestoreResult{Catalogues: map[string]string{}}
	for i := range places {
		p := &places[i]
		if err := fits(*p); err != nil {
			return nil, nil, err
		}
		shown := 0
		done, files := sum.Bytes, sum.Files
		res, err := restore.Run(ctx, restore.Options{
			Vault: opened, Ref: ref, Volume: p.Volume, Dest: p.Stage, Subvolume: true, CatalogueDir: r.a.catalogues(),
			Progress: func(now restore.Progress) {
				q.Progress(job.Progress{Files: files + now.Entries, BytesRestored: done + now.Bytes, BytesTotal: total})
			},
			Warn: func(w tree.Warning) {
				if shown++; shown <= maxShownWarnings {
					r.a.log.Warn("not restored exactly", keyInstance, q.Instance, "volume", p.Volume, keyReason, w.String())
				}
			},
			Trouble: func(err error) {
				r.a.log.Warn("the next backup will read everything", keyInstance, q.Instance, "volume", p.Volume, keyReason, err.Error())
			},
		})
		if err != nil {
			return nil, nil, err
		}
		sum.Files += res.Entries
		sum.Bytes += res.Bytes
		sum.BytesFetched += res.BytesFetched
		sum.Warnings += res.WarningCount
		if id := res.Catalogues[p.Volume]; id != "" {
			sum.Catalogues[p.Volume] = id
		}
		if p.Tree, err = restore.Identify(p.Stage); err != nil {
			return nil, nil, err
		}
	}
	return sum, places, nil
}

// matchVolumes gives the bytes of all volumes, or why the backup is
// not of the volumes that the configuration has: with one too few the
// instance would not be what it was, and one too many has no place.
func matchVolumes(m *vault.Manifest, places []job.Place) (total uint64, err error) {
	for _, p := range places {
		if _, err := m.Volume(p.Volume); err != nil {
			return 0, fmt.Errorf("the configuration has the volume %q: %w", p.Volume, err)
		}
	}
	for _, v := range m.Volumes {
		if !slices.ContainsFunc(places, func(p job.Place) bool { return p.Volume == v.Name }) {
			return 0, fmt.Errorf("backup %s has the volume %q, for which the configuration has no place", m.ID, v.Name)
		}
		total += v.Bytes
	}
	return total, nil
}

func placeOf(p job.Place) restore.Place {
	return restore.Place{Target: p.Target, Stage: p.Stage, Tree: p.Tree}
}

func (r restores) Placed(p job.Place) (bool, error) {
	return ask(context.Background(), &r.a.patience, p.Target, "looking which tree is in place", lookTime, func(context.Context) (bool, error) { return placeOf(p).Placed() })
}

func (r restores) Put(p job.Place) error {
	return r.move(p, "putting the restored tree into place", restore.Place.Put)
}

func (r restores) Back(p job.Place) error {
	return r.move(p, "bringing the tree back that was in place", restore.Place.Back)
}

// move does what can be done twice. While a move hangs, no other
// one is made on the volume, so that a late one can't undo it.
func (r restores) move(p job.Place, what string, do func(restore.Place) error) error {
	_, err := act(context.Background(), &r.a.patience, p.Target, what, lookTime, 0, func(context.Context) (struct{}, error) {
		return struct{}{}, steadily(p, do)
	})
	return err
}

// Discard waits for the removal for as long as removeTime; it goes
// on after that, and who asks again waits for it.
func (r restores) Discard(p job.Place) error {
	_, err := ask(context.Background(), &r.a.patience, p.Stage, "removing the tree", removeTime, func(context.Context) (struct{}, error) {
		return struct{}{}, steadily(p, restore.Place.Discard)
	})
	return err
}

// steadily moves or removes what is at a place, unless its path leads elsewhere by now.
func steadily(p job.Place, do func(restore.Place) error) error {
	if err := fits(p); err != nil {
		return err
	}
	return do(placeOf(p))
}
