package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/tree"
)

// A tree that Put has taken out of its place may hold bytes that no backup has. Such a tree is kept
// aside: it is renamed, in its folder, to a name of its own, and stays there until it is removed by
// that name and by its identity together.

// asidePrefix begins the names of trees that are kept aside. With the job and the volume, which are
// 53 bytes at most, they fit into any folder.
const asidePrefix = ".holdfast-kept-"

// AsideOf names the place beside target for the tree that a job takes out of target.
func AsideOf(target, job, volume string) string {
	return filepath.Join(filepath.Dir(target), asidePrefix+job+"-"+volume)
}

// StageOf names the place beside target where a job builds the tree of a volume, and where the tree
// lies that the new one has replaced, until it is removed or kept aside.
func StageOf(target, job, volume string) string {
	return filepath.Join(filepath.Dir(target), stagePrefix+job+"-"+volume)
}

// notePrefix begins the names of the files that callers keep beside a tree that is kept aside.
const notePrefix = ".holdfast-note-"

// NoteFile names a file of the caller's own beside a stage or a tree that is kept aside: one file
// for the stage and the kept tree of one job and volume. "" where path has neither name.
func NoteFile(path string) string {
	folder, name := filepath.Split(path)
	for _, prefix := range []string{stagePrefix, asidePrefix} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return filepath.Join(folder, notePrefix+rest)
		}
	}
	return ""
}

// Named tells whether the name of a file is a name of a tree that is kept aside, or of a stage.
func Named(name string) (aside, stage bool) {
	return strings.HasPrefix(name, asidePrefix), strings.HasPrefix(name, stagePrefix)
}

// Bounds of a count, each with its reason.
const (
	// measureEntries is some seconds of a walk in memory, and far more than a phone has.
	measureEntries = 2 << 20
	// measureTime is how long a prepare may be late for the sake of figures.
	measureTime = time.Minute
)

// Measure has the figures of a tree.
type Measure struct {
	Files uint64 // regular files; a file with several names counts once
	Bytes uint64 // of the sizes of those files; of an image, the bytes on the disk
	// Entries has all names below the root: 0 only for a folder that is empty.
	Entries uint64
	Newest  time.Time // the latest time of modification of any entry, the root included, UTC
	// Changed is the latest time of change (ctime), which no program sets at will, UTC: of all
	// entries below the root, since a rename of the root changes the root's.
	Changed time.Time
	// Whole says that all of the tree was looked at. Without it the figures are the least there is.
	Whole bool
}

// MeasureTree counts the folder or file at path; zero where nothing is. It follows no
// link, enters no mount, reads no content, and stops at a bound of entries and of time, and at the
// end of ctx.
func MeasureTree(ctx context.Context, path string) (Measure, error) {
	return measureTree(ctx, path, measureEntries, measureTime)
}

// errEnough ends a count at its bound.
var errEnough = errors.New("counted enough")

