package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"holdfast/agent/job"
	"holdfast/internal/restore"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// maxShownWarnings bounds the log's lines about one volume that
// could not be restored exactly; the report has their number.
const maxShownWarnings = 10

// restores brings back the volumes of this host's instances. It is the job.Restorer.
type restores struct{ a *Agent }

// Newest implements job.Restorer. It is a look of its own at the vault.
func (r restores) Newest(ctx context.Context, id, tenant string) (job.Content, error) {
	c, err := r.Chain(ctx, id, tenant)
	if err != nil {
		return job.Content{}, err
	}
	return c.Newest(ctx)
}

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
	ctx, end := r.a.standing.within(ctx)
	defer end()
	opened, err := r.a.vaults.existing(ctx, q.Tenant)
	if err != nil {
		return nil, nil, fmt.Errorf("open vault: %w", err)
	}
	ref := vault.BackupRef{Instance: q.Instance, ID: q.Backup}
	m, err := opened.Manifest(ctx, ref)
	if err != nil {
		return nil, nil, withOlder(ctx, opened, ref, err)
	}
	total, err := matchVolumes(m, q.Places)
	if err != nil {
		return nil, nil, err
	}
	places, sum := slices.Clone(q.Places), &job.RestoreResult{Catalogues: map[string]string{}, Roots: map[string]job.Root{}, Parent: m.Parent}
	for i := range places {
		p := &places[i]
		if err := fits(*p); err != nil {
			return nil, nil, err
		}
		shown := 0
		done, files := sum.Bytes, sum.Files
		res, err := restore.Run(ctx, restore.Options{
			Vault: opened, Ref: ref, Volume: p.Volume, Dest: p.Stage, Subvolume: true, Reserve: r.a.reserve(), CatalogueDir: r.a.catalogues(),
			Reader: vault.SessionOptions{Host: r.a.cfg.HostID, Identity: r.a.identity},
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
			return nil, nil, withOlder(ctx, opened, ref, err)
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
		sum.Roots[p.Volume] = r.rootOf(ctx, q, m, *p, sum.Catalogues[p.Volume])
	}
	return sum, places, nil
}

// matchVolumes gives the bytes of all volumes, or why the backup does not have the same volumes as
// the configuration: with one too few the instance would lack data, and one too many has no place.
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
	return restore.Place{Target: p.Target, Stage: p.Stage, Tree: p.Tree, Old: p.Old, Aside: p.Aside, Empty: p.Empty}
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

// move makes a move that can be done twice. While a move hangs, no
// other move is made on the volume, so that a late move can't undo it.
func (r restores) move(p job.Place, what string, do func(restore.Place) error) error {
	_, err := act(context.Background(), &r.a.patience, p.Target, what, lookTime, 0, func(context.Context) (struct{}, error) {
		return struct{}{}, r.steadily(p, do)
	})
	return err
}

// Discard waits for the removal for as long as removeTime; it goes
// on after that, and who asks again waits for it.
func (r restores) Discard(p job.Place) error {
	_, err := ask(context.Background(), &r.a.patience, p.Stage, "removing the tree", removeTime, func(context.Context) (struct{}, error) {
		err := r.steadily(p, restore.Place.Discard)
		if err == nil {
			err = dropNoteFile(p.Stage)
		}
		return struct{}{}, err
	})
	return err
}

// steadily moves or removes the tree at a place, unless its path leads elsewhere by now.
func (r restores) steadily(p job.Place, do func(restore.Place) error) error {
	if err := r.a.standing.allowed(); err != nil {
		return err
	}
	if err := fits(p); err != nil {
		return err
	}
	return do(placeOf(p))
}
