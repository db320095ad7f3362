package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/backup/known"
	"holdfast/internal/evidence"
	"holdfast/internal/origin"
)

// volumeSight is the content at the path of a volume. Nothing of it needs the store.
type volumeSight struct {
	presence prepare.Presence
	root     model.Root // Kind, Size, Modified, FileSystem and Handle; of a missing volume its folder's FileSystem
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
		return volumeSight{presence: prepare.VolumeMissing, root: model.Root{FileSystem: evidence.FileSystemOf(filepath.Dir(path))}, markErr: origin.ErrNoMark}, nil
	} else if err != nil {
		return volumeSight{}, err
	}
	s := volumeSight{presence: prepare.VolumeContent, root: model.Root{Kind: model.KindImage}}
	at, err := origin.PlaceOf(path)
	if err != nil {
		return volumeSight{}, err
	}
	s.root.FileSystem, s.root.Handle = at.FileSystem, at.Root
	switch {
	case info.Mode()&fs.ModeDevice != 0: // the node in /dev is another one after a reboot
		s.root.Handle = evidence.DeviceIdentity(path)
	case info.IsDir():
		s.root.Kind = model.KindFolder
		empty, err := known.Empty(ctx, path)
		if err != nil {
			return volumeSight{}, err
		}
		if empty {
			s.presence = prepare.VolumeEmpty
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
func place(r model.Root) origin.Place { return origin.Place{FileSystem: r.FileSystem, Root: r.Handle} }

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
func originOf(s volumeSight, known model.Content, b belongs) prepare.VolumeFacts {
	f := prepare.VolumeFacts{Volume: b.volume, Presence: s.presence, Kind: s.root.Kind}
	kept, journalled := known.Volumes[b.volume]
	f.Elsewhere = s.presence != prepare.VolumeContent && (known.Tenant == "" || known.Tenant == b.tenant) && otherDisk(kept, s.root)
	if s.presence == prepare.VolumeMissing {
		return f
	}
	// Of a device that tells nothing of itself, the journal's word has to do.
	here := journalled && (place(kept).Same(place(s.root)) || kept.Handle == "" && s.root.Handle == "" && kept.Kind == s.root.Kind)
	marked := s.markErr == nil
	own := marked && s.mark.At.Same(place(s.root)) && s.mark.Tenant == b.tenant && s.mark.Instance == b.instance && s.mark.Volume == b.volume
	is := func(o prepare.Origin, why string) prepare.VolumeFacts {
		if s.presence == prepare.VolumeEmpty && !own && !here && kept.Kind != "" && kept.Entries == 0 {
			return f // an empty folder in the place of an empty one: the newest backup decides
		}
		f.Origin, f.Why = o, why
		return f
	}
	if s.presence == prepare.VolumeContent {
		switch {
		case marked && s.mark.Tenant != b.tenant:
			return is(prepare.OriginTenant, "its mark names another tenant")
		case here && !kept.Marked && known.Tenant != "" && known.Tenant != b.tenant:
			// Where an operator took a mark off, the journal says nothing of the tenant.
			return is(prepare.OriginTenant, "the journal knows it as a volume of another tenant")
		}
	}
	if known.Tenant != "" && known.Tenant != b.tenant {
		known, kept, journalled, here = model.Content{}, model.Root{}, false, false
	}
	by := model.Content{Backup: s.mark.Backup, Seq: s.mark.Seq, Vault: s.mark.Vault, Tenant: s.mark.Tenant}
	switch {
	case journalled && kept.Kind != s.root.Kind:
		return is(prepare.OriginForeign, fmt.Sprintf("it was a %s at backup %s, and is a %s", kept.Kind, known.Backup, s.root.Kind))
	case own && (known.Backup == "" || s.mark.Seq > known.Seq):
		// The journal was lost, or set back, or the disk came along from another host.
		f.Backup = by
		why := "by the mark on it, of which the journal does not know"
		if s.mark.Host != b.host {
			why += ", and which another host wrote, or an earlier state folder of this one"
		}
		return is(prepare.OriginChanged, why)
	case own && s.mark.Backup == known.Backup:
		f.Backup = known
		return resized(is(prepare.OriginChanged, ""), s, kept)
	case own && kept.Marked:
		f.Backup = by
		return is(prepare.OriginForeign, fmt.Sprintf("its mark names backup %s, and this host has known backup %s there since: an old disk came back, or the disk was set back", by.Backup, known.Backup))
	case here && (!kept.Marked || own):
		f.Backup = known
		return resized(is(prepare.OriginChanged, "by the journal alone, since no mark could be kept there"), s, kept)
	case here:
		return is(prepare.OriginForeign, fmt.Sprintf("the mark of backup %s is gone from it (%s)", known.Backup, noMark(s)))
	case marked && !s.mark.At.Same(place(s.root)):
		return is(prepare.OriginForeign, fmt.Sprintf("it is a copy of a volume that had backup %s", s.mark.Backup))
	case marked && !own:
		return is(prepare.OriginForeign, "its mark names another instance or volume")
	case journalled:
		return is(prepare.OriginForeign, fmt.Sprintf("it is not the %s that this host knew at backup %s: the slot was filled anew, or another disk is mounted", kept.Kind, known.Backup))
	case known.Backup != "" && s.presence == prepare.VolumeContent:
		return is(prepare.OriginForeign, fmt.Sprintf("backup %s, which this host knew, had no such volume", known.Backup))
	case s.presence == prepare.VolumeContent:
		return is(prepare.OriginUnknown, "")
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
func resized(f prepare.VolumeFacts, s volumeSight, kept model.Root) prepare.VolumeFacts {
	if kept.Size != 0 && s.root.Size != 0 && kept.Size != s.root.Size {
		f.Origin, f.Why = prepare.OriginForeign, fmt.Sprintf("it has %d bytes, and had %d at backup %s", s.root.Size, kept.Size, f.Backup.Backup)
	}
	return f
}
