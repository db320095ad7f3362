package agent

import (
	"context"
	"errors"
	"fmt"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/backup"
	"holdfast/internal/origin"
	"holdfast/internal/vault"
)

// volumesIn describes each volume of a backup. A manifest that
// can't be read tells nothing: a restore reports its fault.
func volumesIn(ctx context.Context, v *vault.Vault, ref vault.BackupRef) map[string]model.Root {
	m, err := v.Manifest(ctx, ref)
	if err != nil {
		return nil
	}
	roots := map[string]model.Root{}
	for i := range m.Volumes {
		vol := &m.Volumes[i]
		root := model.Root{Kind: model.KindFolder, Entries: vol.Content()}
		if vol.Kind == vault.KindImage {
			root.Kind = model.KindImage
		}
		roots[vol.Name] = root
	}
	return roots
}

// rootsOf identifies the content of all backed-up volumes. A fact that can't
// be found out is left out, and the volume then counts as another one.
func (a *Agent) rootsOf(ctx context.Context, in *instance, r job.BackupRequest, res *backup.Result) map[string]model.Root {
	roots := map[string]model.Root{}
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, &a.patience, v.Path, "looking at the content", lookTime, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if err != nil || s.presence == prepare.VolumeMissing {
			a.log.Warn("which folder or file a volume is can't be told, so the next prepare takes it for another one", keyInstance, r.Instance, keyJob, r.Job, "volume", v.Name, keyReason, fmt.Sprint(err))
			continue
		}
		root := s.root
		root.Entries, root.Catalogue = res.Contents[v.Name], res.Catalogues[v.Name]
		if !in.runtime.Holds() || model.Mode(in.cfg.Hold) == model.ModeLive {
			root.Modified = 0 // it may have been written to since the snapshot
		}
		roots[v.Name] = root
	}
	return roots
}

// rootOf marks a restored tree that is beside its place, and identifies it. It has the mark before
// anybody sees it in its place.
func (r restores) rootOf(ctx context.Context, q job.RestoreRequest, m *vault.Manifest, p model.Place, catalogue string) model.Root {
	lacks := func(err error) {
		r.a.log.Warn("a restored volume gets no mark, so the journal alone tells from which backup it came", keyInstance, q.Instance, "volume", p.Volume, keyReason, err.Error())
	}
	s, err := see(ctx, p.Stage)
	if err != nil {
		lacks(err)
		return model.Root{}
	}
	root := s.root
	root.Catalogue = catalogue
	if vol, err := m.Volume(p.Volume); err == nil {
		root.Entries = vol.Content()
	}
	mark := origin.Mark{Backup: q.Backup, Seq: q.Seq, Vault: q.Vault, Tenant: q.Tenant, Instance: q.Instance, Volume: p.Volume, Host: r.a.identity.ID}
	if _, err := origin.Write(p.Stage, mark); err != nil {
		lacks(err)
		return root
	}
	root.Marked = true
	return root
}

// Mark implements job.Restorer.
func (r restores) Mark(ctx context.Context, j *model.Job, c model.Content) (map[string]bool, error) {
	in, err := r.a.recallInstance(j.Instance, j.Kept)
	if err != nil {
		return nil, err
	}
	marked := map[string]bool{}
	var errs []error
	for _, v := range in.cfg.Volumes {
		root, backedUp := j.Result.Roots[v.Name]
		if !backedUp {
			continue // nobody knows which folder or file it was
		}
		mark := origin.Mark{Backup: c.Backup, Seq: c.Seq, Vault: c.Vault, Tenant: c.Tenant, Instance: j.Instance, Volume: v.Name, Host: r.a.identity.ID}
		_, err := act(ctx, &r.a.patience, v.Path, "writing the mark", lookTime, 0, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, r.markAt(ctx, v.Path, root, mark)
		})
		switch {
		case err == nil:
			marked[v.Name] = true
		case errors.Is(err, origin.ErrNotKept):
			r.a.log.Info("no mark can be kept on a volume, so the journal alone tells from which backup it came", keyInstance, j.Instance, "volume", v.Name, keyReason, err.Error())
		default:
			errs = append(errs, fmt.Errorf("volume %q: %w", v.Name, err))
		}
	}
	return marked, errors.Join(errs...)
}

// errOtherFolder says that the backed-up folder or file does not lie at its path any more.
var errOtherFolder = errors.New("another folder or file lies there than the one that was backed up")

// markAt marks the folder or file at a path, if it is the one that was backed up.
func (r restores) markAt(ctx context.Context, path string, root model.Root, mark origin.Mark) error {
	if err := errors.Join(r.a.standing.allowed(), steady(path)); err != nil {
		return err
	}
	path = realPath(path)
	now, err := see(ctx, path)
	switch {
	case err != nil:
		return err
	case now.presence == prepare.VolumeMissing || place(now.root) != place(root):
		return fmt.Errorf("%s gets no mark: %w", path, errOtherFolder)
	}
	_, err = origin.Write(path, mark)
	return err
}
