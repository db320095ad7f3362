package obs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"syscall"

	"holdfast/internal/durable"
)

const (
	// objectPerm lets only the owner read: the bytes are sealed, but need not be copied by anybody.
	objectPerm = 0o600
	// compareBuffer is how much of an object is held to compare it with a body, in bytes.
	compareBuffer = 256 << 10
)

// fileStore keeps each object as a file below one folder. Several processes may
// use the folder at once. A name is taken by link(2), or by a rename that replaces
// nothing where the file system has no links, so it appears whole and durable, and
// only once. Folders stay when their last object goes. One thing object stores
// allow and this does not: an object below the name of another ("a" and "a/b").
type fileStore struct {
	dir  string // as the user wrote it, for messages
	root *os.Root
	tree *durable.Tree
}

// openFile opens the store in dir. With create it makes the folder, the folders above it
// and the marker, and tests whether the file system can hold a store. Without create a
// folder that does not exist is ErrNoFolder, and a folder without a marker ErrNoMarker:
// the mount point of a disk that is not mounted must not be taken for an empty store.
// openFile calls warn for each ability that the file system lacks, at most once per Lack.
func openFile(dir string, create bool, warn func(string)) (*fileStore, error) {
	if create {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, fileError(dir, err))
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, fmt.Errorf("open store: %w: %s: %w", ErrNoFolder, dir, bare(err))
		}
		return nil, fmt.Errorf("open store %s: %w", dir, fileError(dir, err))
	}
	lacks := &lacks{dir: dir, warn: warn}
	s := &fileStore{dir: dir, root: root, tree: durable.NewTree(root, tempFolder, lacks.tell)}
	if err := s.begin(create, lacks); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, fileError(dir, err)), root.Close())
	}
	return s, nil
}

// begin removes the temporary files of dead writers, and looks for the marker. With
// create it tries the file system, and makes the marker.
func (s *fileStore) begin(create bool, lacks *lacks) error {
	if create {
		if err := s.makeTempFolder(); err != nil {
			return err
		}
		if err := s.tree.Probe(); err != nil {
			return err
		}
		if err := s.mark(); err != nil {
			return err
		}
	} else if err := s.marked(); err != nil {
		return err
	}
	unsure, err := durable.SweepTemporary(s.root, tempFolder)
	// A store that may only be read is still a store: temporary files that can't be removed stay.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	if unsure > 0 {
		lacks.left(unsure)
	}
	return err
}

func (s *fileStore) makeTempFolder() error {
	if err := s.root.Mkdir(tempFolder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (s *fileStore) Put(ctx context.Context, key string, body []byte) error {
	if err := enter(ctx, opPut, key); err != nil {
		return err
	}
	err := s.write(key, body)
	if !errors.Is(err, fs.ErrExist) {
		return s.fail(opPut, key, err)
	}
	same, err := s.holds(key, body)
	if err != nil {
		return s.fail(opPut, key, err)
	}
	if !same {
		return fmt.Errorf("%s %s: %w", opPut, key, ErrExists)
	}
	// The writer of these bytes may have died between the name and the flush of the folder.
	return s.fail(opPut, key, s.tree.SyncFolder(path.Dir(key)))
}

func (s *fileStore) PutNew(ctx context.Context, key string, body []byte) error {
	if err := enter(ctx, opPutNew, key); err != nil {
		return err
	}
	err := s.write(key, body)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %s: %w", opPutNew, key, ErrExists)
	}
	return s.fail(opPutNew, key, err)
}

func (s *fileStore) write(key string, body []byte) error {
	// Before the bytes are written: a repeated Put of a large object costs a read, not a write.
	if fi, err := s.root.Lstat(key); err == nil {
		if !fi.Mode().IsRegular() {
			return fmt.Errorf("%w: the name is taken by a folder or another thing that is no object", ErrUsage)
		}
		return fs.ErrExist
	}
	if err := s.makeTempFolder(); err != nil {
		return err
	}
	return s.tree.Publish(key, body, objectPerm)
}

// holds tells whether the object has exactly these bytes.
func (s *fileStore) holds(key string, body []byte) (bool, error) {
	f, fi, err := s.open(key)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if fi.Size() != int64(len(body)) {
		return false, nil
	}
	buf := make([]byte, min(compareBuffer, len(body)))
	for len(body) > 0 {
		part := buf[:min(len(buf), len(body))]
		if _, err := io.ReadFull(f, part); err != nil {
			return false, err
		}
		if !bytes.Equal(part, body[:len(part)]) {
			return false, nil
		}
		body = body[len(part):]
	}
	return true, nil
}

// open opens an object. Only a regular file is an object; O_NONBLOCK keeps the call
// from blocking on a fifo that somebody put there.
func (s *fileStore) open(key string) (*os.File, fs.FileInfo, error) {
	f, err := s.root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

func (s *fileStore) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := enter(ctx, opRead, key); err != nil {
		return 0, err
	}
	if err := offsetValid(key, off); err != nil {
		return 0, err
	}
	f, _, err := s.open(key)
	if err != nil {
		return 0, s.fail(opRead, key, err)
	}
	defer func() { _ = f.Close() }()
	n, err := f.ReadAt(p, off)
	if err == io.EOF { //nolint:errorlint // the contract is io.EOF itself, as in io.ReaderAt
		return n, io.EOF
	}
	return n, s.fail(opRead, key, err)
}

func (s *fileStore) Stat(ctx context.Context, key string) (Info, error) {
	if err := enter(ctx, opStat, key); err != nil {
		return Info{}, err
	}
	fi, err := s.root.Lstat(key)
	if err == nil && !fi.Mode().IsRegular() || errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, s.fail(opStat, key, err)
	}
	return Info{Key: key, Size: fi.Size(), Modified: fi.ModTime().UTC()}, nil
}

func (s *fileStore) Delete(ctx context.Context, keys ...string) error {
	folders := make(map[string]bool)
	var failed error
	for _, key := range keys {
		if failed = enter(ctx, opDelete, key); failed != nil {
			break
		}
		if fi, err := s.root.Lstat(key); err == nil && fi.IsDir() {
			continue // a folder is no object
		}
		err := s.root.Remove(key)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			if s.there() {
				continue
			}
		}
		if err != nil {
			failed = s.fail(opDelete, key, err)
			break
		}
		folders[path.Dir(key)] = true
	}
	// Deleting a vault's key destroys the vault: that must not come back after power loss.
	for f := range folders {
		if err := s.tree.SyncFolder(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, s.fail(opDelete, f, err))
		}
	}
	return failed
}

func (s *fileStore) Capabilities() Capabilities {
	return Capabilities{ConditionalPut: true, Integrity: "fsync"}
}

func (s *fileStore) String() string { return fileURL(s.dir) }

func fileURL(dir string) string { return (&url.URL{Scheme: "file", Path: dir}).String() }

func (s *fileStore) Close() error { return s.root.Close() }
