package tree

import (
	"strings"

	"golang.org/x/sys/unix"
)

// maxOpen bounds the folders of the current path that are kept open; in a deeper tree
// the chain closes the folders nearest to the root and opens them again on the way back.
const maxOpen = 64

// chain is the current path of a walk or a restore: the folders from the root
// down, the lowest of them open. Only its last maxOpen folders hold
// descriptors, always a run that ends at the last one. It is for one goroutine.
type chain struct {
	base   int   // the root, owned by the caller
	root   *Root // the root of a walk, with grafts in the path; nil for a restore
	path   []byte
	levels []level
	lowest int // the first level with a descriptor
	flags  int
}

type level struct {
	fd  int // -1 when closed
	id  fileID
	end int // length of the path of this folder
}

// push makes fd, the folder name below the last one, the last one. The chain owns fd from here on.
func (c *chain) push(name cname, fd int, id fileID) {
	if len(c.levels) > 0 {
		if len(c.path) > 0 {
			c.path = append(c.path, '/')
		}
		c.path = append(c.path, name.bytes()...)
	}
	c.levels = append(c.levels, level{fd: fd, id: id, end: len(c.path)})
	for len(c.levels)-c.lowest > maxOpen {
		c.closeLevel(&c.levels[c.lowest])
		c.lowest++
	}
}

// pop leaves the last folder. It opens the folder above again if that was closed; if
// that fails, fd tries once more and reports why.
func (c *chain) pop() {
	last := len(c.levels) - 1
	if last > 0 && c.levels[last-1].fd < 0 {
		c.levels[last-1].fd = c.up(last)
	}
	c.closeLevel(&c.levels[last])
	c.levels = c.levels[:last]
	c.lowest = max(0, min(c.lowest, last-1))
	if last > 0 {
		c.path = c.path[:c.levels[last-1].end]
	}
}

// up opens the folder above level i through "..", and returns -1 unless it is the same
// folder as before: the folder may have been moved meanwhile, to anywhere.
func (c *chain) up(i int) int {
	if c.levels[i].fd < 0 {
		return -1
	}
	fd, err := openAt(c.levels[i].fd, "..", c.flags, 0)
	if err != nil {
		return -1
	}
	if !isFile(fd, c.levels[i-1].id) {
		closeFD(fd)
		return -1
	}
	return fd
}

// fd gives the descriptor of the last folder. The chain keeps owning it.
func (c *chain) fd() (int, error) {
	l := &c.levels[len(c.levels)-1]
	if l.fd >= 0 {
		return l.fd, nil
	}
	base, path := c.base, string(c.path[:l.end])
	if c.root != nil {
		base, path = c.root.grafted(path)
	}
	fd, err := openBeneath(base, path, c.flags)
	if err != nil {
		return -1, err
	}
	if !isFile(fd, l.id) {
		closeFD(fd)
		return -1, ErrChanged
	}
	l.fd = fd
	return fd, nil
}

// last gives the last folder.
func (c *chain) last() fileID { return c.levels[len(c.levels)-1].id }

// join gives the path of name in the last folder.
func (c *chain) join(name cname) string {
	if len(c.path) == 0 {
		return name.String()
	}
	var b strings.Builder
	b.Grow(len(c.path) + len(name))
	b.Write(c.path)
	b.WriteByte('/')
	b.Write(name.bytes())
	return b.String()
}

// holds says whether path lies below the last folder.
func (c *chain) holds(path string) bool {
	n := len(c.path)
	return n == 0 || len(path) > n && path[n] == '/' && string(c.path) == path[:n]
}

func (c *chain) close() {
	for i := range c.levels {
		c.closeLevel(&c.levels[i])
	}
	c.levels = nil
}

func (c *chain) closeLevel(l *level) {
	if l.fd >= 0 {
		closeFD(l.fd)
		l.fd = -1
	}
}

func isFile(fd int, id fileID) bool {
	var st unix.Statx_t
	return statAt(fd, "", &st) == nil && idOf(&st) == id
}

// inFolder tells whether the last folder has that name.
func (c *chain) inFolder(name string) bool {
	path := string(c.path)
	return path == name || strings.HasSuffix(path, "/"+name)
}
