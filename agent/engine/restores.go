package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/restore"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// maxShownWarnings bounds the log's lines about one volume that
// could not be restored exactly; the report has their number.
const maxShownWarnings = 10

// restores brings back the volumes of this host's instances. It is the job.Restorer.
type restores struct {
	log       *slog.Logger
	self      Self
	standing  *Standing
	patience  *patience
	instances *Instances
	volumes   *Volumes
	vaults    *Vaults
	losses    *Losses
	// kept is journal.Journal.Kept, and keepsClaim tells whether this host
	// keeps its claim on an instance.
	kept       func() ([]model.Aside, error)
	keepsClaim func(vault.Claim) bool
	reserve    restore.Reserve // see reserveOf
	catalogues string          // the folder
	// claimSilence and inPlaceOrder are keys below prepare in the configuration.
	claimSilence time.Duration
	inPlaceOrder bool
}

func (r restores) Plan(ctx context.Context, id, jobID string) ([]model.Place, error) {
	in, err := r.instances.known(id)
	if err != nil {
		return nil, err
	}
	if err := r.volumes.fit(ctx, in); err != nil {
		return nil, err
	}
	var places []model.Place
	for _, v := range in.cfg.Volumes {
		p, err := act(ctx, r.patience, v.Path, "looking at the place", lookTime, EngineTime, func(context.Context) (restore.Place, error) {
			return restore.PlaceOf(v.Path, jobID, v.Name)
		})
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		holder, err := holderOf(p.Stage)
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		places = append(places, model.Place{Volume: v.Name, Target: p.Target, Stage: p.Stage, Holder: holder})
	}
	return places, nil
}

// Restore brings back one volume after the other: each keeps the network busy by itself.
func (r restores) Restore(ctx context.Context, q job.RestoreRequest) (*model.RestoreResult, []model.Place, error) {
	type result struct {
		sum    *model.RestoreResult
		places []model.Place
	}
	progress := q.Progress
	q.Progress = func(p model.Progress) {
		if ctx.Err() == nil { // a restore that was given up tells nothing
			progress(p)
		}
	}
	got, err := act(ctx, r.patience, volumesOf(q.Places), "restoring", forEver, EngineTime, func(ctx context.Context) (result, error) {
		sum, places, err := r.restore(ctx, q)
		return result{sum, places}, err
	})
	return got.sum, got.places, err
}

// volumesOf names the volumes of a restore together.
func volumesOf(places []model.Place) string {
	var targets []string
	for _, p := range places {
		targets = append(targets, p.Target)
	}
	return strings.Join(targets, ", ")
}

func (r restores) restore(ctx context.Context, q job.RestoreRequest) (*model.RestoreResult, []model.Place, error) {
	ctx, end := r.standing.Within(ctx)
	defer end()
	opened, err := r.vaults.Existing(ctx, q.Tenant)
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
	places, sum := slices.Clone(q.Places), &model.RestoreResult{Catalogues: map[string]string{}, Roots: map[string]model.Root{}, Parent: m.Parent}
	for i := range places {
		p := &places[i]
		if err := fits(*p); err != nil {
			return nil, nil, err
		}
		shown := 0
		done, files := sum.Bytes, sum.Files
		res, err := restore.Run(ctx, restore.Options{
			Vault: opened, Ref: ref, Volume: p.Volume, Dest: p.Stage, Subvolume: true, Reserve: &r.reserve, CatalogueDir: r.catalogues,
			Reader: vault.SessionOptions{Host: r.self.Host, Identity: r.self.Identity},
			Progress: func(now restore.Progress) {
				q.Progress(model.Progress{Files: files + now.Entries, BytesRestored: done + now.Bytes, BytesTotal: total})
			},
			Warn: func(w tree.Warning) {
				if shown++; shown <= maxShownWarnings {
					r.log.Warn("not restored exactly", keyInstance, q.Instance, "volume", p.Volume, keyReason, w.String())
				}
			},
			Trouble: func(err error) {
				r.log.Warn("the next backup will read everything", keyInstance, q.Instance, "volume", p.Volume, keyReason, err.Error())
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
func matchVolumes(m *vault.Manifest, places []model.Place) (total uint64, err error) {
	for _, p := range places {
		if _, err := m.Volume(p.Volume); err != nil {
			return 0, fmt.Errorf("the configuration has the volume %q: %w", p.Volume, err)
		}
	}
	for _, v := range m.Volumes {
		if !slices.ContainsFunc(places, func(p model.Place) bool { return p.Volume == v.Name }) {
			return 0, fmt.Errorf("backup %s has the volume %q, for which the configuration has no place", m.ID, v.Name)
		}
		total += v.Bytes
	}
	return total, nil
}

func placeOf(p model.Place) restore.Place {
	return restore.Place{Target: p.Target, Stage: p.Stage, Tree: p.Tree, Old: p.Old, Aside: p.Aside, Empty: p.Empty}
}

func (r restores) Placed(p model.Place) (bool, error) {
	return ask(context.Background(), r.patience, p.Target, "looking which tree is in place", lookTime, func(context.Context) (bool, error) { return placeOf(p).Placed() })
}

func (r restores) Put(p model.Place) error {
	return r.move(p, "putting the restored tree into place", restore.Place.Put)
}

func (r restores) Back(p model.Place) error {
	return r.move(p, "bringing the tree back that was in place", restore.Place.Back)
}

// move makes a move that can be done twice. While a move hangs, no
// other move is made on the volume, so that a late move can't undo it.
func (r restores) move(p model.Place, what string, do func(restore.Place) error) error {
	_, err := act(context.Background(), r.patience, p.Target, what, lookTime, 0, func(context.Context) (struct{}, error) {
		return struct{}{}, r.steadily(p, do)
	})
	return err
}

// Discard waits for the removal for as long as removeTime; it goes
// on after that, and who asks again waits for it.
func (r restores) Discard(p model.Place) error {
	_, err := ask(context.Background(), r.patience, p.Stage, "removing the tree", removeTime, func(context.Context) (struct{}, error) {
		err := r.steadily(p, restore.Place.Discard)
		if err == nil {
			err = dropNoteFile(p.Stage)
		}
		return struct{}{}, err
	})
	return err
}

// steadily moves or removes the tree at a place, unless its path leads elsewhere by now.
func (r restores) steadily(p model.Place, do func(restore.Place) error) error {
	if err := r.standing.Allowed(); err != nil {
		return err
	}
	if err := fits(p); err != nil {
		return err
	}
	return do(placeOf(p))
}
