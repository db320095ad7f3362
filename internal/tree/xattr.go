package tree

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrReader reads extended attributes, with buffers that it keeps. It is for one goroutine.
type xattrReader struct {
	list  []byte
	value []byte
	off   bool // the file system keeps none
	// The same few names and values (a label of SELinux, a project's
	// default ACL) come again and again.
	names  map[string]string
	values map[string][]byte
}

func newXattrReader(off bool) *xattrReader {
	return &xattrReader{
		list: make([]byte, 4<<10), value: make([]byte, 4<<10), off: off,
		names: make(map[string]string), values: make(map[string][]byte),
	}
}

// OwnXattrs begins the names of the attributes that Holdfast itself keeps on volumes. They tell of
// the very folder or file that they are on, so a walk leaves them out, and a Target sets none.
const OwnXattrs = "trusted.holdfast."

// maxInterned bounds how many different names or values are remembered.
const maxInterned = 1024

// relists is how often the attributes are listed again, when one of
// the list was gone before it was read.
const relists = 3

// read gives the attributes of name in dirfd, or without a name of dirfd itself,
// sorted. With an error it still gives the attributes that could be read.
func (r *xattrReader) read(dirfd int, name cname) ([]Xattr, error) {
	if r.off {
		return nil, nil
	}
	for try := 0; ; try++ {
		attrs, stale, err := r.once(dirfd, name)
		if !stale || try == relists {
			return attrs, err
		}
	}
}

// once lists the attributes and reads them. stale says that an attribute
// of the list was gone before it was read: it may have been replaced by
// one of another name, so that the list has to be asked for again.
func (r *xattrReader) once(dirfd int, name cname) (attrs []Xattr, stale bool, err error) {
	n, err := r.grow(&r.list, func(buf []byte) (int, error) { return listXattrs(dirfd, name, buf) })
	switch {
	case err == unix.EOPNOTSUPP:
		return nil, false, nil // this kind of file has none
	case err == unix.E2BIG:
		// The names take more than the kernel gives (XATTR_LIST_MAX). The attributes
		// that control access have well-known names.
		attrs = r.wellKnown(dirfd, name)
		return attrs, false, err
	case err != nil || n == 0:
		return nil, false, err
	}
	var errs []error
	for list := r.list[:n]; len(list) > 0; {
		end := bytes.IndexByte(list, 0)
		if end < 0 {
			end = len(list)
		}
		attr := r.name(list[:end])
		list = list[min(end+1, len(list)):]
		if attr == "" || strings.HasPrefix(attr, OwnXattrs) {
			continue
		}
		size, err := r.get(dirfd, name, attr)
		switch {
		case err == nil:
			attrs = append(attrs, Xattr{Name: attr, Value: r.intern(r.value[:size])})
		case err == unix.ENODATA:
			stale = true // or a name that the file system lists for all files and keeps for some
		case err == unix.EOPNOTSUPP:
			// Likewise listed for all files.
		case Ours(err):
			return nil, false, err
		default:
			errs = append(errs, &xattrError{attr, err})
		}
	}
	sortXattrs(attrs)
	return attrs, stale, attrErrors(errs)
}

// wellKnown reads the attributes with well-known names, which it need not list.
func (r *xattrReader) wellKnown(dirfd int, name cname) (attrs []Xattr) {
	for _, attr := range []string{
		"security.apparmor", "security.capability", "security.ima", "security.selinux", "security.SMACK64",
		"system.posix_acl_access", "system.posix_acl_default",
	} {
		if size, err := r.get(dirfd, name, attr); err == nil {
			attrs = append(attrs, Xattr{Name: attr, Value: r.intern(r.value[:size])})
		}
	}
	sortXattrs(attrs)
	return attrs
}

func sortXattrs(attrs []Xattr) {
	slices.SortFunc(attrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
}

// attrErrors makes one error of the errors of several attributes. It names the first.
func attrErrors(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w, and %d more", errs[0], len(errs)-1)
}

func (r *xattrReader) get(dirfd int, name cname, attr string) (int, error) {
	return r.grow(&r.value, func(buf []byte) (int, error) { return getXattr(dirfd, name, attr, buf) })
}

// grow calls get until its buffer is large enough. No list and no value of the kernel is
// larger than maxXattr, so a get that always asks for more does not make it grow for ever.
func (r *xattrReader) grow(buf *[]byte, get func([]byte) (int, error)) (int, error) {
	for {
		n, err := get(*buf)
		if err == unix.ERANGE && len(*buf) < maxXattr {
			*buf = make([]byte, min(4*len(*buf), maxXattr))
			continue
		}
		return n, err
	}
}

// maxXattr is more than XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
const maxXattr = 128 << 10

func (r *xattrReader) name(b []byte) string {
	if s, ok := r.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(r.names) < maxInterned {
		r.names[s] = s
	}
	return s
}

// intern copies b, or gives the copy made before: callers do not write to values.
func (r *xattrReader) intern(b []byte) []byte {
	const small = 256
	if len(b) > small {
		return bytes.Clone(b)
	}
	if v, ok := r.values[string(b)]; ok {
		return v
	}
	v := append([]byte{}, b...)
	if len(r.values) < maxInterned {
		r.values[string(v)] = v
	}
	return v
}

// xattrError names the attribute that could not be read.
type xattrError struct {
	name string
	err  error
}

func (e *xattrError) Error() string { return quote(e.name) + ": " + e.err.Error() }
func (e *xattrError) Unwrap() error { return e.err }
