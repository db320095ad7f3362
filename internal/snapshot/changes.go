package snapshot

import (
	"errors"
	"os"
)

// Range is a run of bytes of a file or block device.
type Range struct {
	Offset, Length int64 // bytes
}

// End is the offset of the first byte behind the range.
func (r Range) End() int64 { return r.Offset + r.Length }

// Changes is what may differ between a base and a later view: a superset. It is for one goroutine at a
// time. Close is due after use, before either view is removed.
//
// For an image it is the list of ranges. For a tree it is a set of inode numbers, and for each of those
// files a list of ranges. Inode numbers are those of the view, which are those of the volume.
type Changes struct {
	kind   Kind
	image  []Range
	exact  bool
	closes []*os.File
}

// ImageChanges makes the answer for an image. The ranges are in order and do not overlap; exact is as
// Changes.Image tells it.
func ImageChanges(ranges []Range, exact bool) *Changes {
	return &Changes{kind: Image, image: ranges, exact: exact}
}

// Image lists, in order and without overlap, the ranges of an image that may differ. What lies behind the
// end of the base is in it, also where it is a hole. exact is false when some are listed only because
// the file system did not tell enough of them (compressed or inline extents, preallocated space).
func (c *Changes) Image() (ranges []Range, exact bool) { return c.image, c.exact }

// Close frees what the Changes holds open. It may be called twice.
func (c *Changes) Close() error {
	var errs []error
	for _, f := range c.closes {
		errs = append(errs, f.Close())
	}
	c.closes = nil
	return errors.Join(errs...)
}
