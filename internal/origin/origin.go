// Package origin keeps a mark on a volume that says from which backup the volume's content comes.
//
// The mark is an extended attribute of the volume's root, the folder or the image file itself. It
// goes where the disk goes: it survives the loss of the agent's journal, and a journal that is set
// back to an earlier state does not change it. It names the very folder or file and the file
// system on which it was written, so that a copy of a volume shows as a copy. Backups leave the
// mark out (tree.OwnXattrs), and a restore gives the volume a mark of its own.
//
// The agent writes marks and reads them. A mark is no proof against a program that may write
// trusted attributes, which is root of the host alone. A second attribute has a note of the agent
// on content that a restore takes out of the place of a volume. The package keeps no state and
// starts no goroutine. Its calls may hang on storage that does not answer.
package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/internal/evidence"
	"holdfast/internal/tree"
)

// Attribute is the name of the extended attribute. Only a process with CAP_SYS_ADMIN sees it.
const Attribute = tree.OwnXattrs + "origin"

const (
	version = 1
	// maxMark is more than any mark takes, and less than ext4 has room for beside an inode.
	maxMark = 2048
)

// Place tells which folder or file a volume is.
type Place struct {
	FileSystem string `json:"file_system"` // as evidence.FileSystem names it; "" is not known
	Root       string `json:"root"`        // as evidence.Identify tells it
}

// Same tells whether both are surely one and the same folder or file. The UUID of a file system
// counts where both have it: a kernel that tells the UUID may follow a kernel that does not.
func (p Place) Same(other Place) bool {
	if p.Root == "" || p.Root != other.Root {
		return false
	}
	return p.FileSystem == other.FileSystem || p.FileSystem != "" && other.FileSystem != "" && evidence.SameFileSystem(p.FileSystem, other.FileSystem)
}

// Mark says which backup a volume holds, or has come from: the last backup that was made of the
// volume or restored to it.
type Mark struct {
	Version  int    `json:"version"`
	Backup   string `json:"backup_id"`
	Seq      uint64 `json:"sequence"` // of the backup
	Vault    string `json:"vault"`    // its id
	Tenant   string `json:"tenant"`
	Instance string `json:"instance"`
	Volume   string `json:"volume"`
	Host     string `json:"host"` // the random identity of the host that wrote the mark
	At       Place  `json:"at"`   // of the folder or file that was marked
}

// Errors by which a caller decides.
var (
	// ErrNoMark says that there is no mark. Where the process may not see
	// trusted attributes there is never one.
	ErrNoMark = errors.New("the volume has no mark")
	// ErrNotKept says that a mark can't be kept there: the file system has no
	// such attributes, or the volume is a device.
	ErrNotKept = errors.New("no mark can be kept on the volume")
	// ErrDamaged says that there is a mark that can't be read.
	ErrDamaged = errors.New("the mark on the volume can't be read")
)

// PlaceOf tells which folder or file is at the path; the zero Place for nothing.
func PlaceOf(path string) (Place, error) {
	root, err := evidence.Identify(path)
	if err != nil || root == "" {
		return Place{}, err
	}
	return Place{FileSystem: evidence.FileSystemOf(path), Root: root}, nil
}

// open opens the root of a volume without an effect on a device or a pipe.
func open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // no owner, and not root
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is neither a folder nor a file", ErrNotKept, path)
	}
	if err != nil {
		_ = f.Close() // only looked at
		return nil, err
	}
	return f, nil
}

// Read returns the mark of the volume at path: ErrNoMark, ErrNotKept, ErrDamaged. A missing
// volume is fs.ErrNotExist. Whether the mark is of that very volume Mark.At tells.
func Read(path string) (Mark, error) {
	b, err := read(path, Attribute)
	if err != nil {
		return Mark{}, err
	}
	return decode(b)
}

// read returns the value of an attribute of the volume's root, as Read says.
func read(path, attribute string) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	buf := make([]byte, maxMark)
	n, err := unix.Fgetxattr(int(f.Fd()), attribute, buf)
	switch {
	case errors.Is(err, unix.ENODATA):
		return nil, ErrNoMark
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, fmt.Errorf("%w: its file system has no trusted attributes", ErrNotKept)
	case errors.Is(err, unix.ERANGE):
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrDamaged, maxMark)
	case err != nil:
		return nil, &os.PathError{Op: "read the mark of", Path: path, Err: err}
	}
	return buf[:n], nil
}

func decode(b []byte) (Mark, error) {
	var m Mark
	if err := json.Unmarshal(b, &m); err != nil {
		return Mark{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if m.Version != version || m.Backup == "" || m.Tenant == "" || m.Instance == "" || m.Volume == "" || m.At.Root == "" {
		return Mark{}, fmt.Errorf("%w: version %d of backup %q", ErrDamaged, m.Version, m.Backup)
	}
	return m, nil
}

// Write marks the volume at path, durable when it returns nil, and returns the mark with Version
// and At. ErrNotKept says that the file system keeps none. A mark that is there is replaced. A
// root that is immutable or append only loses that for the moment (see tree.Movable).
func Write(path string, m Mark) (Mark, error) {
	at, err := PlaceOf(path)
	if err != nil {
		return Mark{}, err
	}
	m.Version, m.At = version, at
	b, err := json.Marshal(m)
	if err != nil {
		return Mark{}, fmt.Errorf("encode the mark: %w", err)
	}
	if len(b) > maxMark {
		return Mark{}, fmt.Errorf("%w: the mark takes %d bytes", ErrNotKept, len(b))
	}
	if _, err := decode(b); err != nil {
		return Mark{}, err
	}
	return m, change(path, func(fd int) error { return unix.Fsetxattr(fd, Attribute, b, 0) })
}

// Remove takes the mark off the volume at path, durable when it returns nil. No mark is no error.
func Remove(path string) error {
	err := change(path, func(fd int) error { return unix.Fremovexattr(fd, Attribute) })
	if errors.Is(err, unix.ENODATA) || errors.Is(err, ErrNotKept) {
		return nil
	}
	return err
}

// change writes to the attributes of the volume's root.
func change(path string, do func(fd int) error) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close() // synced below
	err = do(int(f.Fd()))
	if errors.Is(err, unix.EPERM) {
		err = tree.Movable(path, func() error { return do(int(f.Fd())) })
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
		// EPERM: the process may not write trusted attributes
		return fmt.Errorf("%w: %w", ErrNotKept, err)
	case err != nil:
		return &os.PathError{Op: "mark", Path: path, Err: err}
	}
	if err := f.Sync(); err != nil {
		return &os.PathError{Op: "mark", Path: path, Err: err}
	}
	return nil
}
