package tree

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// storage are the flags that describe the storage of content, which must be set before
// the content is written, and the flags that only FS_IOC_SETFLAGS sets.
const storage = AllFlags &^ extended &^ Casefold

// plain makes the flags of fd, an open file or folder at path, equal to want as far as
// they are in mask.
func (s *setter) plain(fd int, path string, want, mask Flags) error {
	want &= mask
	have, err := getFlags(fd)
	if err == nil && Flags(have)&mask != want {
		if err = setFlags(fd, have&^uint32(mask)|uint32(want)); err != nil {
			oneByOne(fd, want)
		}
	}
	now, _ := getFlags(fd) // 0 where the file system knows none
	return s.differ(path, Flags(now)&mask^want, err)
}

// oneByOne sets each of the flags that the file system knows.
func oneByOne(fd int, want Flags) {
	for _, n := range flagNames {
		have, err := getFlags(fd)
		if err == nil && want&n.flag != 0 {
			_ = setFlags(fd, have|uint32(n.flag)) // the caller checks the result
		}
	}
}

// extended gives fd, the open entry e at path, its extended flags
// and project id. After that it may be immutable.
func (s *setter) extended(fd int, path string, e *Entry) error {
	if e.Flags&extended == 0 && e.Project == 0 {
		return nil // nothing is inherited, see prepare
	}
	return s.putExtended(fd, e.Kind == File || e.Kind == Dir, path, e.Flags&extended, e.Project)
}

func (s *setter) putExtended(fd int, opened bool, path string, flags Flags, project uint32) error {
	have, err := getExtended(fd, opened)
	if err == nil {
		want := have
		want.set(flags)
		want.projid = project
		if err = setExtended(fd, opened, want); err != nil {
			extendedOneByOne(fd, opened, flags, project)
		}
	}
	now, gerr := getExtended(fd, opened)
	if gerr != nil {
		now = fsxattr{} // the file system knows neither
	}
	if now.projid != project {
		if err != nil && !noFlags(err) {
			return pathError("set project id of", path, err)
		}
		s.flagsLost.Store(true)
		s.lose(path, "its project id could not be set"+because(err), told)
	}
	return s.differ(path, now.flags()^flags, err)
}

// extendedOneByOne sets each of the flags that the file system knows, and last the
// flags that forbid further changes.
func extendedOneByOne(fd int, opened bool, flags Flags, project uint32) {
	if have, err := getExtended(fd, opened); err == nil {
		have.projid = project
		_ = setExtended(fd, opened, have) // the caller checks the result
	}
	for i := len(extendedBits) - 1; i >= 0; i-- {
		b := extendedBits[i]
		have, err := getExtended(fd, opened)
		if err == nil && flags&b.flag != 0 {
			have.xflags |= b.bit
			_ = setExtended(fd, opened, have) // as above
		}
	}
}

// differ tells that flags are not as they were, err being why, or
// nil where the file system took them without keeping them.
func (s *setter) differ(path string, flags Flags, err error) error {
	if flags == 0 {
		return nil
	}
	if err != nil && !noFlags(err) {
		return pathError("set flags of", path, err)
	}
	s.flagsLost.Store(true)
	for _, n := range flagNames {
		if flags&n.flag != 0 {
			s.lose(path, fmt.Sprintf("flag %s is not as it was%s", n.name, because(err)), told)
		}
	}
	return nil
}

func because(err error) string {
	if err == nil {
		return ": the target's file system does not keep it"
	}
	return ": " + err.Error()
}

// clearFlags takes all flags from the new folder fd that it has from the folder above.
func clearFlags(fd int) error {
	have, err := getFlags(fd)
	if err != nil || Flags(have)&AllFlags == 0 {
		return nil
	}
	return setFlags(fd, have&^uint32(AllFlags))
}

// rootCase gives the empty root the flag that only an empty folder takes.
func (t *Target) rootCase(e *Entry) error {
	if e.Flags&Casefold == 0 {
		return nil
	}
	fd, err := t.chain.fd()
	if err != nil {
		return pathError("open", "", err)
	}
	return t.setter.plain(fd, "", e.Flags, Casefold)
}

// holdBack takes from e, which becomes the root, the attributes that only Seal sets.
func (t *Target) holdBack(e *Entry) {
	seal := *e
	t.seal = &seal
	e.Flags &^= sealing
	// The root keeps its project id.
	e.Project = 0
	if x, err := getExtended(t.root, true); err == nil {
		e.Project = x.projid
	}
}

// Seal gives the root the attributes that would have kept it from being renamed: the flags
// immutable and append only, and its project id. It is called after Finish, when the tree is in its
// place, once, and not at all when the tree is thrown away. After an error the root may lack these.
func (t *Target) Seal() error {
	if t.closed {
		return pathError("seal", "", ErrClosed)
	}
	if t.seal == nil {
		return nil
	}
	x, _ := getExtended(t.root, true)
	// 0 where the file system knows none
	if t.seal.Flags&sealing == 0 && x.projid == t.seal.Project {
		return nil
	}
	err := t.setter.putExtended(t.root, true, "", x.flags()|t.seal.Flags&sealing, t.seal.Project)
	t.setter.summarise()
	if serr := unix.Fsync(t.root); err == nil && serr != nil {
		err = pathError("sync", "", serr)
	}
	return err
}

// FlagsLost says whether some flag or project id of the tree could not be set.
func (t *Target) FlagsLost() bool { return t.setter.flagsLost.Load() }

// linkSealed makes name in dirfd a further name of base in from, which took no link, if that is
// because it is immutable or append only: it is then neither for a moment. Else it returns EPERM.
func linkSealed(from int, base string, dirfd int, name string) error {
	var done error = unix.EPERM
	err := unsealed(from, base, func() { done = unix.Linkat(from, base, dirfd, name, 0) })
	return errors.Join(done, err)
}

// unsealed takes the sealing flags from name in dirfd, calls do, and puts them back;
// without do the flags stay off. If name has no sealing flags, unsealed does nothing
// and does not call do. Nobody else changes the folder meanwhile.
func unsealed(dirfd int, name string, do func()) error {
	at, err := openAt(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer closeFD(at)
	var st unix.Statx_t
	if err := statAt(at, "", &st); err != nil {
		return err
	}
	fd, opened := at, false
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR {
		if fd, err = openAt(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		defer closeFD(fd)
		opened = true
	}
	x, err := getExtended(fd, opened)
	if err != nil || x.flags()&sealing == 0 {
		return nil
	}
	open := x
	open.set(x.flags() &^ sealing)
	if err := setExtended(fd, opened, open); err != nil {
		return err
	}
	if do == nil {
		return nil
	}
	do()
	return setExtended(fd, opened, x)
}

// Remove removes the folder dir with all its content, as a failed restore leaves it: also
// immutable and append-only entries. Nobody else changes it meanwhile. A mount in it stops Remove.
func Remove(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if uerr := unsealed(unix.AT_FDCWD, dir, nil); uerr != nil {
		return errors.Join(err, uerr)
	}
	r, oerr := OpenRoot(dir)
	if oerr != nil {
		return errors.Join(err, oerr)
	}
	w := &walker{WalkOptions: WalkOptions{NoXattrs: true}, unseal: true, fn: func(*Entry) error { return nil }}
	if uerr := errors.Join(r.walk(context.Background(), w), r.Close()); uerr != nil {
		return errors.Join(err, uerr)
	}
	return os.RemoveAll(dir)
}
