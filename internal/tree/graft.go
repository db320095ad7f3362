package tree

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// graft is a folder of its own that a walk shows in the place of an
// empty one: the snapshot of a btrfs subvolume that was nested in the
// tree. The snapshot of the tree has an empty folder (a stub) there.
type graft struct {
	path string // of the stub, below the root
	fd   int
}

// Graft makes the tree show folder in the place of the stub at path, for walks and for
// Open from now on. It is called before the tree is used. The folder is on the same
// mount; Close releases it. One graft may be inside another.
func (r *Root) Graft(path, folder string) error {
	fd, err := openAt(unix.AT_FDCWD, folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open tree", Path: folder, Err: err}
	}
	r.grafts = append(r.grafts, graft{path, fd})
	r.still = r.still && readOnlySubvolume(fd)
	return nil
}

// grafted returns the open folder above path, and the rest of the path below it: the
// folder of the innermost graft, or of the root.
func (r *Root) grafted(path string) (base int, rest string) {
	base, rest = r.fd, path
	best := -1
	for _, g := range r.grafts {
		if len(g.path) <= best {
			continue
		}
		switch {
		case path == g.path:
			base, rest, best = g.fd, "", len(g.path)
		case strings.HasPrefix(path, g.path) && path[len(g.path)] == '/':
			base, rest, best = g.fd, path[len(g.path)+1:], len(g.path)
		}
	}
	return base, rest
}

// isGraft tells whether a graft is shown at path.
func (r *Root) isGraft(path string) bool {
	for _, g := range r.grafts {
		if g.path == path {
			return true
		}
	}
	return false
}

// openIn opens the entry that the tree shows at path; see openBeneath.
func (r *Root) openIn(path string, flags int) (int, error) {
	base, rest := r.grafted(path)
	return openBeneath(base, rest, flags)
}
