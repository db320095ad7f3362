package tree

import (
	"bytes"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrReader reads extended attributes, with buffers that it keeps. It is for one goroutine.
type xattrReader struct {
	list  []byte
	value []byte
	off   bool // the file system keeps none
	// The same few names and values (a label of SELinux, a project's default ACL) come again and again.
	names  map[string]string
	values map[string][]byte
}

func newXattrReader(off bool) *xattrReader {
	return &xattrReader{
		list: make([]byte, 4<<10), value: make([]byte, 4<<10), off: off,
		names: make(map[string]string), values: make(map[string][]byte),
	}
}

// maxInterned bounds how many different names or values are remembered.
const maxInterned = 1024

// read gives the attributes of name in dirfd, or without a name of dirfd itself, sorted.
func (r *xattrReader) read(dirfd int, name cname) ([]Xattr, error) {
	if r.off {
		return nil, nil
	}
	n, err := r.grow(&r.list, func(buf []byte) (int, error) { return listXattrs(dirfd, name, buf) })
	switch {
	case err == unix.EOPNOTSUPP:
		return nil, nil // this kind of file has none
	case err != nil || n == 0:
		return nil, err
	}
	var attrs []Xattr
	for list := r.list[:n]; len(list) > 0; {
		end := bytes.IndexByte(list, 0)
		if end < 0 {
			end = len(list)
		}
		attr := r.name(list[:end])
		list = list[min(end+1, len(list)):]
		if attr == "" {
			continue
		}
		size, err := r.grow(&r.value, func(buf []byte) (int, error) { return getXattr(dirfd, name, attr, buf) })
		switch err {
		case nil:
			attrs = append(attrs, Xattr{Name: attr, Value: r.intern(r.value[:size])})
		case unix.ENODATA, unix.EOPNOTSUPP:
			// Removed since it was listed, or a name that the file system lists for all files
			// and keeps for some.
		default:
			return nil, &xattrError{attr, err}
		}
	}
	slices.SortFunc(attrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return attrs, nil
}

// grow calls get until its buffer is large enough.
func (r *xattrReader) grow(buf *[]byte, get func([]byte) (int, error)) (int, error) {
	for {
		n, err := get(*buf)
		if err == unix.ERANGE && len(*buf) < 1<<20 {
			*buf = make([]byte, 4*len(*buf))
			continue
		}
		return n, err
	}
}

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
