package main

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"holdfast/internal/pattern"
	"holdfast/internal/tree"
)

// treeSize adds up the bytes that a backup of the tree at root will read: allocated
// bytes of regular files, each inode once, without crossing into other file systems, and
// without entries that exclude matches. It asks no mounted file system, which may never
// answer. It is an estimate: an entry that vanishes or can't be read counts nothing.
func treeSize(ctx context.Context, root string, exclude *pattern.Set) (uint64, error) {
	type inode struct{ dev, ino uint64 }
	mounts := tree.MountPoints(root)
	var total uint64
	var device uint64
	linked := make(map[inode]bool) // only of files with several names
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return nil //nolint:nilerr // the backup itself reports entries that it can't read
		}
		if below, ok := strings.CutPrefix(path, root+"/"); ok && (mounts[below] || exclude.Match(below, d.IsDir)) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // vanished
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if path == root {
			device = st.Dev
		}
		if d.IsDir() && st.Dev != device {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		if st.Nlink > 1 {
			id := inode{st.Dev, st.Ino}
			if linked[id] {
				return nil
			}
			linked[id] = true
		}
		bytes := st.Size
		// Holes are not read. A size without blocks can be data that is not allocated yet.
		if onDisk := st.Blocks * 512; onDisk > 0 {
			bytes = min(bytes, onDisk)
		}
		total += uint64(bytes)
		return nil
	})
	return total, err
}
