package testbed

import (
	"context"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fuseNode is a file or folder of a FUSE. Each method asks the oddities first and then
// acts as a good file system.
type fuseNode struct {
	fs.LoopbackNode
	f *FUSE
}

// path is the node's path in the file system.
func (n *fuseNode) path() string {
	if p := n.Path(n.Root()); p != "" {
		return p
	}
	return "."
}

func (n *fuseNode) below(name string) string { return path.Join(n.path(), name) }

func (n *fuseNode) fail(op FUSEOp, path string) syscall.Errno {
	for _, o := range n.f.oddities() {
		if o.Fail == nil {
			continue
		}
		if errno := o.Fail(op, path); errno != 0 {
			return errno
		}
	}
	return 0
}

// tell changes attributes to the values that the file system tells.
func (n *fuseNode) tell(path string, a *fuse.Attr) {
	for _, o := range n.f.oddities() {
		if o.Attr == nil {
			continue
		}
		told := FUSEAttr{
			Size: a.Size, Blocks: a.Blocks, Mode: a.Mode, Links: a.Nlink, UID: a.Uid, GID: a.Gid,
			Access: time.Unix(int64(a.Atime), int64(a.Atimensec)), Modify: time.Unix(int64(a.Mtime), int64(a.Mtimensec)),
			Change: time.Unix(int64(a.Ctime), int64(a.Ctimensec)),
		}
		o.Attr(path, &told)
		a.Size, a.Blocks, a.Mode = told.Size, told.Blocks, a.Mode&unix.S_IFMT|told.Mode&^unix.S_IFMT
		a.Nlink, a.Uid, a.Gid = told.Links, told.UID, told.GID
		a.SetTimes(&told.Access, &told.Modify, &told.Change)
	}
}

// made finishes an operation that made or found the name of a node.
func (n *fuseNode) made(name string, node *fs.Inode, errno syscall.Errno, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno == 0 {
		n.tell(n.below(name), &out.Attr)
	}
	return node, errno
}

func (n *fuseNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.fail(FUSELookup, n.below(name)); errno != 0 {
		return nil, errno
	}
	node, errno := n.LoopbackNode.Lookup(ctx, name, out)
	return n.made(name, node, errno, out)
}

func (n *fuseNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.fail(FUSEMkdir, n.below(name)); errno != 0 {
		return nil, errno
	}
	node, errno := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	return n.made(name, node, errno, out)
}

func (n *fuseNode) Mknod(ctx context.Context, name string, mode, dev uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.fail(FUSEMknod, n.below(name)); errno != 0 {
		return nil, errno
	}
	node, errno := n.LoopbackNode.Mknod(ctx, name, mode, dev, out)
	return n.made(name, node, errno, out)
}

func (n *fuseNode) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.fail(FUSESymlink, n.below(name)); errno != 0 {
		return nil, errno
	}
	node, errno := n.LoopbackNode.Symlink(ctx, target, name, out)
	return n.made(name, node, errno, out)
}

func (n *fuseNode) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.fail(FUSELink, n.below(name)); errno != 0 {
		return nil, errno
	}
	node, errno := n.LoopbackNode.Link(ctx, target, name, out)
	return n.made(name, node, errno, out)
}

func (n *fuseNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.fail(FUSECreate, n.below(name)); errno != 0 {
		return nil, nil, 0, errno
	}
	node, handle, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	node, errno = n.made(name, node, errno, out)
	return node, handle, fuse.FOPEN_DIRECT_IO, errno
}

// Tmpfile is not offered, as most file systems in user space do not.
func (n *fuseNode) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, unix.EOPNOTSUPP
}

func (n *fuseNode) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.fail(FUSEUnlink, n.below(name)); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *fuseNode) Rmdir(ctx context.Context, name string) syscall.Errno {
	if errno := n.fail(FUSERmdir, n.below(name)); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rmdir(ctx, name)
}

func (n *fuseNode) Rename(ctx context.Context, name string, folder fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	op := FUSERename
	if flags&unix.RENAME_NOREPLACE != 0 {
		op = FUSERenameNew
	}
	if errno := n.fail(op, folder.(*fuseNode).below(newName)); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, folder, newName, flags)
}

