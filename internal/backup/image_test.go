package backup_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/image"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

var cloneMiB = flag.Int64("clones.mib", 256, "size of the images that TestClonesAreReadOnce clones, MiB")

// fill writes n random bytes at off, by seed.
func fill(t testing.TB, path string, off, n int64, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.NewOffsetWriter(f, off), io.LimitReader(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), n))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// clone makes a file that shares the blocks of another.
func clone(t testing.TB, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err == nil {
		err = errors.Join(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), dst.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func backUpImage(t testing.TB, v *vault.Vault, on *backup.Pool, instance, path, view string) *backup.Result {
	t.Helper()
	res, err := backup.Run(t.Context(), backup.Options{
		Vault: v, Instance: instance, Pool: on, Sources: []backup.Source{{Volume: "disk", Root: path, View: view}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// sameImage compares a backup with the file at path.
func sameImage(t testing.TB, v *vault.Vault, instance string, res *backup.Result, path string) {
	t.Helper()
	m, err := v.Manifest(t.Context(), vault.BackupRef{Instance: instance, ID: res.BackupID})
	if err != nil {
		t.Fatal(err)
	}
	if k := m.Volumes[0].Kind; k != vault.KindImage || m.Volumes[0].Entries != 1 || m.Volumes[0].Bytes != res.Bytes {
		t.Errorf("volume is %+v", m.Volumes[0])
	}
	want, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	at, size := int64(0), int64(-1)
	next := func(n int64) []byte {
		b := make([]byte, n)
		if _, err := want.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		at += n
		return b
	}
	hole := func(to int64) {
		for at < to {
			if from := at; !image.IsZero(next(min(to-at, 1<<20))) {
				t.Fatalf("%s: the backup has a hole at %d, where there is content", instance, from)
			}
		}
	}
	err = v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			if !it.Continued {
				size = it.Size
			}
			for _, x := range it.Extents {
				hole(x.Off)
				b, err := v.ReadChunk(t.Context(), vault.Content, x.Chunk)
				if err != nil {
					return err
				}
				if got := b[x.In : x.In+x.Len]; !bytes.Equal(got, next(int64(x.Len))) || image.IsZero(got) {
					t.Fatalf("%s: other content at %d, or zeros", instance, x.Off)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := want.Stat()
	if err != nil || info.Mode().IsRegular() && size != info.Size() {
		t.Fatalf("size is %d, want that of %v (%v)", size, info, err)
	}
	hole(size)
}

func memory(t testing.TB) *vault.Vault { return newVault(t, obs.NewMemory()) }

func TestImage(t *testing.T) {
	for _, size := range []int64{0, 1, 4096, image.Chunk, image.Chunk + 1, 40<<20 + 12345} {
		t.Run(strconv.FormatInt(size, 10), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.img")
			fill(t, path, 0, size, 1)
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			v := memory(t)
			sameImage(t, v, "vm", backUpImage(t, v, nil, "vm", path, ""), path)
		})
	}
}

// Where zeros lie, as holes or as blocks, makes no difference.
func TestImageOfZerosAndHoles(t *testing.T) {
	dir := testbed.Dir(t)
	v := memory(t)
	sparse, full := filepath.Join(dir, "sparse"), filepath.Join(dir, "full")
	const size = 64<<20 + 777
	for _, path := range []string{sparse, full} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(full, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, off := range []int64{4096, 5 << 20, 31<<20 + 4096, size - 1000} {
		for _, path := range []string{sparse, full} {
			fill(t, path, off, 900, uint64(i))
		}
	}
	a := backUpImage(t, v, nil, "a", sparse, "")
	sameImage(t, v, "a", a, sparse)
	if a.Bytes > 5*image.Chunk || a.BytesRead > 1<<20 {
		t.Errorf("of four blocks in a hole %d bytes are stored, %d were read", a.Bytes, a.BytesRead)
	}
	b := backUpImage(t, v, nil, "b", full, "")
	sameImage(t, v, "b", b, full)
	if b.BytesNew != 0 || b.Bytes != a.Bytes {
		t.Errorf("the same with zeros for holes is %d bytes, %d of them new; want %d and none", b.Bytes, b.BytesNew, a.Bytes)
	}
}

func TestImageThatChangesWhileItIsRead(t *testing.T) {
	path := filepath.Join(testbed.Dir(t), "disk.img")
	fill(t, path, 0, 32<<20, 1)
	v := memory(t)
	var once sync.Once
	res, err := backup.Run(t.Context(), backup.Options{
		Vault: v, Instance: "vm", Sources: []backup.Source{{Volume: "disk", Root: path}},
		PackIntent: func(string) error {
			once.Do(func() { fill(t, path, 4096, 4096, 9) })
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.Lost != 1 || res.Warnings[0].Path != path {
		t.Errorf("warnings are %v, want one that content is of no single moment", res.Warnings)
	}
}

// readBytes returns the bytes that this process has read from disks so far (proc(5), read_bytes).
func readBytes(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "\nread_bytes: ")
	n, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestClonesAreReadOnce(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	const clones = 10
	size := *cloneMiB << 20
	own := size / 128 // 8 MiB of 1 GiB
	for _, kind := range []string{"btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testbed.Filesystem(t, kind, 8<<30)
			golden := filepath.Join(dir, "golden")
			fill(t, golden, 0, size, 1)
			var paths []string
			for i := range clones {
				path := filepath.Join(dir, fmt.Sprint("clone-", i))
				clone(t, golden, path)
				// In eight places, so that the extents of each lie otherwise.
				for k := range int64(8) {
					fill(t, path, size/8*k+int64(i)*own/2/4096*4096, own/8, uint64(100+10*i)+uint64(k))
				}
				paths = append(paths, path)
			}
			// and the chunks around the ends of the clone's own ranges, and the checks
			limit := size + clones*own + size/10
			for _, mode := range []string{"in turn", "at once"} {
				t.Run(mode, func(t *testing.T) {
					v := memory(t)
					on := backup.NewPool(backup.PoolOptions{Runs: clones, Budget: 512 << 20})
					for _, path := range paths {
						on.BeginView(path)
						uncache(t, path)
					}
					before := readBytes(t)
					results := make([]*backup.Result, clones)
					var wg sync.WaitGroup
					for i, path := range paths {
						one := func() { results[i] = backUpImage(t, v, on, fmt.Sprint("vm-", i), path, path) }
						if mode == "in turn" {
							one()
						} else {
							wg.Go(one)
						}
					}
					wg.Wait()
					fromDisk := readBytes(t) - before
					read := uint64(0)
					for i, res := range results {
						if res == nil {
							t.Fatal("a backup failed")
						}
						read += res.BytesRead
						if res.WarningCount > 0 {
							t.Errorf("clone %d: %v", i, res.Warnings)
						}
						sameImage(t, v, fmt.Sprint("vm-", i), res, paths[i])
					}
					t.Logf("%d clones of %d MiB with %d MiB of their own: read %d MiB, from disk %d MiB", clones, size>>20, own>>20, read>>20, fromDisk>>20)
					// The kernel reads ahead in each clone that is read at once with
					// others: a quarter more was seen, and twice would be double.
					if int64(read) > limit || fromDisk > limit+limit/2 {
						t.Errorf("read %d bytes, %d from disk; want %d at most", read, fromDisk, limit)
					}
				})
			}
		})
	}
}

// uncache takes a file out of the kernel's cache. The kernel leaves
// pages there that somebody is just at, so it is asked again.
func uncache(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
			t.Fatal(err)
		}
		if !cached(t, f) {
			return
		}
	}
	t.Fatalf("%s is still in the kernel's cache after a minute", path)
}

// cached tells whether the kernel's cache has a page of the file.
func cached(t testing.TB, f *os.File) bool {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() == 0 {
		return false
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m) //nolint:errcheck // of a mapping that was just made
	pages := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	return slices.ContainsFunc(pages, func(p byte) bool { return p&1 != 0 })
}
