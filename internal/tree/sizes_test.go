package tree_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// endlessly is a file of zeros without an end.
type endlessly struct{}

func (endlessly) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// onlyFromStart is a file that gives its content to reads at 0 only, as many of the kernel's do.
type onlyFromStart []byte

func (f onlyFromStart) ReadAt(p []byte, off int64) (int, error) {
	if off != 0 {
		return 0, io.EOF
	}
	n := copy(p, f)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// broken is a file that fails from an offset on.
type broken struct {
	good int64
	err  error
}

func (f broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.good {
		return 0, f.err
	}
	return len(p), nil
}

func TestMeasure(t *testing.T) {
	const beyond = 10 << 20
	for _, size := range []int64{0, 1, 100, 4096, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3 << 20, 9<<20 + 12345} {
		f := bytes.NewReader(make([]byte, size))
		for _, said := range []int64{0, 1, size - 1, size, size + 1, size / 2, 2 * size, size + 1<<40} {
			if said < 0 {
				continue
			}
			if got, err := tree.Measure(f, said, beyond); got != size || err != nil {
				t.Errorf("%d bytes said to be %d: measured %d, %v", size, said, got, err)
			}
			for _, end := range []int64{size - 1, size, size + 1} {
				if is, err := tree.EndsAt(f, max(end, 0)); is != (max(end, 0) == size) || err != nil {
					t.Errorf("%d bytes end at %d: %v, %v", size, end, is, err)
				}
			}
		}
	}
	if got, err := tree.Measure(onlyFromStart("4\n"), 0, beyond); got != 2 || err != nil {
		t.Errorf("measured %d, %v", got, err)
	}
	for _, said := range []int64{0, 5, 1 << 20} {
		if _, err := tree.Measure(endlessly{}, said, beyond); !errors.Is(err, tree.ErrEndless) {
			t.Errorf("endless, said to be %d: %v", said, err)
		}
		if _, err := tree.Measure(broken{1000, unix.EIO}, said, beyond); err != unix.EIO {
			t.Errorf("broken, said to be %d: %v", said, err)
		}
	}
}

func TestHonestSizes(t *testing.T) {
	for dir, want := range map[string]bool{testbed.Ext4(t): true, testbed.Xfs(t): true, testbed.Btrfs(t): true, testbed.Tmpfs(t, "size=1m"): true, "/proc": false, "/sys": false, testbed.StartFUSE(t).Point: false} {
		if got := openRoot(t, dir).HonestSizes(); got != want {
			t.Errorf("%s: %v", dir, got)
		}
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := tree.HasHonestSize(f); got != want {
			t.Errorf("%s, by a file: %v", dir, got)
		}
		f.Close()
	}
}

// TestOpenWaitsForALease: a file on which another program has a lease
// is read once that is given back, also where an open must not wait.
func TestOpenWaitsForALease(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f", "content")
	entries, _ := walk(t, dir)
	holder, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skip(err)
	}
	opened := make(chan error, 1)
	r := openRoot(t, dir)
	go func() {
		f, err := r.Open(entries[1], nil)
		if err == nil {
			err = f.Close()
		}
		opened <- err
	}()
	for { // until the other one asks for it
		lease, err := unix.FcntlInt(holder.Fd(), unix.F_GETLEASE, 0)
		if err != nil {
			t.Fatal(err)
		}
		if lease != unix.F_WRLCK {
			break
		}
	}
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
