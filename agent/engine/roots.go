package engine

import (
	"context"
	"errors"
	"fmt"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/origin"
	"holdfast/internal/vault"
)

// rootOf marks a restored tree that is beside its place, and identifies it. It has the mark before
// anybody sees it in its place.
func (r restores) rootOf(ctx context.Context, q job.RestoreRequest, m *vault.Manifest, p model.Place, catalogue string) model.Root {
	lacks := func(err error) {
		r.log.Warn("a restored volume gets no mark, so the journal alone tells from which backup it came", keyInstance, q.Instance, "volume", p.Volume, keyReason, err.Error())
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
	mark := origin.Mark{Backup: q.Backup, Seq: q.Seq, Vault: q.Vault, Tenant: q.Tenant, Instance: q.Instance, Volume: p.Volume, Host: r.self.Identity.ID}
	if _, err := origin.Write(p.Stage, mark); err != nil {
		lacks(err)
		return root
	}
	root.Marked = true
	return root
}

// Mark implements job.Restorer.
func (r restores) Mark(ctx context.Context, j *model.Job, c model.Content) (map[string]bool, error) {
	in, err := r.instances.Recall(j.Instance, j.Kept)
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
		mark := origin.Mark{Backup: c.Backup, Seq: c.Seq, Vault: c.Vault, Tenant: c.Tenant, Instance: j.Instance, Volume: v.Name, Host: r.self.Identity.ID}
		_, err := act(ctx, r.patience, v.Path, "writing the mark", lookTime, 0, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, r.markAt(ctx, v.Path, root, mark)
		})
		switch {
		case err == nil:
			marked[v.Name] = true
		case errors.Is(err, origin.ErrNotKept):
			r.log.Info("no mark can be kept on a volume, so the journal alone tells from which backup it came", keyInstance, j.Instance, "volume", v.Name, keyReason, err.Error())
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
	if err := errors.Join(r.standing.Allowed(), steady(path)); err != nil {
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
