package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Found is a snapshot of this program, of any host and job, in a place where snapshots of
// a volume are kept. Unlike the snapshots that Leftovers lists, it may belong to another
// host id, as after a change of the host's id, and it may have been made writable since.
type Found struct {
	Ref
	Host     string    // by its name
	Job      string    // by its name
	Name     string    // of the volume, by its name
	Made     time.Time // zero where that is not known
	Writable bool      // somebody made it so: it is of no use as a view any more
}

// Find lists them for the volume and the folder of the request; its other fields are not looked at.
func Find(ctx context.Context, req Request) ([]Found, error) {
	real, err := filepath.EvalSymlinks(req.Volume)
	// the folder beside a volume that is gone is known by the path
	if errors.Is(err, fs.ErrNotExist) {
		if real, err = filepath.EvalSymlinks(filepath.Dir(req.Volume)); err == nil {
			real = filepath.Join(real, filepath.Base(req.Volume))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, err)
	}
	homes := []string{filepath.Dir(real)}
	if req.Dir != "" {
		home, err := snapshotHome(real, req.Dir)
		if err != nil {
			return nil, err
		}
		homes = append(homes, home)
	}
	var list []Found
	for _, home := range slices.Compact(homes) {
		found, err := findIn(filepath.Join(home, SnapshotFolder), req.Volume)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	logical, err := findLogical(ctx, req.Volume)
	return append(list, logical...), err
}

func findIn(folder, volume string) (list []Found, err error) {
	dir, err := openOwned(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", folder, err)
	}
	slices.Sort(names)
	for _, name := range names {
		f := Found{Ref: Ref{Path: filepath.Join(folder, name), Volume: volume}}
		var ok bool
		if f.Host, f.Job, f.Name, ok = parseName(name); !ok {
			continue
		}
		if isClone(dir, name) == nil {
			f.Provider = NameReflink
			if st, err := os.Lstat(f.Path); err == nil {
				f.Made = st.ModTime()
			}
		} else if info, writable, ok := snapshotInfo(dir, name); ok {
			f.Provider, f.Writable = NameBtrfs, writable
			// ctime, otime, stime, rtime
			f.Made = time.Unix(int64(info.times[1].sec), int64(info.times[1].nsec))
		} else {
			continue
		}
		list = append(list, f)
	}
	return list, nil
}

// snapshotInfo tells of a snapshot of a subvolume, read-only or not; false for anything else.
func snapshotInfo(dir *os.File, name string) (info *subvolInfo, writable, ok bool) {
	f, err := openFolderIn(dir, name)
	if err != nil {
		return nil, false, false
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Ino != subvolIno {
		return nil, false, false
	}
	info, err = getSubvolInfo(f)
	readOnly, rerr := isReadOnly(f)
	return info, !readOnly, errors.Join(err, rerr) == nil && info.parentUUID != [16]byte{}
}

// findLogical lists the snapshots of logical volumes in the volume's group.
func findLogical(ctx context.Context, volume string) (list []Found, err error) {
	var st unix.Stat_t
	if err := unix.Stat(volume, &st); errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	group, _, ok := lvmUnder(&st)
	if !ok {
		return nil, nil
	}
	volumes, err := listVolumes(ctx, group)
	if err != nil {
		return nil, err
	}
	for i := range volumes {
		name, ok := volumes[i].ours()
		if !ok {
			continue
		}
		f := Found{Ref: Ref{Provider: lvm{classic: !volumes[i].thin()}.Name(), Path: lvmPath(group, name), Volume: volume}}
		f.Host, f.Job, f.Name, _ = parseName(name)
		list = append(list, f)
	}
	return list, nil
}

// Drop removes a snapshot that Find has listed, also a snapshot that was made writable. The
// caller makes sure by the journal of the snapshot's host that no job needs it any more.
func Drop(ctx context.Context, f Found) error {
	provider, err := ByName(f.Provider)
	if err != nil {
		return err
	}
	if !f.Writable {
		return provider.Remove(ctx, f.Ref)
	}
	fail := func(err error) error { return fmt.Errorf("remove %s: %w", f.Path, err) }
	dir, name, err := openHolder("remove", f.Ref)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, writable, ok := snapshotInfo(dir, name); !ok || !writable {
		return fail(ErrForeign)
	}
	if err := removeNested(dir, name); err != nil {
		return fail(err)
	}
	if gone, err := DestroyFolder(f.Path); err != nil || !gone {
		return fail(errors.Join(err, fmt.Errorf("the kernel does not remove it (gone: %v)", gone)))
	}
	_ = unix.Rmdir(filepath.Dir(f.Path)) // others may use it
	return nil
}
