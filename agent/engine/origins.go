package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/backup/known"
	"holdfast/internal/vault"
)

// compareTime bounds the comparison of one volume with its last backup. A comparison that is over
// then has looked at a sample of all files at least, but for volumes of many millions.
const compareTime = time.Minute

// vaultTime is how long a comparison waits for the vault, with whose key the catalogues are sealed.
const vaultTime = 15 * time.Second

// Look tells of each volume of an instance whether it is there, and from which backup its content
// came. It compares what may have come from a backup with that one.
func (r restores) Look(ctx context.Context, id, tenant string, known model.Content) ([]prepare.VolumeFacts, error) {
	in, err := r.instances.known(id)
	if err != nil {
		return nil, err
	}
	var all []prepare.VolumeFacts
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, r.patience, v.Path, "looking at the content", lookTime, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		f := originOf(s, known, belongs{tenant: tenant, instance: id, volume: v.Name, host: r.self.Identity.ID})
		if f.Origin == prepare.OriginChanged {
			if f, err = r.compared(ctx, id, tenant, v.Path, s, known, f); err != nil {
				return nil, err
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// compared tells more of a volume whose content came from a backup.
func (r restores) compared(ctx context.Context, id, tenant, path string, s volumeSight, content model.Content, f prepare.VolumeFacts) (prepare.VolumeFacts, error) {
	kept := content.Volumes[f.Volume]
	if f.Backup.Backup != content.Backup || kept.Handle != "" && !place(kept).Same(place(s.root)) {
		kept = model.Root{} // of another tree: a disk came back after the same backup was restored elsewhere
	}
	if f.Kind == model.KindImage {
		if kept.Modified != 0 && kept.Modified == s.root.Modified && kept.Size == s.root.Size {
			f.Origin = prepare.OriginSame
		}
		return f, nil
	}
	if f.Presence == prepare.VolumeEmpty && kept.Kind != "" {
		f.Origin = prepare.OriginSame
		if kept.Entries > 0 {
			f.Origin, f.Why = prepare.OriginHalf, fmt.Sprintf("it is empty, and backup %s has content of it", f.Backup.Backup)
		}
		return f, nil
	}
	c, err := act(ctx, r.patience, path, "comparing it with its last backup", 2*compareTime, EngineTime, func(ctx context.Context) (known.Comparison, error) {
		return r.compare(ctx, id, tenant, path, kept, f)
	})
	switch {
	case NoAnswer(err), ctx.Err() != nil:
		return f, fmt.Errorf("volume %q: %w", f.Volume, err)
	case err != nil:
		r.log.Warn("a volume can't be compared with its last backup", keyInstance, id, "volume", f.Volume, keyReason, err.Error())
		return f, nil // nobody can prove that nothing changed
	}
	r.log.Info("a volume was compared with its last backup", keyInstance, id, "volume", f.Volume, "backup", f.Backup.Backup, "found", c.String())
	return likened(f, believed(s, f, c)), nil
}

// likened gives a volume the origin that a comparison tells.
func likened(f prepare.VolumeFacts, c known.Comparison) prepare.VolumeFacts {
	told := func(o prepare.Origin, what string) prepare.VolumeFacts {
		f.Origin, f.Why = o, fmt.Sprintf("%s: %s", what, c)
		return f
	}
	switch c.Likeness() {
	case known.LikenessSame:
		f.Origin = prepare.OriginSame
	case known.LikenessHalf:
		return told(prepare.OriginHalf, fmt.Sprintf("a large part of backup %s is gone", f.Backup.Backup))
	case known.LikenessOther:
		return told(prepare.OriginForeign, fmt.Sprintf("hardly any file is the one of backup %s: the slot was filled anew", f.Backup.Backup))
	case known.LikenessOlder:
		return told(prepare.OriginForeign, fmt.Sprintf("files are from before backup %s: the disk was set back", f.Backup.Backup))
	case known.LikenessNewer, known.LikenessUnknown:
	}
	return f
}

// compare compares with this host's catalogue of the backup, else with the vault's recipe.
func (r restores) compare(ctx context.Context, id, tenant, path string, kept model.Root, f prepare.VolumeFacts) (known.Comparison, error) {
	soon, cancel := context.WithTimeout(ctx, vaultTime)
	defer cancel()
	opened, err := r.vaults.Existing(soon, tenant)
	if err != nil {
		return known.Comparison{}, fmt.Errorf("open vault: %w", err)
	}
	c, err := known.Compare(ctx, opened, r.catalogues, id, f.Volume, kept.Catalogue, path, compareTime)
	if err == nil && c.Looked > 0 || err != nil && !errors.Is(err, known.ErrNoCatalogue) {
		return c, err
	}
	m, err := opened.Manifest(ctx, vault.BackupRef{Instance: id, ID: f.Backup.Backup})
	if err != nil {
		return known.Comparison{}, err
	}
	vol, err := m.Volume(f.Volume)
	if err != nil {
		return known.Comparison{}, err
	}
	return known.CompareStored(ctx, opened, vol, path, compareTime)
}
