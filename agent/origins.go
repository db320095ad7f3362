package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/backup/known"
	"holdfast/internal/evidence"
	"holdfast/internal/origin"
	"holdfast/internal/vault"
)

// compareTime bounds the comparison of one volume with its last backup. A comparison that is over
// then has looked at a sample of all files at least, but for volumes of many millions.
const compareTime = time.Minute

// vaultTime is how long a comparison waits for the vault, with whose key the catalogues are sealed.
const vaultTime = 15 * time.Second

// volumeSight is the content at the path of a volume. Nothing of it needs the store.
type volumeSight struct {
	presence job.Presence
	root     job.Root // Kind, Size, Modified, FileSystem and Handle; of a missing volume its folder's FileSystem
	mark     origin.Mark
	markErr  error // why there is no mark
}

// realPath follows the links of the kernel to block devices.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// see looks at the path of a volume.
func see(ctx context.Context, path string) (volumeSight, error) {
	path = realPath(path)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return volumeSight{presence: job.VolumeMissing, root: job.Root{FileSystem: evidence.FileSystemOf(filepath.Dir(path))}, markErr: origin.ErrNoMark}, nil
	} else if err != nil {
		return volumeSight{}, err
	}
	s := volumeSight{presence: job.VolumeContent, root: job.Root{Kind: job.KindImage}}
	at, err := origin.PlaceOf(path)
	if err != nil {
		return volumeSight{}, err
	}
	s.root.FileSystem, s.root.Handle = at.FileSystem, at.Root
	switch {
	case info.Mode()&fs.ModeDevice != 0: // the node in /dev is another one after a reboot
		s.root.Handle = evidence.DeviceIdentity(path)
	case info.IsDir():
		s.root.Kind = job.KindFolder
		empty, err := known.Empty(ctx, path)
		if err != nil {
			return volumeSight{}, err
		}
		if empty {
			s.presence = job.VolumeEmpty
		}
	case info.Mode().IsRegular():
		s.root.Size, s.root.Modified = info.Size(), info.ModTime().UnixNano()
	}
	if s.mark, s.markErr = origin.Read(path); s.markErr != nil && !slices.ContainsFunc(
		[]error{origin.ErrNoMark, origin.ErrNotKept, origin.ErrDamaged}, func(is error) bool { return errors.Is(s.markErr, is) }) {
		return volumeSight{}, s.markErr
	}
	return s, nil
}

// place tells which folder or file it is.
func place(r job.Root) origin.Place { return origin.Place{FileSystem: r.FileSystem, Root: r.Handle} }

// belongs is whose volume it is that was seen.
type belongs struct {
	tenant, instance, volume string
	host                     string // identity of this host; "" is not known
}

