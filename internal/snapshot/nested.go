package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// Subvolumes inside a volume are content of it, and any user can make them. A snapshot of
// the volume's subvolume has an empty folder (a stub) in the place of each inner
// subvolume. So each inner subvolume gets a snapshot of its own, beside the volume's: in
// the folder NAME.nested, under its number, with a file that maps numbers to paths. The
// reader of the view puts the inner snapshots in the places of the stubs (Nested). The
// volume's snapshot is made first: the time of a view is never later than anything in it.

const (
	nestedSuffix = ".nested"
	// a list of paths below the volume, as JSON; written last, so that it says that all are there
	nestedPaths = "paths"
)

// nestedTries is how often a view is begun anew because subvolumes came or went while it was made.
const nestedTries = 5

// Nested tells where the content of the stubs in a view is, by their paths below the
// view's root. It is empty where a view has none, and for a volume that is read in place.
func Nested(ref Ref) (map[string]string, error) {
	if ref.Provider != NameBtrfs {
		return nil, nil
	}
	folder := ref.Path + nestedSuffix
	content, err := os.ReadFile(filepath.Join(folder, nestedPaths))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var paths [][]byte // names need not be UTF-8
	if err == nil {
		err = json.Unmarshal(content, &paths)
	}
	if err != nil {
		return nil, fmt.Errorf("subvolumes inside of %s: %w", ref.Path, err)
	}
	at := make(map[string]string, len(paths))
	for i, path := range paths {
		at[string(path)] = filepath.Join(folder, strconv.Itoa(i))
	}
	return at, nil
}

// subvolumes lists the subvolumes below the volume, also the ones in one another: id by
// path below the volume. The snapshots that this program made beside other volumes (in
// a folder SnapshotFolder) are no content, and are left out.
func (at *place) subvolumes(root *os.File) (map[string]uint64, error) {
	found := map[string]uint64{}
	if at.image {
		return found, nil
	}
	return found, at.subvolumesIn(root, "", found)
}

// subvolumesIn adds the subvolumes below the subvolume whose root is open; inside is
// the path of that root below at.root.
func (at *place) subvolumesIn(root *os.File, inside string, found map[string]uint64) error {
	dirs, err := childFolders(root)
	if err != nil {
		return fmt.Errorf("volume %s: list the subvolumes inside: %w", at.volume, err)
	}
	for _, d := range dirs {
		// Of a subvolume that is wider than the volume, only the part in the volume counts.
		in := filepath.Join(at.root, inside, d)
		if !within(at.real, in) || filepath.Base(in) == SnapshotFolder && !at.ownToo {
			continue
		}
		dir, err := openInside(root, d)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("volume %s: look for subvolumes in %s: %w", at.volume, in, err)
		}
		names, err := dir.Readdirnames(-1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			dir.Close()
			return fmt.Errorf("volume %s: look for subvolumes in %s: %w", at.volume, in, err)
		}
		for _, name := range names {
			if err := at.addSubvolume(dir, name, filepath.Join(inside, d, name), found); err != nil {
				dir.Close()
				return err
			}
		}
		dir.Close()
	}
	return nil
}

// addSubvolume adds name in dir, and the subvolumes nested in it, if name is a subvolume.
func (at *place) addSubvolume(dir *os.File, name, inside string, found map[string]uint64) error {
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Ino != subvolIno {
		return nil
	}
	sub, err := openInside(dir, name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EXDEV): // removed meanwhile; or mounted over, which nested tells
		return nil
	case err != nil:
		return fmt.Errorf("volume %s: open the subvolume %s: %w", at.volume, filepath.Join(at.root, inside), err)
	}
	defer sub.Close()
	info, err := getSubvolInfo(sub)
	if err != nil {
		return fmt.Errorf("volume %s: facts of the subvolume %s: %w", at.volume, filepath.Join(at.root, inside), err)
	}
	path, err := filepath.Rel(at.real, filepath.Join(at.root, inside))
	if err != nil {
		return err
	}
	found[path] = info.treeid
	return at.subvolumesIn(sub, inside, found)
}

