// Package reread keeps the content of files, and reads the files again when they change.
//
// Callers are the agent's packages that are configured with files: certificates,
// authorities, keys, accounts. The package starts no goroutine: each reader of a
// value looks at the files, at most once a second. It writes nothing.
package reread

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Every is how long a change of a file may stay unseen.
const Every = time.Second

// Version tells states of a file apart. The time of change moves even where an editor sets the time
// of modification back, and a file that is renamed into the place of another has another inode.
type Version struct {
	dev, ino uint64
	size     int64
	mtime    time.Time
	ctime    syscall.Timespec
}

// VersionOf is the version of a file of which info was got.
func VersionOf(info fs.FileInfo) Version {
	v := Version{size: info.Size(), mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.dev, v.ino, v.ctime = st.Dev, st.Ino, st.Ctim
	}
	return v
}

// Files is a value that was read from files. It is safe for concurrent use.
type Files[T any] struct {
	paths []string
	read  func() (T, error)
	now   func() time.Time

	mu       sync.Mutex
	value    T     // the last good one
	fault    error // of the last reading
	versions []Version
	checked  time.Time
}

// New returns the value that read makes of the files at the paths; it
// reads them when it is asked first. read is called by one goroutine
// at a time. now is the clock, for how often to look; nil is time.Now.
func New[T any](now func() time.Time, read func() (T, error), paths ...string) *Files[T] {
	if now == nil {
		now = time.Now
	}
	return &Files[T]{paths: paths, read: read, now: now}
}

// Get returns the value of the files as they are, or why they are no good.
func (f *Files[T]) Get() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	if f.fault != nil {
		var none T
		return none, f.fault
	}
	return f.value, nil
}

// Last returns the value of the files as they last were good (the
// zero value when they never were), and why they are no good now.
func (f *Files[T]) Last() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	return f.value, f.fault
}

// look reads the files again where they have changed, or were no good. The lock is held.
func (f *Files[T]) look() {
	if since := f.now().Sub(f.checked); !f.checked.IsZero() && since >= 0 && since < Every {
		return
	}
	f.checked = f.now()
	// The versions are taken before the files are read: a change in between shows at the next look.
	versions := make([]Version, len(f.paths))
	var missing error
	for i, p := range f.paths {
		info, err := os.Stat(p)
		if err != nil {
			missing = errors.Join(missing, err)
			continue
		}
		versions[i] = VersionOf(info)
	}
	if missing == nil && f.fault == nil && f.versions != nil && slices.Equal(versions, f.versions) {
		return
	}
	value, err := f.read()
	if err == nil {
		f.value = value
	}
	f.fault, f.versions = err, versions
}
