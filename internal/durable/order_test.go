package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// disk is a model of a file system whose power is cut after a number of calls. It keeps the
// content that the kernel shows apart from the content that has surely reached the disk.
type disk struct {
	live, sure map[string]*inode // by path
	calls      []string
	cutAfter   int // -1: never
	// the call that fails with errFull, from 1; 0: none
	failAt  int
	refuse  map[string]error                  // by the first word of a call
	sweeper func(temp string, calls []string) // runs before each call on a temporary file
	locked  map[string]bool
}

type inode struct {
	folder bool
	data   string
	synced bool
	perm   fs.FileMode
}

var (
	errCut  = errors.New("power was cut")
	errFull = errors.New("no space left")
)

func newDisk(cutAfter int) *disk {
	root := &inode{folder: true}
	return &disk{live: map[string]*inode{".": root}, sure: map[string]*inode{".": root}, cutAfter: cutAfter}
}

// call begins each call: it fails from the cut on.
func (d *disk) call(format string, args ...any) error {
	if d.cutAfter >= 0 && len(d.calls) >= d.cutAfter {
		return errCut
	}
	d.calls = append(d.calls, shorten(fmt.Sprintf(format, args...)))
	if len(d.calls) == d.failAt {
		return errFull
	}
	word, _, _ := strings.Cut(format, " %s")
	if err := d.refuse[word]; err != nil {
		return err
	}
	if d.sweeper != nil && len(args) > 0 && IsTemporary(fmt.Sprint(args[0])) {
		d.sweeper(fmt.Sprint(args[0]), d.calls)
	}
	return nil
}

// shorten replaces the random part of temporary names.
func shorten(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		if IsTemporary(w) {
			words[i] = filepath.Join(filepath.Dir(w), "TEMP")
		}
	}
	return strings.Join(words, " ")
}

func (d *disk) create(name string) (file, error) {
	if err := d.call("create %s", name); err != nil {
		return nil, err
	}
	if d.live[filepath.Dir(name)] == nil {
		return nil, fs.ErrNotExist
	}
	n := &inode{}
	d.live[name] = n
	return &handle{d, name, n}, nil
}

func (d *disk) exists(name string) error {
	if err := d.call("look at %s", name); err != nil {
		return err
	}
	if d.live[name] == nil {
		return fs.ErrNotExist
	}
	return nil
}

func (d *disk) renameNew(from, to string) error {
	if err := d.call("rename new %s %s", from, to); err != nil {
		return err
	}
	if d.live[to] != nil {
		return fs.ErrExist
	}
	if d.live[from] == nil || d.live[filepath.Dir(to)] == nil {
		return fs.ErrNotExist
	}
	d.live[to] = d.live[from]
	delete(d.live, from)
	return nil
}

func (d *disk) rename(from, to string) error {
	if err := d.call("rename %s %s", from, to); err != nil {
		return err
	}
	d.live[to] = d.live[from]
	delete(d.live, from)
	return nil
}

func (d *disk) link(from, to string) error {
	if err := d.call("link %s %s", from, to); err != nil {
		return err
	}
	if d.live[to] != nil {
		return fs.ErrExist
	}
	if d.live[from] == nil || d.live[filepath.Dir(to)] == nil {
		return fs.ErrNotExist
	}
	d.live[to] = d.live[from]
	return nil
}

func (d *disk) remove(name string) error {
	if err := d.call("remove %s", name); err != nil {
		return err
	}
	if d.live[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.live, name)
	return nil
}

func (d *disk) mkdir(name string) error {
	if err := d.call("mkdir %s", name); err != nil {
		return err
	}
	if d.live[name] != nil {
		return fs.ErrExist
	}
	if d.live[filepath.Dir(name)] == nil {
		return fs.ErrNotExist
	}
	d.live[name] = &inode{folder: true}
	return nil
}