// openInside opens a folder below dir. A link or mount that a
// tenant has put on the way leads nowhere.
func openInside(dir *os.File, path string) (*os.File, error) {
	if path == "" {
		path = "."
	}
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir.Name(), path), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), path)), nil
}

// errMoved says that a subvolume came, went or was moved while a view was made.
var errMoved = errors.New("subvolumes inside the volume kept changing while the snapshot was made")

// snapNested makes snapshots of the subvolumes inside the volume, for the view name in the
// snapshot folder dir. root is the open root of the subvolume that contains the volume.
func (at *place) snapNested(dir, root *os.File, name string, subs map[string]uint64) error {
	if len(subs) == 0 {
		return nil
	}
	if err := unix.Mkdirat(int(dir.Fd()), name+nestedSuffix, 0o700); err != nil {
		return fmt.Errorf("folder for snapshots of the subvolumes inside: %w", err)
	}
	into, err := openFolderIn(dir, name+nestedSuffix)
	if err != nil {
		return err
	}
	defer into.Close()
	volume, err := openInside(root, at.rel)
	if err != nil {
		return err
	}
	defer volume.Close()
	list := slices.Sorted(maps.Keys(subs))
	paths := make([][]byte, len(list))
	for i, path := range list {
		paths[i] = []byte(path)
		if err := snapOne(into, volume, path, subs[path], strconv.Itoa(i)); err != nil {
			return fmt.Errorf("snapshot of the subvolume %s inside: %w", filepath.Join(at.real, path), err)
		}
	}
	content, err := json.Marshal(paths)
	if err != nil {
		return err
	}
	return durable.Publish(filepath.Join(at.folder, name+nestedSuffix, nestedPaths), content, 0o600)
}

func snapOne(into, volume *os.File, path string, id uint64, name string) error {
	sub, err := openInside(volume, path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
		return errMoved
	}
	if err != nil {
		return err
	}
	defer sub.Close()
	if info, err := getSubvolInfo(sub); err != nil {
		return err
	} else if info.treeid != id {
		return errMoved
	}
	if err := snapCreate(into, sub, name); err != nil {
		return explain(err)
	}
	return nil
}

// removeNested removes the snapshots of the subvolumes inside of the view
// name in dir. Anything else in their folder is left, with an error.
func removeNested(dir *os.File, name string) error {
	from, err := openFolderIn(dir, name+nestedSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	names, err := from.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The list first: it says that all are there.
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	for _, n := range names {
		if _, err := strconv.Atoi(n); err != nil {
			err = unix.Unlinkat(int(from.Fd()), n, 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", n, err)
			}
			continue
		}
		err := isSnapshot(from, n)
		if err == nil {
			err = snapDestroy(from, n)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("snapshot %s of a subvolume inside: %w", n, err)
		}
	}
	if err := unix.Unlinkat(int(dir.Fd()), name+nestedSuffix, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// nestedStand tells whether the snapshots of the subvolumes inside of
// a view are all there. A view without a folder for them has none.
func nestedStand(dir *os.File, ref Ref) (bool, error) {
	folder := filepath.Base(ref.Path) + nestedSuffix
	from, err := openFolderIn(dir, folder)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer from.Close()
	at, err := Nested(ref)
	if err != nil || len(at) == 0 {
		return false, err
	}
	for _, path := range at {
		if err := isSnapshot(from, filepath.Base(path)); errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrForeign) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

// holdsSubvolumes tells whether there are subvolumes inside of a volume on btrfs.
func holdsSubvolumes(volume string) (bool, error) {
	at, err := locate(volume, "")
	if errors.Is(err, ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	root, err := os.Open(at.root)
	if err != nil {
		return false, fmt.Errorf("volume %s: %w", volume, err)
	}
	defer root.Close()
	subs, err := at.subvolumes(root)
	return len(subs) > 0, err
}
