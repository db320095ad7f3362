package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Target is an image that is written. WriteAt may be called from several goroutines at
// once, for ranges that do not overlap. Close is due at the end, also after Finish.
type Target struct {
	f      *os.File
	device bool
	room   int64 // of a device, bytes
}

// Create makes a new file at path, readable by its owner only.
func Create(path string) (*Target, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return &Target{f: f}, nil
}

// OpenDevice opens a block device for writing, links followed, unless it is in use:
// mounted, or part of another device. ErrNoImage if path is no block device.
func OpenDevice(path string) (*Target, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if device, err := isDevice(info); err != nil || !device {
		return nil, fmt.Errorf("device %s: %w", path, ErrNoImage)
	}
	// Without O_CREAT, O_EXCL of a block device is EBUSY while the system uses it (open(2)).
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("device %s is mounted or otherwise in use: %w", path, err)
	} else if err != nil {
		return nil, err
	}
	t := &Target{f: f, device: true}
	if t.room, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

// Device tells whether the target is a block device.
func (t *Target) Device() bool { return t.device }

// Room is the size of a device, bytes.
func (t *Target) Room() int64 { return t.room }

// Resize prepares for an image of that size, bytes, before anything is
// written: a file gets the size, of a device nothing changes. *TooSmallError.
func (t *Target) Resize(size int64) error {
	if !t.device {
		return t.f.Truncate(size)
	}
	if size > t.room {
		return &TooSmallError{Device: t.f.Name(), Has: t.room, Needs: size}
	}
	return nil
}

// WriteAt writes p, which of a file leaves blocks of zeros out. The
// range must not have been written to before.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	if t.device {
		return t.f.WriteAt(p, off)
	}
	for at := 0; at < len(p); {
		end := t.piece(p, off, at)
		if IsZero(p[at:end]) {
			at = end
			continue
		}
		from := at
		for at = end; at < len(p); at = end { // neighbours go in one call
			if end = t.piece(p, off, at); IsZero(p[at:end]) {
				break
			}
		}
		if n, err := t.f.WriteAt(p[from:at], off+int64(from)); err != nil {
			return from + n, err
		}
	}
	return len(p), nil
}

// piece is the end, in p, of the file's block that holds p[at].
func (t *Target) piece(p []byte, off int64, at int) int {
	return min(at+block-int((off+int64(at))%block), len(p))
}

// Zero sees to it that the range reads as zeros. The range of a
// file must not have been written to before: it is a hole.
func (t *Target) Zero(off, n int64) error {
	if !t.device {
		return nil
	}
	for n > 0 {
		var done int64
		if whole := n - n%block; off%block == 0 && whole > 0 && t.zeroOut(off, whole) == nil {
			done = whole
		} else {
			w, err := t.f.WriteAt(zeros[:min(n, block-off%block)], off)
			if err != nil {
				return fmt.Errorf("write zeros at %d: %w", off, err)
			}
			done = int64(w)
		}
		off, n = off+done, n-done
	}
	return nil
}

// zeroOut has the device make zeros itself (BLKZEROOUT, linux/fs.h), by discarding
// where that gives zeros. The kernel writes them where the device can't.
func (t *Target) zeroOut(off, n int64) error {
	const blkZeroOut = 0x127f // _IO(0x12, 127)
	span := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, t.f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return errno
	}
	return nil
}

// Finish makes the written content durable.
func (t *Target) Finish() error { return t.f.Sync() }

// Close closes the target. It may be called twice.
func (t *Target) Close() error {
	if err := t.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