func (d *disk) syncFolder(name string) error {
	if err := d.call("sync folder %s", name); err != nil {
		return err
	}
	maps.DeleteFunc(d.sure, func(p string, _ *inode) bool {
		return p != "." && filepath.Dir(p) == name && d.live[p] == nil
	})
	for p, n := range d.live {
		if p != "." && filepath.Dir(p) == name {
			d.sure[p] = n
		}
	}
	return nil
}

type handle struct {
	d    *disk
	name string
	n    *inode
}

func (h *handle) Write(p []byte) (int, error) {
	if err := h.d.call("write %s", h.name); err != nil {
		return 0, err
	}
	h.n.data, h.n.synced = h.n.data+string(p), false
	return len(p), nil
}

func (h *handle) Chmod(perm fs.FileMode) error {
	if err := h.d.call("chmod %s", h.name); err != nil {
		return err
	}
	h.n.perm = perm
	return nil
}

func (h *handle) Sync() error {
	if err := h.d.call("sync %s", h.name); err != nil {
		return err
	}
	h.n.synced = true
	return nil
}

func (h *handle) Lock() (func(), error) {
	if err := h.d.call("lock %s", h.name); err != nil {
		return nil, err
	}
	if h.d.locked == nil {
		h.d.locked = map[string]bool{}
	}
	if h.d.locked[h.name] {
		return nil, syscall.EWOULDBLOCK
	}
	h.d.locked[h.name] = true
	return func() { h.d.locked[h.name] = false }, nil
}

func (h *handle) Close() error { return h.d.call("close %s", h.name) }

// after returns the content that a reader may find under name after the cut: with none, or with
// all, of the names that were not flushed. "" is absent, "torn" is content that was not flushed.
func (d *disk) after(name string) []string {
	var found []string
	for _, names := range []map[string]*inode{d.sure, d.live} {
		n := names[name]
		for p := filepath.Dir(name); n != nil; p = filepath.Dir(p) {
			if names[p] == nil {
				n = nil
			}
			if p == "." {
				break
			}
		}
		switch {
		case n == nil:
			found = append(found, "")
		case !n.synced:
			found = append(found, "torn")
		default:
			found = append(found, n.data)
		}
	}
	return found
}

// put lays a durable file there, as an earlier run left it.
func (d *disk) put(name, data string) {
	n := &inode{data: data, synced: true}
	d.live[name], d.sure[name] = n, n
}

func TestWriteFileCallsInOrder(t *testing.T) {
	d := newDisk(-1)
	d.put("f", "old")
	if err := write(d, writing{name: "f", data: []byte("new"), perm: 0o640, replace: true}); err != nil {
		t.Fatal(err)
	}
	want := []string{"create TEMP", "write TEMP", "chmod TEMP", "sync TEMP", "close TEMP", "rename TEMP f", "sync folder ."}
	if !slices.Equal(d.calls, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(d.calls, "\n"), strings.Join(want, "\n"))
	}
	if d.live["f"].perm != 0o640 {
		t.Errorf("permissions %o", d.live["f"].perm)
	}
}

func TestPublishCallsInOrder(t *testing.T) {
	d := newDisk(-1)
	d.put("tmp", "")
	tree := &Tree{ops: d, tmp: "tmp"}
	for _, name := range []string{"a/b/f", "a/b/g"} {
		if err := tree.Publish(name, []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"mkdir a", "sync folder .", "mkdir a/b", "sync folder a",
		"create tmp/TEMP", "lock tmp/TEMP", "look at tmp/TEMP", "write tmp/TEMP", "chmod tmp/TEMP", "sync tmp/TEMP", "close tmp/TEMP",
		"link tmp/TEMP a/b/f", "sync folder a/b", "remove tmp/TEMP",
		"create tmp/TEMP", "lock tmp/TEMP", "look at tmp/TEMP", "write tmp/TEMP", "chmod tmp/TEMP", "sync tmp/TEMP", "close tmp/TEMP",
		"link tmp/TEMP a/b/g", "sync folder a/b", "remove tmp/TEMP",
	}
	if !slices.Equal(d.calls, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(d.calls, "\n"), strings.Join(want, "\n"))
	}
}

