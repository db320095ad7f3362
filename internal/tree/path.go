package tree

import (
	"fmt"
	"strings"
)

// maxName is the longest element of a path that Linux takes, in bytes.
const maxName = 255

// CheckPath returns nil for the path of an entry as a walk makes it: "" for the
// root, otherwise elements of 1 to 255 bytes separated by single slashes, none of
// them "." or "..", no NUL. Any other path gives an error that is ErrUnsafePath.
func CheckPath(path string) error {
	if path == "" {
		return nil
	}
	if strings.IndexByte(path, 0) >= 0 {
		return unsafePath(path, "it holds a NUL byte")
	}
	for rest := path; ; {
		name, after, more := strings.Cut(rest, "/")
		switch {
		case name == "":
			return unsafePath(path, "it has an empty element")
		case name == "." || name == "..":
			return unsafePath(path, "it has the element "+name)
		case len(name) > maxName:
			return unsafePath(path, "it has an element of more than 255 bytes")
		}
		if !more {
			return nil
		}
		rest = after
	}
}

// unsafePath is an error that names path, cut to a length that fits a message, and its fault.
func unsafePath(path, why string) error {
	return fmt.Errorf("%w: %s: %s", ErrUnsafePath, quote(path), why)
}

// quote makes any bytes printable and keeps messages short: paths may be megabytes long.
func quote(path string) string {
	const head, tail = 120, 120
	if len(path) <= head+tail {
		return fmt.Sprintf("%q", path)
	}
	return fmt.Sprintf("%q…%q", path[:head], path[len(path)-tail:])
}

// ComparePaths orders paths as a walk gives them: negative when a comes before b, 0 when they
// are equal. A folder comes before its content, its content before the folder's next sibling,
// and siblings are in the order of their bytes; so the slash sorts before every other byte.
func ComparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}

// splitPath gives the path of the folder that holds path, and the last element.
func splitPath(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}
