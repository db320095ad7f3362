package durable

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestLacks: if a file system lacks a call, Publish does without it, uses another call, or refuses.
func TestLacks(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse map[string]error
		lacks  []Lack
		want   error
	}{
		{"nothing", nil, nil, nil},
		{"links on FAT", map[string]error{"link": syscall.EPERM}, []Lack{LackLinks}, nil},
		{"links on a share", map[string]error{"link": syscall.EOPNOTSUPP}, []Lack{LackLinks}, nil},
		{"links in user space", map[string]error{"link": syscall.ENOSYS}, []Lack{LackLinks}, nil},
		{"links, disguised", map[string]error{"link": syscall.EACCES}, []Lack{LackLinks}, nil},
		{"a second link", map[string]error{"link": syscall.EMLINK}, []Lack{LackLinks}, nil},
		{"links and the rename", map[string]error{"link": syscall.EPERM, "rename new": syscall.EINVAL}, nil, ErrNoExclusive},
		{"links and the rename, by other words", map[string]error{"link": syscall.ENOSYS, "rename new": syscall.ENOSYS}, nil, ErrNoExclusive},
		{"the right to write", map[string]error{"link": syscall.EACCES, "rename new": syscall.EACCES}, nil, fs.ErrPermission},
		{"the right to write, and the rename", map[string]error{"link": syscall.EACCES, "rename new": syscall.EINVAL}, nil, fs.ErrPermission},
		{"one file system", map[string]error{"link": syscall.EXDEV, "rename new": syscall.EXDEV}, nil, syscall.EXDEV},
		{"permissions", map[string]error{"chmod": syscall.EPERM}, []Lack{LackPermissions}, nil},
		{"permissions, by other words", map[string]error{"chmod": syscall.EOPNOTSUPP}, []Lack{LackPermissions}, nil},
		{"flushes of folders", map[string]error{"sync folder": syscall.EINVAL}, []Lack{LackFolderSync, LackFolderSync}, nil},
		{"flushes of folders that are not open for writing", map[string]error{"sync folder": syscall.EBADF}, []Lack{LackFolderSync, LackFolderSync}, nil},
		{"a sound disk", map[string]error{"sync folder": syscall.EIO}, nil, syscall.EIO},
		{"flushes of files", map[string]error{"sync": syscall.EINVAL}, nil, syscall.EINVAL},
		{"locks", map[string]error{"lock": syscall.ENOLCK}, []Lack{LackLocks}, nil},
		{"locks, by other words", map[string]error{"lock": syscall.ENOSYS}, []Lack{LackLocks}, nil},
		{"a sound disk for locks", map[string]error{"lock": syscall.EIO}, nil, syscall.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(-1)
			d.refuse = c.refuse
			var lacks []Lack
			tree := &Tree{ops: d, tmp: ".", lacks: func(l Lack) { lacks = append(lacks, l) }}
			err := tree.Publish("a/f", []byte("new"), 0o600)
			if c.want != nil {
				if !errors.Is(err, c.want) || d.live["a/f"] != nil {
					t.Errorf("error %v, want %v", err, c.want)
				}
			} else if err != nil || !slices.Equal(lacks, c.lacks) {
				t.Errorf("lacks %v, want %v; error %v", lacks, c.lacks, err)
			}
			if err := tree.Publish("a/f", []byte("other"), 0o600); err == nil || c.want == nil && !errors.Is(err, fs.ErrExist) {
				t.Errorf("a second file of that name: %v", err)
			}
			for name := range d.live {
				if IsTemporary(name) {
					t.Errorf("%s is left", name)
				}
			}
			d.refuse = c.refuse
			if err := tree.Probe(); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("probe: %v, want %v", err, c.want)
			}
		})
	}
}

// TestPermissionsAreNeededOutsideOfTrees: a key file whose permissions can't be set is not written.
func TestPermissionsAreNeededOutsideOfTrees(t *testing.T) {
	for _, replace := range []bool{true, false} {
		d := newDisk(-1)
		d.refuse = map[string]error{"chmod": syscall.EPERM}
		if err := write(d, writing{name: "f", perm: 0o600, replace: replace}); !errors.Is(err, syscall.EPERM) || d.live["f"] != nil {
			t.Errorf("replace %v: %v", replace, err)
		}
	}
}

// TestProbeFindsReplacement: a file system on which a name can be taken twice holds no store.
func TestProbeFindsReplacement(t *testing.T) {
	d := &replacing{newDisk(-1)}
	if err := (&Tree{ops: d, tmp: "."}).Probe(); !errors.Is(err, ErrNoExclusive) {
		t.Errorf("probe: %v", err)
	}
}

// replacing is a disk whose link replaces.
type replacing struct{ *disk }

func (d *replacing) link(from, to string) error {
	delete(d.live, to)
	return d.disk.link(from, to)
}

// TestSweepMeetsWriter runs a sweep before each call that a writer makes on its
// temporary file. The sweep removes the file unless it is locked.
func TestSweepMeetsWriter(t *testing.T) {
	for _, at := range []string{"lock", "look at", "write", "chmod", "sync", "close", "link"} {
		d := newDisk(-1)
		swept := 0
		d.sweeper = func(temp string, calls []string) {
			if last := calls[len(calls)-1]; strings.HasPrefix(last, at+" ") && swept == 0 {
				swept++
				if !d.locked[temp] {
					delete(d.live, temp)
				}
			}
		}
		if err := (&Tree{ops: d, tmp: "."}).Publish("f", []byte("new"), 0o600); err != nil {
			t.Errorf("a sweep before %q: %v", at, err)
		}
		if got := d.after("f"); !slices.Equal(got, []string{"new", "new"}) {
			t.Errorf("a sweep before %q: found %q", at, got)
		}
		made := 0
		for _, call := range d.calls {
			if strings.HasPrefix(call, "create ") {
				made++
			}
		}
		if swept != 1 || made > 1 && at != "lock" {
			t.Errorf("a sweep before %q: %d sweeps, %d temporary files", at, swept, made)
		}
	}
	// The sweep holds the lock just then.
	d := newDisk(-1)
	d.sweeper = func(temp string, calls []string) {
		if len(calls) == 2 { // create, lock
			d.locked = map[string]bool{temp: true}
		}
	}
	if err := (&Tree{ops: d, tmp: "."}).Publish("f", []byte("new"), 0o600); err != nil {
		t.Errorf("a sweep that holds the lock: %v", err)
	}
	// Hosts that do not see each other's locks: the file goes while it is written.
	d = newDisk(-1)
	swept := false
	d.sweeper = func(temp string, calls []string) {
		if strings.HasPrefix(calls[len(calls)-1], "close ") && !swept {
			swept = true
			delete(d.live, temp)
		}
	}
	if err := (&Tree{ops: d, tmp: "."}).Publish("f", []byte("new"), 0o600); err != nil || !slices.Equal(d.after("f"), []string{"new", "new"}) {
		t.Errorf("a sweep in spite of the lock: %v, found %q", err, d.after("f"))
	}
}
