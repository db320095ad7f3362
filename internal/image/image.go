// Package image reads and writes images: volumes that are the content of one regular
// file, a raw disk, or of one block device, without a look at the content.
//
// internal/backup reads with it, internal/restore writes with it. It starts no goroutine.
// Cleaning up after a crash is the caller's work: a file that is being written lies where the
// caller put it, and a device that was being written has neither its old content nor the new one.
package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/internal/tree"
)

// Chunk is the size of the chunks of images, bytes: images are cut at its multiples.
// Machines overwrite their disks in place, so content never moves and cuts need not look
// for it; FORMAT.md has the measurement behind the size. A chunk of zeros is a hole.
const Chunk = 64 << 10

// block is the unit in which zeros are left out when a file is
// written, bytes: the block of most file systems.
const block = 4 << 10

// ErrNoImage says that something is neither a regular file nor a block device.
var ErrNoImage = errors.New("neither a regular file nor a block device")

// Image is an image that is read. Its methods may be called from
// several goroutines at once. Close is due at the end.
type Image struct {
	f      *os.File
	size   int64
	device bool
	plain  bool  // do not ask the file system about holes
	began  state // at Open

	mu sync.Mutex // the offset of f, which NextData moves
}

// state shows by a change that an image was written to.
type state struct {
	file   tree.Stat
	writes string // of a device since it is there, as the kernel counts; "" where it doesn't
}

// Open opens the image at path. It follows links, because the path comes from the operator,
// or is the path of a snapshot. The error is ErrNoImage for a folder and the like.
func Open(path string) (*Image, error) {
	// O_NONBLOCK keeps it from waiting for the writer of a pipe
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	i := &Image{f: f}
	if err = i.look(); err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	return i, nil
}

func (i *Image) look() error {
	info, err := i.f.Stat()
	if err != nil {
		return err
	}
	if i.device, err = isDevice(info); err != nil {
		return err
	}
	if i.device { // stat gives the size of a device as 0
		i.size, err = i.f.Seek(0, io.SeekEnd)
	} else if i.size = info.Size(); !tree.HasHonestSize(i.f) {
		i.size, err = tree.Measure(i.f, i.size, endless)
		if err != nil && !errors.Is(err, tree.ErrEndless) && !tree.Ours(err) {
			i.size, err = info.Size(), nil // a reader finds the part that can't be read
		}
		i.plain = i.size != info.Size()
	}
	if err != nil {
		return err
	}
	i.began, err = i.state()
	return err
}

// endless is how many bytes more than its size says a file may have to be an image.
const endless = 1 << 30

// isDevice tells a block device from a regular file; ErrNoImage for all else.
func isDevice(info fs.FileInfo) (bool, error) {
	switch m := info.Mode(); {
	case m.IsRegular():
		return false, nil
	case m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0:
		return true, nil
	}
	return false, ErrNoImage
}

func (i *Image) state() (state, error) {
	if !i.device {
		st, err := tree.Restat(i.f)
		return state{file: st}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(i.f.Fd()), &st); err != nil {
		return state{}, err
	}
	return state{writes: deviceWrites(st.Rdev)}, nil
}

// deviceWrites is how many sectors were written to a device, as text: field 7 of its stat in sysfs
// (Documentation/block/stat.rst), "" where there is none.
func deviceWrites(device uint64) string {
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(device), unix.Minor(device)))
	if fields := strings.Fields(string(b)); err == nil && len(fields) > 6 {
		return fields[6]
	}
	return ""
}

// File is the open image. It must not be written to, and its offset not be moved.
func (i *Image) File() *os.File { return i.f }

// Device tells whether the image is a block device.
func (i *Image) Device() bool { return i.device }

// Size is the size in bytes when the image was opened: stat's size, or the end of reads
// on a file system that is not known to keep honest sizes.
func (i *Image) Size() int64 { return i.size }

// ReadAt reads as io.ReaderAt does. Holes are zeros.
func (i *Image) ReadAt(p []byte, off int64) (int, error) { return i.f.ReadAt(p, off) }

// NextData returns the first range from off on, before end, that may
// hold something else than zeros; its Len is 0 when there is none. A
// device has one range, and so has a file whose size is wrong.
func (i *Image) NextData(off, end int64) tree.Range {
	end = min(end, i.size)
	if i.device || i.plain {
		return tree.Range{Off: off, Len: max(end-off, 0)}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return tree.NextData(i.f, off, end)
}

// Changed reports whether somebody wrote to the image since it was opened, so that the
// content read is of no single moment. For a device only writes that reached it count.
func (i *Image) Changed() (bool, error) {
	now, err := i.state()
	return now != i.began, err
}

// Close closes the image.
func (i *Image) Close() error { return i.f.Close() }

// zeros is compared with.
var zeros [block]byte

// IsZero tells whether p is zeros only.
func IsZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

// TooSmallError says that an image does not fit on a device.
type TooSmallError struct {
	Device     string
	Has, Needs int64 // bytes
}

func (e *TooSmallError) Error() string {
	return "device " + e.Device + " has " + strconv.FormatInt(e.Has, 10) + " bytes, the image " + strconv.FormatInt(e.Needs, 10)
}