func (n *fuseNode) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	if errno := n.fail(FUSEReadlink, n.path()); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Readlink(ctx)
}

func (n *fuseNode) Getattr(ctx context.Context, handle fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.fail(FUSEStat, n.path()); errno != 0 {
		return errno
	}
	if _, folder := handle.(*fuseFolder); folder {
		handle = nil
	}
	errno := n.LoopbackNode.Getattr(ctx, handle, out)
	if errno == 0 {
		n.tell(n.path(), &out.Attr)
	}
	return errno
}

func (n *fuseNode) Setattr(ctx context.Context, handle fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	for op, flags := range map[FUSEOp]uint32{
		FUSEChmod: fuse.FATTR_MODE, FUSEChown: fuse.FATTR_UID | fuse.FATTR_GID, FUSETruncate: fuse.FATTR_SIZE, FUSETimes: fuse.FATTR_ATIME | fuse.FATTR_MTIME,
	} {
		if in.Valid&flags == 0 {
			continue
		}
		if errno := n.fail(op, n.path()); errno != 0 {
			return errno
		}
	}
	errno := n.LoopbackNode.Setattr(ctx, handle, in, out)
	if errno == 0 {
		n.tell(n.path(), &out.Attr)
	}
	return errno
}

func (n *fuseNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.fail(FUSEOpen, n.path()); errno != 0 {
		return nil, 0, errno
	}
	handle, _, errno := n.LoopbackNode.Open(ctx, flags)
	return handle, fuse.FOPEN_DIRECT_IO, errno
}

func (n *fuseNode) Read(ctx context.Context, handle fs.FileHandle, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	if errno := n.fail(FUSERead, n.path()); errno != 0 {
		return nil, errno
	}
	result, errno := handle.(fs.FileReader).Read(ctx, dest, offset)
	if errno != 0 {
		return nil, errno
	}
	odd := n.f.oddities()
	if !slices.ContainsFunc(odd, func(o Oddity) bool { return o.Read != nil }) {
		return result, 0
	}
	data, status := result.Bytes(dest)
	if !status.Ok() {
		return nil, syscall.Errno(status)
	}
	for _, o := range odd {
		if o.Read == nil {
			continue
		}
		if data, errno = o.Read(n.path(), offset, data); errno != 0 {
			return nil, errno
		}
	}
	return fuse.ReadResultData(data), 0
}

func (n *fuseNode) Write(ctx context.Context, handle fs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	if errno := n.fail(FUSEWrite, n.path()); errno != 0 {
		return 0, errno
	}
	return handle.(fs.FileWriter).Write(ctx, data, offset)
}

func (n *fuseNode) Flush(ctx context.Context, handle fs.FileHandle) syscall.Errno {
	if errno := n.fail(FUSEFlush, n.path()); errno != 0 {
		return errno
	}
	return handle.(fs.FileFlusher).Flush(ctx)
}

func (n *fuseNode) Fsync(ctx context.Context, handle fs.FileHandle, flags uint32) syscall.Errno {
	if errno := n.fail(FUSESync, n.path()); errno != 0 {
		return errno
	}
	return handle.(fs.FileFsyncer).Fsync(ctx, flags)
}

func (n *fuseNode) Setlk(ctx context.Context, handle fs.FileHandle, owner uint64, lock *fuse.FileLock, flags uint32) syscall.Errno {
	if errno := n.fail(FUSELock, n.path()); errno != 0 {
		return errno
	}
	return handle.(fs.FileSetlker).Setlk(ctx, owner, lock, flags)
}

func (n *fuseNode) Setlkw(ctx context.Context, handle fs.FileHandle, owner uint64, lock *fuse.FileLock, flags uint32) syscall.Errno {
	if errno := n.fail(FUSELock, n.path()); errno != 0 {
		return errno
	}
	return handle.(fs.FileSetlkwer).Setlkw(ctx, owner, lock, flags)
}