// originOf tells from which backup the seen content came, by the mark on it and by the
// journal. It has OriginChanged where a comparison with the backup is still to tell more.
//
// The mark counts where it was written on this very folder or file. The journal counts
// where it knew this very folder or file, and where the mark does not tell otherwise.
func originOf(s volumeSight, known job.Content, b belongs) job.VolumeFacts {
	f := job.VolumeFacts{Volume: b.volume, Presence: s.presence, Kind: s.root.Kind}
	kept, journalled := known.Volumes[b.volume]
	f.Elsewhere = s.presence != job.VolumeContent && (known.Tenant == "" || known.Tenant == b.tenant) && otherDisk(kept, s.root)
	if s.presence == job.VolumeMissing {
		return f
	}
	// Of a device that tells nothing of itself, the journal's word has to do.
	here := journalled && (place(kept).Same(place(s.root)) || kept.Handle == "" && s.root.Handle == "" && kept.Kind == s.root.Kind)
	marked := s.markErr == nil
	own := marked && s.mark.At.Same(place(s.root)) && s.mark.Tenant == b.tenant && s.mark.Instance == b.instance && s.mark.Volume == b.volume
	is := func(o job.Origin, why string) job.VolumeFacts {
		if s.presence == job.VolumeEmpty && !own && !here && kept.Kind != "" && kept.Entries == 0 {
			return f // an empty folder in the place of an empty one: the newest backup decides
		}
		f.Origin, f.Why = o, why
		return f
	}
	if s.presence == job.VolumeContent {
		switch {
		case marked && s.mark.Tenant != b.tenant:
			return is(job.OriginTenant, "its mark names another tenant")
		case here && !kept.Marked && known.Tenant != "" && known.Tenant != b.tenant:
			// Where an operator took a mark off, the journal says nothing of the tenant.
			return is(job.OriginTenant, "the journal knows it as a volume of another tenant")
		}
	}
	if known.Tenant != "" && known.Tenant != b.tenant {
		known, kept, journalled, here = job.Content{}, job.Root{}, false, false
	}
	by := job.Content{Backup: s.mark.Backup, Seq: s.mark.Seq, Vault: s.mark.Vault, Tenant: s.mark.Tenant}
	switch {
	case journalled && kept.Kind != s.root.Kind:
		return is(job.OriginForeign, fmt.Sprintf("it was a %s at backup %s, and is a %s", kept.Kind, known.Backup, s.root.Kind))
	case own && (known.Backup == "" || s.mark.Seq > known.Seq):
		// The journal was lost, or set back, or the disk came along from another host.
		f.Backup = by
		why := "by the mark on it, of which the journal does not know"
		if s.mark.Host != b.host {
			why += ", and which another host wrote, or an earlier state folder of this one"
		}
		return is(job.OriginChanged, why)
	case own && s.mark.Backup == known.Backup:
		f.Backup = known
		return resized(is(job.OriginChanged, ""), s, kept)
	case own && kept.Marked:
		f.Backup = by
		return is(job.OriginForeign, fmt.Sprintf("its mark names backup %s, and this host has known backup %s there since: an old disk came back, or the disk was set back", by.Backup, known.Backup))
	case here && (!kept.Marked || own):
		f.Backup = known
		return resized(is(job.OriginChanged, "by the journal alone, since no mark could be kept there"), s, kept)
	case here:
		return is(job.OriginForeign, fmt.Sprintf("the mark of backup %s is gone from it (%s)", known.Backup, noMark(s)))
	case marked && !s.mark.At.Same(place(s.root)):
		return is(job.OriginForeign, fmt.Sprintf("it is a copy of a volume that had backup %s", s.mark.Backup))
	case marked && !own:
		return is(job.OriginForeign, "its mark names another instance or volume")
	case journalled:
		return is(job.OriginForeign, fmt.Sprintf("it is not the %s that this host knew at backup %s: the slot was filled anew, or another disk is mounted", kept.Kind, known.Backup))
	case known.Backup != "" && s.presence == job.VolumeContent:
		return is(job.OriginForeign, fmt.Sprintf("backup %s, which this host knew, had no such volume", known.Backup))
	case s.presence == job.VolumeContent:
		return is(job.OriginUnknown, "")
	}
	return f
}

// noMark says why a volume bears no mark that counts.
func noMark(s volumeSight) string {
	if s.markErr != nil {
		return s.markErr.Error()
	}
	return "the one that is there was written elsewhere"
}

// resized looks at the size of an image: the size is a part of the image's identity.
func resized(f job.VolumeFacts, s volumeSight, kept job.Root) job.VolumeFacts {
	if kept.Size != 0 && s.root.Size != 0 && kept.Size != s.root.Size {
		f.Origin, f.Why = job.OriginForeign, fmt.Sprintf("it has %d bytes, and had %d at backup %s", s.root.Size, kept.Size, f.Backup.Backup)
	}
	return f
}

