package obs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"sync"
	"time"
)

// markerName is the file in the root of a file store that tells a store from any other folder: from
// the mount point of a disk that is not mounted above all. It is no element that begins a key.
const markerName = ".holdfast-store"

// marker is the content of the marker file. Only people read it.
const marker = "This folder is a store of Holdfast. Without this file no program takes it for one: see holdfast store init --help.\n"

// mark makes the marker of a store unless there is one.
func (s *fileStore) mark() error {
	err := s.tree.Publish(markerName, []byte(marker), objectPerm)
	if errors.Is(err, fs.ErrExist) {
		// The writer of it may have died between the name and the flush of the folder.
		return s.tree.SyncFolder(".")
	}
	return err
}

// marked is ErrNoMarker unless the folder has a marker.
func (s *fileStore) marked() error {
	fi, err := s.root.Lstat(markerName)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !fi.Mode().IsRegular():
		return ErrNoMarker
	case err != nil:
		return err
	}
	return nil
}

// fileAt is the file store at a path. Each call uses the folder that is at the path at
// that moment, since a disk may be mounted, unmounted and mounted again while a program
// runs. A fileStore alone keeps one folder open, so after its disk was detached it
// would go on to store objects in a folder that no other program can reach.
type fileAt struct {
	dir  string
	warn func(string)

	mu     sync.Mutex
	at     *fileStore // nil: not open now
	users  map[*fileStore]int
	closed bool
}

// openFileAt opens the store at the path. With later a path that
// can't be opened now is no error: each call tries again.
func openFileAt(dir string, create, later bool, warn func(string)) (Store, error) {
	f := &fileAt{dir: dir, warn: warn, users: map[*fileStore]int{}}
	s, err := openFile(dir, create, warn)
	if err != nil && !later {
		return nil, err
	}
	f.at = s // nil after an error
	return f, nil
}

// use returns the store that is at the path now, and a function that the caller calls when it
// is done with the store. A store that was open before is closed after its last user. use does
// not hold the lock while it asks the file system, because the file system may never answer.
func (f *fileAt) use() (*fileStore, func(), error) {
	s, done, err := f.take(nil)
	if err != nil || s != nil && s.there() {
		return s, done, err
	}
	if s != nil {
		f.retire(s)
		done()
	}
	opened, err := openFile(f.dir, false, f.warn)
	if err != nil {
		return nil, nil, err
	}
	s, done, err = f.take(opened)
	if s != opened { // somebody else was faster, or the store was closed
		_ = opened.Close() // nothing was written through it
	}
	return s, done, err
}

// take counts a user of the store that is open; where none is, of the opened one, which may be nil.
func (f *fileAt) take(opened *fileStore) (*fileStore, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, nil, os.ErrClosed
	case f.at == nil && opened == nil:
		return nil, nil, nil
	case f.at == nil:
		f.at = opened
	}
	s := f.at
	f.users[s]++
	return s, func() { f.done(s) }, nil
}

// retire has no new user take the store.
func (f *fileAt) retire(s *fileStore) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == s {
		f.at = nil
	}
}

func (f *fileAt) done(s *fileStore) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users[s]--; f.users[s] > 0 {
		return
	}
	delete(f.users, s)
	if f.at != s {
		_ = s.Close() // nothing was written through it that is not durable
	}
}

// with calls do on the store that lies at the path now.
func (f *fileAt) with(op, key string, do func(*fileStore) error) error {
	s, done, err := f.use()
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, key, err)
	}
	defer done()
	return do(s)
}

func (f *fileAt) Put(ctx context.Context, key string, body []byte) error {
	return f.with(opPut, key, func(s *fileStore) error { return s.Put(ctx, key, body) })
}

func (f *fileAt) PutNew(ctx context.Context, key string, body []byte) error {
	return f.with(opPutNew, key, func(s *fileStore) error { return s.PutNew(ctx, key, body) })
}

func (f *fileAt) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	err = f.with(opRead, key, func(s *fileStore) error {
		n, err = s.ReadAt(ctx, key, p, off)
		return err
	})
	return n, err
}

func (f *fileAt) Stat(ctx context.Context, key string) (info Info, err error) {
	err = f.with(opStat, key, func(s *fileStore) error {
		info, err = s.Stat(ctx, key)
		return err
	})
	return info, err
}

func (f *fileAt) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return f.listAfter(ctx, prefix, "")
}

func (f *fileAt) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		s, done, err := f.use()
		if err != nil {
			yield(Info{}, fmt.Errorf("%s %s: %w", opList, prefix, err))
			return
		}
		defer done()
		s.listAfter(ctx, prefix, after)(yield)
	}
}

func (f *fileAt) Delete(ctx context.Context, keys ...string) error {
	first := ""
	if len(keys) > 0 {
		first = keys[0]
	}
	return f.with(opDelete, first, func(s *fileStore) error { return s.Delete(ctx, keys...) })
}

// Extend is of no use to a file store, which has no locks.
func (f *fileAt) Extend(ctx context.Context, key string, until time.Time) error {
	return f.with(opExtend, key, func(s *fileStore) error { return s.Extend(ctx, key, until) })
}

func (f *fileAt) Capabilities() Capabilities { return (*fileStore)(nil).Capabilities() }

func (f *fileAt) String() string { return fileURL(f.dir) }

func (f *fileAt) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	s := f.at
	f.at = nil
	if s == nil || f.users[s] > 0 { // its last user closes it
		return nil
	}
	return s.Close()
}
