package obs

import (
	"net/url"
	"path/filepath"
	"strings"
)

// Overlap tells whether two stores, as their String methods name them, are one store, or one lies
// below the other. It compares names, with the links of folders resolved; two names of one
// server are not found out.
func Overlap(a, b string) bool {
	x, xerr := url.Parse(a)
	y, yerr := url.Parse(b)
	if xerr != nil || yerr != nil {
		return a == b
	}
	if x.Scheme == "file" || y.Scheme == "file" {
		return x.Scheme == y.Scheme && nested(realPath(x.Path), realPath(y.Path))
	}
	same := x.Scheme == y.Scheme && x.Host == y.Host &&
		serverOf(x) == serverOf(y) && x.Query().Get("region") == y.Query().Get("region")
	return same && nested(x.Path, y.Path)
}

// serverOf is the server of a bucket; "" is the one of the region.
func serverOf(u *url.URL) string {
	e, err := url.Parse(strings.ToLower(u.Query().Get("endpoint")))
	if err != nil {
		return u.Query().Get("endpoint")
	}
	return e.Host
}

// realPath resolves the links of a path, as far as there are folders.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// nested tells whether one path is the other, or lies below the other.
func nested(a, b string) bool {
	a, b = strings.Trim(a, "/")+"/", strings.Trim(b, "/")+"/"
	if a == "/" || b == "/" {
		return true
	}
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}