// Look tells of each volume of an instance whether it is there, and from which backup its content
// came. It compares what may have come from a backup with that one.
func (r restores) Look(ctx context.Context, id, tenant string, known job.Content) ([]job.VolumeFacts, error) {
	in := r.a.instances[id]
	if in == nil {
		return nil, fmt.Errorf("instance %q is not in the configuration: %w", id, job.ErrNotFound)
	}
	var all []job.VolumeFacts
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, &r.a.patience, v.Path, "looking at the content", lookTime, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		f := originOf(s, known, belongs{tenant: tenant, instance: id, volume: v.Name, host: r.a.identity.ID})
		if f.Origin == job.OriginChanged {
			if f, err = r.compared(ctx, id, tenant, v.Path, s, known, f); err != nil {
				return nil, err
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// compared tells more of a volume whose content came from a backup.
func (r restores) compared(ctx context.Context, id, tenant, path string, s volumeSight, content job.Content, f job.VolumeFacts) (job.VolumeFacts, error) {
	kept := content.Volumes[f.Volume]
	if f.Backup.Backup != content.Backup || kept.Handle != "" && !place(kept).Same(place(s.root)) {
		kept = job.Root{} // of another tree: a disk came back after the same backup was restored elsewhere
	}
	if f.Kind == job.KindImage {
		if kept.Modified != 0 && kept.Modified == s.root.Modified && kept.Size == s.root.Size {
			f.Origin = job.OriginSame
		}
		return f, nil
	}
	if f.Presence == job.VolumeEmpty && kept.Kind != "" {
		f.Origin = job.OriginSame
		if kept.Entries > 0 {
			f.Origin, f.Why = job.OriginHalf, fmt.Sprintf("it is empty, and backup %s has content of it", f.Backup.Backup)
		}
		return f, nil
	}
	c, err := act(ctx, &r.a.patience, path, "comparing it with its last backup", 2*compareTime, engineTime, func(ctx context.Context) (known.Comparison, error) {
		return r.compare(ctx, id, tenant, path, kept, f)
	})
	switch {
	case noAnswer(err), ctx.Err() != nil:
		return f, fmt.Errorf("volume %q: %w", f.Volume, err)
	case err != nil:
		r.a.log.Warn("a volume can't be compared with its last backup", keyInstance, id, "volume", f.Volume, keyReason, err.Error())
		return f, nil // nobody can prove that nothing changed
	}
	r.a.log.Info("a volume was compared with its last backup", keyInstance, id, "volume", f.Volume, "backup", f.Backup.Backup, "found", c.String())
	return likened(f, believed(s, f, c)), nil
}

// likened gives a volume the origin that a comparison tells.
func likened(f job.VolumeFacts, c known.Comparison) job.VolumeFacts {
	told := func(o job.Origin, what string) job.VolumeFacts {
		f.Origin, f.Why = o, fmt.Sprintf("%s: %s", what, c)
		return f
	}
	switch c.Likeness() {
	case known.LikenessSame:
		f.Origin = job.OriginSame
	case known.LikenessHalf:
		return told(job.OriginHalf, fmt.Sprintf("a large part of backup %s is gone", f.Backup.Backup))
	case known.LikenessOther:
		return told(job.OriginForeign, fmt.Sprintf("hardly any file is the one of backup %s: the slot was filled anew", f.Backup.Backup))
	case known.LikenessOlder:
		return told(job.OriginForeign, fmt.Sprintf("files are from before backup %s: the disk was set back", f.Backup.Backup))
	case known.LikenessNewer, known.LikenessUnknown:
	}
	return f
}

// compare compares with this host's catalogue of the backup, else with the vault's recipe.
func (r restores) compare(ctx context.Context, id, tenant, path string, kept job.Root, f job.VolumeFacts) (known.Comparison, error) {
	soon, cancel := context.WithTimeout(ctx, vaultTime)
	defer cancel()
	opened, err := r.a.vaults.existing(soon, tenant)
	if err != nil {
		return known.Comparison{}, fmt.Errorf("open vault: %w", err)
	}
	c, err := known.Compare(ctx, opened, r.a.catalogues(), id, f.Volume, kept.Catalogue, path, compareTime)
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

// errOtherTenant says that a backup would put one tenant's content into another tenant's vault.
var errOtherTenant = errors.New("it has content of another tenant, which no backup of this tenant may hold")

// ofTenant fails for a volume with content of another tenant: the instance, or the slot, was
// configured for this tenant since.
func (a *Agent) ofTenant(ctx context.Context, in *instance, tenant string) error {
	known, err := a.journal.Content(in.cfg.ID)
	if err != nil {
		return err
	}
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, &a.patience, v.Path, "looking at the content", lookTime, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if noAnswer(err) {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		} else if err != nil {
			continue // reading the volume reports the fault
		}
		f := originOf(s, known, belongs{tenant: tenant, instance: in.cfg.ID, volume: v.Name, host: a.identity.ID})
		if f.Origin == job.OriginTenant {
			return fmt.Errorf("volume %q: %w (%s); move the content away, or, if it is this tenant's all the same, take the mark off with `holdfast volume-mark --remove %s`",
				v.Name, errOtherTenant, f.Why, v.Path)
		}
	}
	return nil
}

// presence tells of each volume of an instance whether it is there, for callers of the API.
func (a *Agent) presence(ctx context.Context, in *instance, limit time.Duration) (all []job.Presence, err error) {
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, &a.patience, v.Path, "looking at the content", limit, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		all = append(all, s.presence)
	}
	return all, nil
}
