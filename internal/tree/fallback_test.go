package tree

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestXattrsWithoutNewCalls reads attributes as on kernels before 6.13.
func TestXattrsWithoutNewCalls(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	large := []byte(strings.Repeat("v", 3000))
	for name, value := range map[string][]byte{"user.b": []byte("2"), "user.a": nil, "user.large": large} {
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			t.Skip(err)
		}
	}
	fd, err := openAt(unix.AT_FDCWD, dir, openDir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(fd)
	defer noXattrAt.Store(noXattrAt.Load())
	for _, missing := range []bool{false, true} {
		noXattrAt.Store(missing)
		r := newXattrReader(false)
		r.value, r.list = r.value[:1:1], r.list[:1:1] // both have to grow
		attrs, err := r.read(fd, cname("f\x00"))
		if err != nil || len(attrs) < 3 {
			t.Fatalf("missing %v: %v %v", missing, attrs, err)
		}
		attrs = slices.DeleteFunc(attrs, func(x Xattr) bool { return !strings.HasPrefix(x.Name, "user.") })
		if attrs[0].Name != "user.a" || len(attrs[0].Value) != 0 || attrs[1].Name != "user.b" || string(attrs[1].Value) != "2" ||
			string(attrs[2].Value) != string(large) {
			t.Errorf("missing %v: %v", missing, attrs)
		}
	}
}