// TestPowerCut cuts the power after each call: a reader then finds the old file or the
// new one, and the new one for sure when the writer was told that all is well.
func TestPowerCut(t *testing.T) {
	for _, c := range []struct {
		name, file, old string
		run             func(*disk) error
	}{
		{"WriteFile", "f", "old", func(d *disk) error {
			return write(d, writing{name: "f", data: []byte("new"), perm: 0o600, replace: true})
		}},
		{"WriteFile of a new name", "f", "", func(d *disk) error {
			return write(d, writing{name: "f", data: []byte("new"), perm: 0o600, replace: true})
		}},
		{"Publish without hard links", "f", "", func(d *disk) error {
			d.refuse = map[string]error{"link": syscall.EPERM}
			return write(d, writing{name: "f", data: []byte("new"), perm: 0o600})
		}},
		{"Tree.Publish without hard links", "a/b/f", "", func(d *disk) error {
			d.refuse = map[string]error{"link": syscall.EPERM}
			return (&Tree{ops: d, tmp: "."}).Publish("a/b/f", []byte("new"), 0o600)
		}},
		{"Publish", "f", "", func(d *disk) error { return write(d, writing{name: "f", data: []byte("new"), perm: 0o600}) }},
		{"Tree.Publish", "a/b/f", "", func(d *disk) error {
			return (&Tree{ops: d, tmp: "."}).Publish("a/b/f", []byte("new"), 0o600)
		}},
		{"Tree.Publish in a folder that another made and did not flush", "a/b/f", "", func(d *disk) error {
			d.live["a"] = &inode{folder: true}
			d.live["a/b"] = &inode{folder: true}
			return (&Tree{ops: d, tmp: "."}).Publish("a/b/f", []byte("new"), 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for cut := 0; ; cut++ {
				d := newDisk(cut)
				if c.old != "" {
					d.put(c.file, c.old)
				}
				err := c.run(d)
				for _, got := range d.after(c.file) {
					if got != c.old && got != "new" || err == nil && got != "new" {
						t.Errorf("cut after %q: found %q, error %v", d.calls, got, err)
					}
				}
				if len(d.calls) < cut { // ran to its end
					if err != nil {
						t.Errorf("without a cut: %v", err)
					}
					return
				}
			}
		})
	}
}

// TestFailedCall lets each call fail in turn: the error comes back, and nothing temporary stays.
func TestFailedCall(t *testing.T) {
	for _, replace := range []bool{true, false} {
		for at := 1; at <= 7; at++ {
			d := newDisk(-1)
			d.failAt = at
			err := write(d, writing{name: "f", data: []byte("new"), perm: 0o600, replace: replace})
			if !errors.Is(err, errFull) {
				t.Errorf("call %d failed, error is %v", at, err)
			}
			for name := range d.live {
				if IsTemporary(name) {
					t.Errorf("after a failed %q: %s is left", d.calls[at-1], name)
				}
			}
			if n := d.live["f"]; n != nil && at < 7 {
				t.Errorf("after a failed %q the name is there", d.calls[at-1])
			}
		}
	}
}

// TestFolderRemovedMeanwhile: somebody tidied up an empty folder that the Tree had seen.
func TestFolderRemovedMeanwhile(t *testing.T) {
	d := newDisk(-1)
	tree := &Tree{ops: d, tmp: "."}
	if err := tree.Publish("a/f", []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	delete(d.live, "a/f")
	delete(d.live, "a")
	if err := tree.Publish("a/g", []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := d.after("a/g"); !slices.Equal(got, []string{"2", "2"}) {
		t.Errorf("found %q", got)
	}
}
