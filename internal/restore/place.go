package restore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/evidence"
	"holdfast/internal/location"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
)

// A Place is where a volume belongs on this host, and where its tree is
// built before it gets there: beside it, so that one rename puts it into
// place, also over a volume that is there. It is plain data for a journal.
type Place struct {
	Target string // absolute, without links
	Stage  string // beside Target; not there until a restore to it is done, and after Discard
	// Tree tells the restored tree from others, also after it was renamed and after a
	// reboot. It is known once the tree is complete (see Identify); until then it is empty.
	Tree string
	// Old tells the tree that Put has taken out of Target, likewise; empty until that is
	// known, and where nothing was. Aside is where that tree is kept (see AsideOf).
	Old   string
	Aside string
	// Empty says that Old was an empty folder, which Discard removes only while it still is.
	Empty bool
}

// stagePrefix begins the names of stages. With the job and the
// volume, which are 53 bytes at most, they fit into any folder.
const stagePrefix = ".holdfast-prepare-"

// ErrPlace says that a volume can't be put where it belongs, as things are there.
var ErrPlace = errors.New("volume can't be restored to its place")

// PlaceOf tells where a volume is restored to. It changes nothing. The job and the volume's name
// tell the stage from the stages of other restores. The error wraps ErrPlace when target has a
// link in it or lies below a folder that others than root can write to (see location.Strict),
// when the folder that holds target is missing, when target is a mount point or has one below
// (nothing can be renamed over those), or is something else than a folder or a file.
func PlaceOf(target, job, volume string) (Place, error) {
	no := func(format string, args ...any) (Place, error) {
		return Place{}, fmt.Errorf("%w: %s: %s", ErrPlace, target, fmt.Sprintf(format, args...))
	}
	at, err := location.Strict(target)
	if errors.Is(err, location.ErrUnsafe) {
		return no("%v", err)
	} else if err != nil {
		return Place{}, err
	}
	real := at.Path
	if _, err := os.Lstat(filepath.Dir(real)); errors.Is(err, fs.ErrNotExist) {
		return no("the folder that holds it does not exist")
	} else if err != nil {
		return Place{}, err
	}
	info, err := os.Lstat(real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Place{}, err
	case info.Mode()&fs.ModeDevice != 0:
		return no("it is a device, which can't be put into place in one step; restore onto it with the command")
	case !info.IsDir() && !info.Mode().IsRegular():
		return no("it is neither a folder nor a file")
	}
	mounts, err := snapshot.Mounts(real)
	if err != nil {
		return Place{}, err
	}
	if len(mounts) > 0 && mounts[0] == real {
		return no("it is a mount point, over which no folder can be renamed; make the volume a folder inside of what is mounted")
	} else if len(mounts) > 0 {
		return no("%s is mounted inside of it", mounts[0])
	}
	return Place{Target: real, Stage: StageOf(real, job, volume)}, nil
}

// Holds tells whether something is at the path, of which links are
// followed: a folder with content, or anything else than a folder.
func Holds(path string) (bool, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	err := checkDest(path)
	if errors.Is(err, ErrTargetExists) {
		return true, nil
	}
	if _, perr := os.Stat(filepath.Dir(path)); errors.Is(perr, fs.ErrNotExist) {
		return false, nil
	}
	return false, err
}

// Identify is evidence.Identify: it tells the restored tree from others.
func Identify(path string) (string, error) { return evidence.Identify(path) }

// Placed tells whether the restored tree is at the target.
func (p Place) Placed() (bool, error) {
	at, err := Identify(p.Target)
	return err == nil && p.Tree != "" && at == p.Tree, err
}

// Put puts the restored tree into its place, in one step, durable when it returns nil.
// The old tree is at Stage afterwards. Done twice it is no error; Placed tells whether
// an error came before it moved. A crash in the middle may leave either root without
// its project id, or without being immutable or append only (see tree.Movable).
func (p Place) Put() error {
	if in, err := p.Placed(); err != nil {
		return err
	} else if in {
		return dropTwin(p.Target, p.Stage)
	}
	if at, err := Identify(p.Stage); err != nil {
		return err
	} else if p.Tree == "" || at != p.Tree {
		return fmt.Errorf("%w: %s is not the tree that was restored", ErrPlace, p.Stage)
	}
	return p.swap(p.Stage, p.Target)
}

// Back takes a tree that Put has put into its place out of it again, and brings the old tree
// back. It is for a Place of which Discard was not called since. Done twice it is no error.
func (p Place) Back() error {
	if in, err := p.Placed(); !in || err != nil {
		return err
	}
	return p.swap(p.Target, p.Stage)
}

// swap renames from to to; the tree of to is at from
// then. The roots keep the flags that would forbid it.
func (p Place) swap(from, to string) error {
	return tree.Movable(from, func() error {
		return tree.Movable(to, func() error { return swapFree(from, to) })
	})
}

func swapFree(from, to string) error {
	err := renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		// Nothing is there, or the file system can't exchange two.
		err = moveNew(from, to)
	}
	switch {
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %s: its file system can't exchange two folders or files in one step; move away what is there", ErrPlace, to)
	case err != nil:
		return &os.LinkError{Op: "put into place", Old: from, New: to, Err: err}
	}
	return syncFolder(filepath.Dir(to))
}

// Discard removes the tree at Stage, and the remains of an interrupted restore beside it: the new
// tree before Put, the old one after it. Nothing there is no error. It must not be called before
// it is known which of the two is to stay. Where Old is known it removes that tree and no other
// one, and else where Tree is. The place may be the one in which Old is kept aside, as Stage.
func (p Place) Discard() error {
	holder, name := filepath.Split(p.Stage)
	if !strings.HasPrefix(name, stagePrefix) && !(p.Old != "" && strings.HasPrefix(name, asidePrefix)) {
		return fmt.Errorf("%s is no stage of a restore", p.Stage)
	}
	if want := cmp.Or(p.Old, p.Tree); want != "" {
		if at, err := Identify(p.Stage); err != nil {
			return err
		} else if at != "" && at != want {
			return fmt.Errorf("%w: %s is not the tree that was to be removed; look at it, and remove it by hand if nobody needs it", ErrPlace, p.Stage)
		}
	}
	if p.Empty {
		return p.discardEmpty()
	}
	entries, err := os.ReadDir(holder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var errs []error
	removed := false
	for _, e := range entries {
		if e.Name() == name || strings.HasPrefix(e.Name(), "."+name+workInfix) {
			removed = true
			errs = append(errs, removeTree(filepath.Join(holder, e.Name())))
		}
	}
	if removed && errors.Join(errs...) == nil {
		errs = append(errs, syncFolder(holder))
	}
	return errors.Join(errs...)
}

// removeTree removes a folder and all that it holds; a subvolume in
// one step. Nothing that is mounted in it is touched.
func removeTree(path string) error {
	if mounts, err := snapshot.Mounts(path); err != nil {
		return err
	} else if len(mounts) > 0 {
		return fmt.Errorf("%s can't be removed: %s is mounted", path, mounts[0])
	}
	// the first is where an interrupted restore builds
	for _, p := range []string{filepath.Join(path, "volume"), path} {
		if _, err := snapshot.DestroyFolder(p); err != nil {
			return err
		}
	}
	return tree.Remove(path)
}
