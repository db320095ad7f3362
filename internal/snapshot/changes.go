package snapshot

import (
	"errors"
	"os"
	"sort"
)

// Range is a run of bytes of a file or block device.
type Range struct {
	Offset, Length int64 // bytes
}

// End is the offset of the first byte behind the range.
func (r Range) End() int64 { return r.Offset + r.Length }

// Changes are the places that may differ between a base and a later view: a superset. It
// is for one goroutine at a time. Close is due after use, before either view is removed.
//
// For an image Changes is a list of ranges. For a tree it is a set of inode numbers, and for each
// of those files a list of ranges. The inode numbers are the same in the view and in the volume.
type Changes struct {
	image  []Range
	exact  bool
	inodes runs
	tree   *treePair // nil for images
	closes []*os.File
}

// ImageChanges makes the answer for an image. The ranges are in
// order and do not overlap; exact is as Changes.Image tells it.
func ImageChanges(ranges []Range, exact bool) *Changes {
	return &Changes{image: ranges, exact: exact}
}

// Image lists, in order and without overlap, the ranges of an image that may differ.
// All space behind the end of the base is in it, holes too. exact is false when some
// ranges are listed only because the file system told too little about them (compressed
// or inline extents, preallocated space).
func (c *Changes) Image() (ranges []Range, exact bool) { return c.image, c.exact }

// Inode reports whether anything of the file, folder or link with that number may
// differ: content, size, any metadata, any of its names. For a folder it is true as
// well when an entry was added, removed or renamed. For a number that the base did not
// have it is true. An image has no inodes: always true.
func (c *Changes) Inode(ino uint64) bool { return c.tree == nil || c.inodes.has(ino) }

// Inodes is the count of inodes that may differ, including removed ones.
func (c *Changes) Inodes() int64 { return c.inodes.count() }

// File lists the ranges of the regular file with that inode number,
// in a tree, that may differ, as Image does. size is the file's size
// in the view. A file that the base did not have differs in whole.
func (c *Changes) File(ino uint64, size int64) (ranges []Range, exact bool, err error) {
	if c.tree == nil {
		return []Range{{0, size}}, false, nil
	}
	return c.tree.file(ino, size)
}

// Close frees the files that the Changes keeps open. It may be called twice.
func (c *Changes) Close() error {
	var errs []error
	for _, f := range c.closes {
		errs = append(errs, f.Close())
	}
	c.closes = nil
	return errors.Join(errs...)
}

// runs is a set of numbers as runs in ascending order: files made one after the other
// have numbers side by side, so that a million changed ones take little memory.
type runs []struct{ first, last uint64 }

// add puts n into the set; it must not be less than any number before.
func (r *runs) add(n uint64) {
	if k := len(*r); k > 0 {
		switch last := &(*r)[k-1].last; {
		case n <= *last:
			return
		case n == *last+1:
			*last = n
			return
		}
	}
	*r = append(*r, struct{ first, last uint64 }{n, n})
}

func (r runs) has(n uint64) bool {
	i := sort.Search(len(r), func(i int) bool { return r[i].last >= n })
	return i < len(r) && r[i].first <= n
}

func (r runs) count() int64 {
	var n int64
	for _, x := range r {
		n += int64(x.last - x.first + 1)
	}
	return n
}
