package agent

import (
	"context"
	"errors"
	"fmt"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/origin"
	"holdfast/internal/vault"
)

// ByMarks implements job.Origins.
//
// A mark counts where it was written on this very folder or file, for this tenant, instance and
// volume. So a copy of a volume does not count, and a disk that was set back has the mark of its
// own state with it. All volumes have to name one backup of one vault, and a comparison must not
// contradict the mark: a slot that was filled anew bears the mark too. Which host wrote the mark
// does not matter: the content came from that backup wherever it lies now. Nothing is hidden by
// that, since the lineage tells whether that backup is the newest.
func (r restores) ByMarks(ctx context.Context, id, tenant string, known model.Content) (model.Content, error) {
	in := r.a.instances[id]
	if in == nil {
		return model.Content{}, fmt.Errorf("instance %q is not in the configuration: %w", id, model.ErrNotFound)
	}
	mark, ok, err := r.commonMark(ctx, in, tenant)
	switch {
	case err != nil || !ok:
		return model.Content{}, err
	case known.Backup != "" && (known.Vault != mark.Vault || known.Tenant != tenant || known.Seq >= mark.Seq):
		return model.Content{}, nil // the journal knows as much, or nothing that can be compared
	}
	opened, err := r.a.vaults.existing(ctx, tenant)
	if err != nil {
		return model.Content{}, fmt.Errorf("open vault: %w", err)
	}
	if opened.Info().ID != mark.Vault {
		return model.Content{}, nil
	}
	facts, err := r.Look(ctx, id, tenant, known)
	if err != nil {
		return model.Content{}, err
	}
	for _, f := range facts {
		if f.Backup.Backup != mark.Backup || f.Origin != prepare.OriginSame && f.Origin != prepare.OriginChanged {
			r.a.log.Warn("the mark on a volume names a backup that the journal does not know, and the content does not bear it out; the next backup names no parent by it",
				keyInstance, id, "volume", f.Volume, "backup", mark.Backup, keyReason, f.Why)
			return model.Content{}, nil
		}
	}
	found, err := r.Backup(ctx, id, tenant, mark.Backup)
	if err != nil && !errors.Is(err, model.ErrNoBackup) {
		return model.Content{}, err
	}
	found = model.Content{Backup: mark.Backup, Seq: mark.Seq, Created: found.Created, Vault: mark.Vault, Tenant: tenant}
	for _, tried := range known.Tried {
		if vault.SeqOf(tried) > mark.Seq {
			found.Tried = append(found.Tried, tried)
		}
	}
	r.a.log.Warn("the journal does not know from which backup the volumes of an instance came, and the marks on them do: the next backup names that one as its parent",
		keyInstance, id, "backup", mark.Backup)
	return found, nil
}

// commonMark returns the mark that all volumes of an instance bear; ok is false where one of the
// volumes bears none that counts, or two name different backups.
func (r restores) commonMark(ctx context.Context, in *instance, tenant string) (common origin.Mark, ok bool, err error) {
	for i, v := range in.cfg.Volumes {
		s, err := ask(ctx, &r.a.patience, v.Path, "looking at the content", lookTime, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if err != nil {
			return origin.Mark{}, false, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		own := s.presence != prepare.VolumeMissing && s.markErr == nil && s.mark.At.Same(place(s.root)) &&
			s.mark.Tenant == tenant && s.mark.Instance == in.cfg.ID && s.mark.Volume == v.Name
		if !own || i > 0 && (s.mark.Backup != common.Backup || s.mark.Vault != common.Vault) {
			return origin.Mark{}, false, nil
		}
		common = s.mark
	}
	return common, len(in.cfg.Volumes) > 0, nil
}
