package testbed

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// FUSE is a file system in user space. It shows a folder of the machine, and it fails or lies
// where its oddities say so. The test process serves it, so other programs can use it as
// well. Reads bypass the page cache of the kernel, and the kernel keeps no attributes: every
// look and every read reaches the oddities. Its methods are for any number of goroutines.
type FUSE struct {
	// the folder that the file system shows; a test may change it behind the file system's back
	Folder string
	Point  string // where the file system is mounted

	mu  sync.RWMutex
	odd []Oddity
}

// FUSEOp is an operation of a file system.
type FUSEOp string

// The operations that an oddity can let fail. Rename is a rename that
// may replace a file, RenameNew is one with RENAME_NOREPLACE. Lock is
// flock(2) or fcntl(2). Sync is for files and SyncFolder for folders.
const (
	FUSELookup      FUSEOp = "lookup"
	FUSEStat        FUSEOp = "stat"
	FUSEOpen        FUSEOp = "open"
	FUSERead        FUSEOp = "read"
	FUSEWrite       FUSEOp = "write"
	FUSEFlush       FUSEOp = "flush" // at each close
	FUSESync        FUSEOp = "sync"
	FUSELock        FUSEOp = "lock"
	FUSECreate      FUSEOp = "create"
	FUSEMkdir       FUSEOp = "mkdir"
	FUSEMknod       FUSEOp = "mknod"
	FUSESymlink     FUSEOp = "symlink"
	FUSEReadlink    FUSEOp = "readlink"
	FUSELink        FUSEOp = "link"
	FUSERename      FUSEOp = "rename"
	FUSERenameNew   FUSEOp = "rename without replacing"
	FUSEUnlink      FUSEOp = "unlink"
	FUSERmdir       FUSEOp = "rmdir"
	FUSEOpenFolder  FUSEOp = "open folder"
	FUSEReadFolder  FUSEOp = "read folder"
	FUSESyncFolder  FUSEOp = "sync folder"
	FUSEChmod       FUSEOp = "chmod"
	FUSEChown       FUSEOp = "chown"
	FUSETruncate    FUSEOp = "truncate"
	FUSETimes       FUSEOp = "set times"
	FUSEGetXattr    FUSEOp = "get attribute"
	FUSEListXattr   FUSEOp = "list attributes"
	FUSESetXattr    FUSEOp = "set attribute"
	FUSERemoveXattr FUSEOp = "remove attribute"
	FUSEStatfs      FUSEOp = "statfs"
	FUSESeek        FUSEOp = "seek" // SEEK_DATA and SEEK_HOLE
	FUSEAllocate    FUSEOp = "allocate"
)

// Oddity is one way in which a FUSE differs from a good file system. A field
// that is nil changes nothing. Paths are relative to the top of the file system,
// which is "."; a file that was removed while it is open has a path that begins
// with ".deleted". The functions run on goroutines of the file system's, several
// at a time, and one may block to stand for a file system that does not answer.
type Oddity struct {
	// Fail is asked before each operation: an errno other than 0 is the operation's result.
	// For an operation that makes, removes or renames a name, path is the path of that name.
	Fail func(op FUSEOp, path string) syscall.Errno
	// Attr may change the attributes that the file system tells of a path.
	Attr func(path string, a *FUSEAttr)
	// Inode gives the inode number that the file system tells in
	// place of the true one. Names in a listing keep the true number.
	Inode func(number uint64) uint64
	// Read gives the bytes that a read at the offset returns in place of the true ones, or fails.
	Read func(path string, offset int64, data []byte) ([]byte, syscall.Errno)
}

// FUSEAttr are the attributes of a file that an oddity may change.
type FUSEAttr struct {
	Size, Blocks           uint64 // in bytes, and in units of 512 bytes
	Mode                   uint32 // the permissions; the type of the file stays
	Links, UID, GID        uint32
	Access, Modify, Change time.Time
}

