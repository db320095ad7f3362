package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The snapshot folder is shared by the providers whose snapshots have a name in the
// file system. Each provider recognizes its own snapshots by a function.

// isOurs is nil when name in dir is a snapshot of the provider's making; else it is
// fs.ErrNotExist, or ErrForeign with a description of the object.
type isOurs func(dir *os.File, name string) error

// openFolder opens the snapshot folder, and makes it if asked to. It must be ours and closed to
// others: a tenant who may write beside the volume could else put a folder or link of theirs there.
func openFolder(folder string, create bool) (*os.File, error) {
	if create {
		if err := unix.Mkdir(folder, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make %s: %w", folder, err)
		}
	}
	return openOwned(folder)
}

func openOwned(folder string) (*os.File, error) {
	f, err := os.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat %s: %w", folder, err)
	}
	if int(st.Uid) != os.Geteuid() {
		f.Close()
		return nil, fmt.Errorf("folder %s: %w: it belongs to user %d", folder, ErrForeign, st.Uid)
	}
	if st.Mode&0o077 != 0 {
		if err := f.Chmod(0o700); err != nil {
			f.Close()
			return nil, fmt.Errorf("close %s to others: %w", folder, err)
		}
	}
	return f, nil
}

// checkFolder is nil where the snapshot folder is not there yet, or can be used.
func checkFolder(folder string) error {
	var st unix.Stat_t
	err := unix.Lstat(folder, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrUnsupported, folder, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%w: %s is in the way: %w: it is no folder; remove it, or set snapshot_dir", ErrUnsupported, folder, ErrForeign)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%w: folder %s: %w: it belongs to user %d; remove it, or set snapshot_dir", ErrUnsupported, folder, ErrForeign, st.Uid)
	}
	// Another job may have removed the empty folder since the look
	// above, which leaves the way free.
	if err := unix.Faccessat(unix.AT_FDCWD, folder, unix.W_OK, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return unsupported("%s, where the snapshots go, can't be written: %v", folder, err)
	}
	return nil
}

// makeIn makes the snapshot folder and has create make a snapshot in it. Another
// job may remove the empty folder between the two steps, so it begins again then;
// only losing that race many times in a row is an error. After a failure nothing
// is left, not even the folder, unless others use it. EEXIST becomes ErrExists.
func makeIn(folder string, create func(dir *os.File) error) error {
	var err error
	for range 100 {
		var dir *os.File
		if dir, err = openFolder(folder, true); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		err = create(dir)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) {
			_ = unix.Rmdir(folder)
		}
		dir.Close()
		switch {
		case errors.Is(err, unix.EEXIST):
			return ErrExists
		case !errors.Is(err, unix.ENOENT):
			return err
		}
	}
	return err
}

func checkRef(ctx context.Context, verb, provider string, ref Ref) error {
	if ref.Provider != provider || !filepath.IsAbs(ref.Path) || filepath.Clean(ref.Path) != ref.Path {
		return fmt.Errorf("%s %q: %w: not a reference of provider %s", verb, ref.Path, ErrUsage, provider)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", verb, ref.Path, context.Cause(ctx))
	}
	return nil
}

// openHolder opens the snapshot folder that ref lies in and gives ref's name there.
func openHolder(verb string, ref Ref) (*os.File, string, error) {
	folder, name := filepath.Dir(ref.Path), filepath.Base(ref.Path)
	if _, _, _, ok := parseName(name); !ok || filepath.Base(folder) != SnapshotFolder {
		return nil, "", fmt.Errorf("%s %s: %w: its name is not one that is given here", verb, ref.Path, ErrForeign)
	}
	dir, err := openOwned(folder)
	if err != nil {
		return nil, "", fmt.Errorf("%s %s: %w", verb, ref.Path, err)
	}
	return dir, name, nil
}

func standsIn(verb string, ref Ref, ours isOurs) (bool, error) {
	dir, name, err := openHolder(verb, ref)
	if err == nil {
		defer dir.Close()
		if err = ours(dir, name); err == nil {
			return true, nil
		}
		err = fmt.Errorf("%s %s: %w", verb, ref.Path, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return false, err
}

func removeIn(ref Ref, ours isOurs, remove func(dir *os.File, name string) error) error {
	dir, name, err := openHolder("remove", ref)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err = ours(dir, name); err == nil {
		err = remove(dir, name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", ref.Path, err)
	}
	folder := filepath.Dir(ref.Path)
	// Not empty or just removed by another job: both are fine.
	if err := unix.Rmdir(folder); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove the empty folder %s: %w", folder, err)
	}
	return nil
}

// leftoversIn lists the provider's snapshots in the folder for req. It works also
// when the volume itself is gone: the folder beside it is known by the path.
func leftoversIn(ctx context.Context, req Request, provider string, ours isOurs) ([]Ref, error) {
	if !validPart(req.Host) {
		return nil, fmt.Errorf("host id %q: %w: 1 to %d characters of [A-Za-z0-9._-]", req.Host, ErrUsage, maxPart)
	}
	if !filepath.IsAbs(req.Volume) {
		return nil, fmt.Errorf("volume %q: %w: not an absolute path", req.Volume, ErrUsage)
	}
	fail := func(err error) ([]Ref, error) {
		return nil, fmt.Errorf("snapshots of %s: %w", req.Volume, err)
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	real, err := filepath.EvalSymlinks(req.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		var parent string
		if parent, err = filepath.EvalSymlinks(filepath.Dir(req.Volume)); err == nil {
			real = filepath.Join(parent, filepath.Base(req.Volume))
		}
	}
	var home string
	if err == nil {
		home, err = snapshotHome(real, req.Dir)
	}
	var dir *os.File
	if err == nil {
		dir, err = openOwned(filepath.Join(home, SnapshotFolder))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // another job has removed the empty folder since it was opened
	}
	if err != nil {
		return fail(err)
	}
	if len(names) == 0 { // a crash came between a snapshot and its folder
		_ = unix.Rmdir(dir.Name()) // somebody may make one there just now
	}
	var refs []Ref
	for i, name := range names {
		if names[i] = strings.TrimSuffix(name, nestedSuffix); slices.Contains(names[:i], names[i]) {
			continue // the view itself
		}
		name = names[i]
		host, _, _, ok := parseName(name)
		if !ok || host != req.Host {
			continue
		}
		// An object that may not be a snapshot of ours stays: a leak is found by its
		// name, but a wrong removal can't be undone.
		if ours(dir, name) == nil {
			refs = append(refs, Ref{Provider: provider, Path: filepath.Join(home, SnapshotFolder, name), Volume: req.Volume})
		}
	}
	return refs, nil
}
