// Package location tells where a configured path lies: which file it is, by
// device and inode, in which folders, and at which place of which file system,
// so that two paths to one place are known to be two paths to one place.
//
// agent/config compares the locations of volumes and of the agent's own files, and package agent
// looks at a volume's path before each use. The package starts no goroutine and changes nothing,
// so a crash leaves nothing. A call waits for as long as a file system does not answer.
package location

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/mounts"
)

// ErrUnsafe is the class of every *LinkError and every *WritableError.
var ErrUnsafe = errors.New("the path may lead elsewhere")

// LinkError says that a path has a symbolic link in it.
type LinkError struct {
	Path   string
	Link   string // the part of Path that is the link
	Target string // of the link, as it is written there
	Real   string // the present target of Path; "" where it leads nowhere
}

func (e *LinkError) Error() string {
	if e.Real == "" {
		return fmt.Sprintf("%s is a symbolic link (to %s) that leads nowhere; write the path without links", e.Link, e.Target)
	}
	return fmt.Sprintf("%s is a symbolic link (to %s), which can be changed to lead to the files of others; write the real path: %s", e.Link, e.Target, e.Real)
}

// Is makes errors.Is(err, ErrUnsafe) true.
func (e *LinkError) Is(target error) bool { return target == ErrUnsafe }

// WritableError says that a folder on the way to a path can be changed by somebody else than root.
type WritableError struct {
	Path   string
	Folder string
	Who    string // the other user or users that can change it, in words
}

func (e *WritableError) Error() string {
	return fmt.Sprintf("its parent folder %s can be written by %s, who could put a link to the files of others in the place of %s; "+
		"give that folder to root alone: chown root:root %[1]s && chmod go-w %[1]s", e.Folder, e.Who, e.Path)
}

// Is makes errors.Is(err, ErrUnsafe) true.
func (e *WritableError) Is(target error) bool { return target == ErrUnsafe }

// ID is a file by its device and inode.
type ID struct{ Device, Inode uint64 }

// Location is the location of a path. The zero value is the location of no path.
type Location struct {
	Path  string
	There bool // something is at the path
	ID    ID   // of the object there
	Above []ID // of the folders on the way, the root first; missing folders are left out
	// FileSystem is the device number of the file system, as in the table of mounts,
	// and Inside is the path in it, also of an object that does not exist yet. Inside
	// is "" where the kernel does not tell.
	FileSystem uint64
	Inside     string
}

// Within tells whether l is o, or lies in it: also by another mount
// of the same file system, or by a hard link of the same file.
func (l Location) Within(o Location) bool {
	if o.There {
		if l.There && l.ID == o.ID {
			return true
		}
		for _, id := range l.Above {
			if id == o.ID {
				return true
			}
		}
	}
	return l.Inside != "" && o.Inside != "" && l.FileSystem == o.FileSystem &&
		strings.HasPrefix(strings.TrimSuffix(l.Inside, "/")+"/", strings.TrimSuffix(o.Inside, "/")+"/")
}

// Of finds where a path lies, links followed. A path that leads to nothing is no error.
func Of(path string) (Location, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if real, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(real, filepath.Base(path))
	}
	return walk(path, false)
}

// Strict finds the location of a path that nobody but root can make lead elsewhere. It opens each
// folder on the way by the descriptor of the folder before. ErrUnsafe where a part of the path is
// a link (*LinkError), or where somebody else than root, or the user of this process, can write to
// a folder on the way (*WritableError). The object at the path may belong to anybody. Device files
// are the exception: a path below /dev may be a link to a block device there, as the kernel's
// numbers change and only root can write to /dev. A path that leads to nothing is no error.
func Strict(path string) (Location, error) {
	l, err := walk(path, true)
	link, ok := errors.AsType[*LinkError](err)
	if !ok || !strings.HasPrefix(path, devices) || !strings.HasPrefix(link.Real, devices) {
		return l, err
	}
	var st unix.Stat_t
	if unix.Stat(link.Real, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return l, err
	}
	return walk(link.Real, true)
}