func measureTree(ctx context.Context, path string, most uint64, limit time.Duration) (m Measure, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return Measure{Whole: true}, nil
	} else if err != nil {
		return Measure{}, &os.PathError{Op: "look at", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return Measure{
			Files: 1, Entries: 1, Bytes: min(uint64(st.Blocks)*512, uint64(st.Size)), Whole: true,
			Newest: time.Unix(st.Mtim.Unix()).UTC(),
		}, nil
	}
	root, err := tree.OpenRoot(path)
	if err != nil {
		return Measure{}, err
	}
	defer root.Close() // only read
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errEnough)
	defer cancel()
	m.Whole = true
	o := tree.WalkOptions{NoXattrs: true, Warn: func(tree.Warning) { m.Whole = false }}
	err = root.Walk(ctx, o, func(e *tree.Entry) error {
		m.add(e)
		if m.Entries >= most {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		m.Whole, err = false, nil
	}
	return m, err
}

// add counts one entry of a walk.
func (m *Measure) add(e *tree.Entry) {
	if e.Path != "" {
		m.Entries++
	}
	if e.HasLinkTo { // its first name was counted
		return
	}
	if e.Kind == tree.File {
		m.Files++
		m.Bytes += uint64(max(0, e.Size))
	}
	if t := time.Unix(e.Mtime.Sec, int64(e.Mtime.Nsec)).UTC(); t.After(m.Newest) {
		m.Newest = t
	}
	if t := time.Unix(e.Ctime.Sec, int64(e.Ctime.Nsec)).UTC(); e.Path != "" && t.After(m.Changed) {
		m.Changed = t
	}
}

// Same tells for certain that a tree did not change between two counts: false also where one
// of the counts did not see all. Every write, rename and removal shows in a time of change.
func (m Measure) Same(other Measure) bool { return m.Whole && other.Whole && m == other }

// ErrNotKept says that a tree which is kept aside is not where it should be.
var ErrNotKept = errors.New("the tree that was kept aside is not there")

// SetAside renames the tree Old from Stage to Aside, in one step, durable when it returns nil.
// Done twice it is no error. It moves nothing else than that very tree, and over nothing.
func (p Place) SetAside() error { return p.takeTo(p.Stage) }

// TakeOut renames the tree Old from Target to Aside, as SetAside does from Stage.
func (p Place) TakeOut() error { return p.takeTo(p.Target) }

func (p Place) takeTo(from string) error {
	if err := p.checkAside(); err != nil {
		return err
	}
	at, err := Identify(p.Aside)
	switch {
	case err != nil:
		return err
	case at == p.Old:
		return dropTwin(p.Aside, from)
	case at != "":
		return fmt.Errorf("%w: something else lies at %s", ErrPlace, p.Aside)
	}
	return p.rename(from, p.Aside)
}

// rename moves the tree Old, and nothing else, to a name that nothing has.
func (p Place) rename(from, to string) error {
	if at, err := Identify(from); err != nil {
		return err
	} else if at != p.Old {
		return fmt.Errorf("%w: %s is not the tree that was there", ErrNotKept, from)
	}
	return tree.Movable(from, func() error {
		if err := moveNew(from, to); err != nil {
			return &os.LinkError{Op: "keep aside", Old: from, New: to, Err: err}
		}
		return syncFolder(filepath.Dir(to))
	})
}

// checkAside fails for a place that is not one of this package's beside its target.
func (p Place) checkAside() error {
	if p.Old == "" || !strings.HasPrefix(filepath.Base(p.Aside), asidePrefix) || filepath.Dir(p.Aside) != filepath.Dir(p.Target) {
		return fmt.Errorf("%w: %q is no place for a tree that is kept aside", ErrPlace, p.Aside)
	}
	return nil
}

// Lies tells where the tree Old lies: at Aside, or still at Stage; "" where it is at neither.
func (p Place) Lies() (string, error) {
	for _, path := range []string{p.Aside, p.Stage} {
		if p.Old == "" || path == "" {
			continue
		}
		at, err := Identify(path)
		if err != nil {
			return "", err
		}
		if at == p.Old {
			return path, nil
		}
	}
	return "", nil
}

// Return renames the tree Old from Aside back to Target, where nothing is, in one step. Done twice
// it is no error.
func (p Place) Return() error {
	if err := p.checkAside(); err != nil {
		return err
	}
	at, err := Identify(p.Target)
	switch {
	case err != nil:
		return err
	case at == p.Old:
		return dropTwin(p.Target, p.Aside)
	case at != "":
		return fmt.Errorf("%w: something else is at %s by now; move it away", ErrPlace, p.Target)
	}
	return p.rename(p.Aside, p.Target)
}

// discardEmpty removes the empty folder at Stage. A folder that is not empty any more stays.
func (p Place) discardEmpty() error {
	err := tree.Movable(p.Stage, func() error { return unix.Rmdir(p.Stage) })
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %s was an empty folder and is not empty any more; look at its content, and remove it by hand", ErrPlace, p.Stage)
	case err != nil:
		return &os.PathError{Op: "remove", Path: p.Stage, Err: err}
	}
	return syncFolder(filepath.Dir(p.Stage))
}