func (n *fuseNode) Lseek(ctx context.Context, handle fs.FileHandle, offset uint64, whence uint32) (uint64, syscall.Errno) {
	if errno := n.fail(FUSESeek, n.path()); errno != 0 {
		return 0, errno
	}
	seeker, ok := handle.(fs.FileLseeker)
	if !ok {
		return 0, unix.ENOTSUP
	}
	return seeker.Lseek(ctx, offset, whence)
}

func (n *fuseNode) Allocate(ctx context.Context, handle fs.FileHandle, offset, size uint64, mode uint32) syscall.Errno {
	if errno := n.fail(FUSEAllocate, n.path()); errno != 0 {
		return errno
	}
	return handle.(fs.FileAllocater).Allocate(ctx, offset, size, mode)
}

func (n *fuseNode) Getxattr(ctx context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	if errno := n.fail(FUSEGetXattr, n.path()); errno != 0 {
		return 0, errno
	}
	return n.LoopbackNode.Getxattr(ctx, attr, dest)
}

func (n *fuseNode) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	if errno := n.fail(FUSEListXattr, n.path()); errno != 0 {
		return 0, errno
	}
	return n.LoopbackNode.Listxattr(ctx, dest)
}

func (n *fuseNode) Setxattr(ctx context.Context, attr string, data []byte, flags uint32) syscall.Errno {
	if errno := n.fail(FUSESetXattr, n.path()); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Setxattr(ctx, attr, data, flags)
}

func (n *fuseNode) Removexattr(ctx context.Context, attr string) syscall.Errno {
	if errno := n.fail(FUSERemoveXattr, n.path()); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Removexattr(ctx, attr)
}

func (n *fuseNode) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	if errno := n.fail(FUSEStatfs, n.path()); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Statfs(ctx, out)
}

func (n *fuseNode) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.fail(FUSEOpenFolder, n.path()); errno != 0 {
		return nil, 0, errno
	}
	handle, _, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &fuseFolder{loopbackFolder: handle.(loopbackFolder), n: n}, 0, 0
}

// loopbackFolder is the interface of a good file system for an open folder.
type loopbackFolder interface {
	fs.FileReaddirenter
	fs.FileFsyncdirer
	fs.FileSeekdirer
	fs.FileReleasedirer
}

// fuseFolder is an open folder of a FUSE.
type fuseFolder struct {
	loopbackFolder
	n *fuseNode
}

func (d *fuseFolder) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	if errno := d.n.fail(FUSEReadFolder, d.n.path()); errno != 0 {
		return nil, errno
	}
	return d.loopbackFolder.Readdirent(ctx)
}

func (d *fuseFolder) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	if errno := d.n.fail(FUSESyncFolder, d.n.path()); errno != 0 {
		return errno
	}
	return d.loopbackFolder.Fsyncdir(ctx, flags)
}

// fuseNumbers changes the inode numbers on their way to the kernel:
// the library of the nodes has one number for a node's whole life.
type fuseNumbers struct {
	fuse.RawFileSystem
	f *FUSE
}

func (r *fuseNumbers) change(a *fuse.Attr) {
	for _, o := range r.f.oddities() {
		if o.Inode != nil {
			a.Ino = o.Inode(a.Ino)
		}
	}
}

func (r *fuseNumbers) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.Lookup(cancel, h, name, out)
}

func (r *fuseNumbers) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.GetAttr(cancel, in, out)
}

func (r *fuseNumbers) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.SetAttr(cancel, in, out)
}

func (r *fuseNumbers) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.Mkdir(cancel, in, name, out)
}

func (r *fuseNumbers) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.Mknod(cancel, in, name, out)
}

func (r *fuseNumbers) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.Create(cancel, in, name, out)
}

func (r *fuseNumbers) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.Link(cancel, in, name, out)
}

func (r *fuseNumbers) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	defer r.change(&out.Attr)
	return r.RawFileSystem.Symlink(cancel, h, target, name, out)
}

// Statx is not offered: the kernel then asks GetAttr.
func (r *fuseNumbers) Statx(<-chan struct{}, *fuse.StatxIn, *fuse.StatxOut) fuse.Status {
	return fuse.ENOSYS
}