// StartFUSE mounts a FUSE without oddities over a new, empty folder; it goes with the test.
func StartFUSE(t testing.TB) *FUSE {
	t.Helper()
	Need(t, "fuse")
	dir := Dir(t)
	f := &FUSE{Folder: filepath.Join(dir, "folder"), Point: filepath.Join(dir, "fuse")}
	if err := errors.Join(os.Mkdir(f.Folder, 0o755), os.Mkdir(f.Point, 0o755)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(f.Folder, &st); err != nil {
		t.Fatal(err)
	}
	data := &fs.LoopbackRoot{Path: f.Folder, Dev: st.Dev}
	//nolint:staticcheck // WrapChild in its place would have to copy nodes, which hold locks
	data.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &fuseNode{LoopbackNode: fs.LoopbackNode{RootData: r}, f: f}
	}
	root := &fuseNode{LoopbackNode: fs.LoopbackNode{RootData: data}, f: f}
	data.RootNode = root
	var never time.Duration
	raw := fs.NewNodeFS(root, &fs.Options{EntryTimeout: &never, AttrTimeout: &never, NegativeTimeout: &never, NullPermissions: true})
	server, err := fuse.NewServer(&fuseNumbers{RawFileSystem: raw, f: f}, f.Point, &fuse.MountOptions{
		Name: "holdfast-test", FsName: "holdfast-test", AllowOther: true, DirectMountStrict: true,
		// Locks reach the file system, and each name of a listing is looked up by itself.
		EnableLocks: true, DisableReadDirPlus: true,
	})
	if err != nil {
		t.Fatalf("mount a FUSE: %v", err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve()
	}()
	t.Cleanup(func() {
		f.Set() // an oddity must not keep the clean-up
		if err := unmountBelow(dir); err != nil {
			t.Errorf("remove the test's FUSE: %v", err)
		}
		<-served
	})
	if err := server.WaitMount(); err != nil {
		t.Fatalf("mount a FUSE: %v", err)
	}
	return f
}

// Set gives the file system these oddities in place of its former ones. With none it is
// a good file system again. If several let an operation fail, the first counts; the
// changes of the others add up.
func (f *FUSE) Set(odd ...Oddity) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.odd = slices.Clone(odd)
}

func (f *FUSE) oddities() []Oddity {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.odd
}

// FUSERefuses lets operations fail: with EPERM and FUSELink the file system cannot link,
// with FUSEChmod it cannot chmod, with EINVAL and FUSESyncFolder it cannot flush folders,
// with EIO and FUSERead it is on a broken disk, with ENOSYS and FUSELock it has no locks.
func FUSERefuses(errno syscall.Errno, ops ...FUSEOp) Oddity {
	return Oddity{Fail: func(op FUSEOp, _ string) syscall.Errno {
		if slices.Contains(ops, op) {
			return errno
		}
		return 0
	}}
}

// FUSENumbersChange tells another inode number at every look.
func FUSENumbersChange() Oddity {
	var last atomic.Uint64
	last.Store(1 << 32)
	return Oddity{Inode: func(uint64) uint64 { return last.Add(1) }}
}

// FUSESizes tells wrong sizes of the regular files.
func FUSESizes(size func(path string, size uint64) uint64) Oddity {
	return Oddity{Attr: func(path string, a *FUSEAttr) {
		if a.Mode&unix.S_IFMT == unix.S_IFREG {
			a.Size = size(path, a.Size)
		}
	}}
}

// At limits an oddity to these paths. Inode numbers are told
// without a path, so At drops that part of the oddity.
func (o Oddity) At(paths ...string) Oddity {
	var limited Oddity
	if o.Fail != nil {
		limited.Fail = func(op FUSEOp, path string) syscall.Errno {
			if slices.Contains(paths, path) {
				return o.Fail(op, path)
			}
			return 0
		}
	}
	if o.Attr != nil {
		limited.Attr = func(path string, a *FUSEAttr) {
			if slices.Contains(paths, path) {
				o.Attr(path, a)
			}
		}
	}
	if o.Read != nil {
		limited.Read = func(path string, offset int64, data []byte) ([]byte, syscall.Errno) {
			if slices.Contains(paths, path) {
				return o.Read(path, offset, data)
			}
			return data, 0
		}
	}
	return limited
}