const devices = "/dev/"

// walk opens each part of a path beneath the part before, without following links.
func walk(path string, strict bool) (Location, error) {
	if !filepath.IsAbs(path) {
		return Location{}, fmt.Errorf("%s is no absolute path", path)
	}
	path = filepath.Clean(path)
	l := Location{Path: path}
	at, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return Location{}, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	defer func() { _ = unix.Close(at) }() // only looked at
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return Location{}, &os.PathError{Op: "stat", Path: "/", Err: err}
	}
	for seen, rest := "/", strings.Trim(path, "/"); rest != ""; {
		name, after, more := strings.Cut(rest, "/")
		folder := st
		l.Above = append(l.Above, ID{st.Dev, st.Ino})
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			if strict {
				if who := writers(at, folder, nil); who != "" {
					return Location{}, &WritableError{Path: path, Folder: seen, Who: who}
				}
			}
			return l, l.place(at, seen)
		} else if err != nil {
			return Location{}, &os.PathError{Op: "open", Path: filepath.Join(seen, name), Err: err}
		}
		if err := unix.Fstat(next, &st); err != nil {
			_ = unix.Close(next)
			return Location{}, &os.PathError{Op: "stat", Path: filepath.Join(seen, name), Err: err}
		}
		if strict {
			if who := writers(at, folder, &st); who != "" {
				_ = unix.Close(next)
				return Location{}, &WritableError{Path: path, Folder: seen, Who: who}
			}
		}
		_ = unix.Close(at)
		at, seen, rest = next, filepath.Join(seen, name), after
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, _ := os.Readlink(seen)
			real, err := filepath.EvalSymlinks(seen)
			if err == nil {
				real = filepath.Join(real, rest)
			}
			return Location{}, &LinkError{Path: path, Link: seen, Target: target, Real: real}
		}
		if !more {
			break
		}
	}
	l.There, l.ID = true, ID{st.Dev, st.Ino}
	return l, l.place(at, path)
}

// place notes at which place of its file system the path lies. at
// is open at seen, the part of it that is there.
func (l *Location) place(at int, seen string) error {
	var stx unix.Statx_t
	err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &stx)
	if err != nil || stx.Mask&unix.STATX_MNT_ID == 0 {
		return nil //nolint:nilerror // before Linux 5.8: devices and inodes are compared all the same
	}
	all, err := mounts.Read(mounts.Own)
	if err != nil {
		return fmt.Errorf("read the table of mounts: %w", err)
	}
	for _, m := range all {
		if m.ID != stx.Mnt_id {
			continue
		}
		if below, err := filepath.Rel(m.Point, l.Path); err == nil && filepath.IsLocal(below) {
			l.FileSystem, l.Inside = m.Device, filepath.Join(m.Root, below)
		}
	}
	return nil
}

// writers names the users, other than root and the user of this process, that can put
// something else in the place of an entry of a folder; "" for nobody. entry is nil where there
// is no entry yet. In a folder with the sticky bit only the owners of folder and entry can.
func writers(fd int, folder unix.Stat_t, entry *unix.Stat_t) string {
	ours := func(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }
	switch {
	case !ours(folder.Uid):
		return fmt.Sprintf("its owner, user %d", folder.Uid)
	case folder.Mode&unix.S_ISVTX != 0 && entry != nil && ours(entry.Uid):
		return ""
	case folder.Mode&0o002 != 0:
		return fmt.Sprintf("everybody (mode %04o)", folder.Mode&0o7777)
	case folder.Mode&0o020 != 0 && folder.Gid != 0:
		return fmt.Sprintf("group %d (mode %04o)", folder.Gid, folder.Mode&0o7777)
	case folder.Mode&0o020 != 0 && hasACL(fd): // the bits of the group are the mask of the list then
		return "users of its access control list"
	}
	return ""
}

func hasACL(fd int) bool {
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), "system.posix_acl_access", nil)
	return err == nil && n > 0
}
