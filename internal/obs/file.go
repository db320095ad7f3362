package obs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/durable"
)

const (
	// tempLife is the age from which a temporary file belongs to a writer that died: no object takes a day to write.
	tempLife = 24 * time.Hour
	// objectPerm lets only the owner read: the bytes are sealed, but need not be copied by anybody.
	objectPerm = 0o600
	// compareBuffer is how much of an object is held to compare it with a body, in bytes.
	compareBuffer = 256 << 10
)

// fileStore keeps each object as a file below one folder. Several processes may use the folder at
// once. A name is taken by link(2), so it appears whole and durable, and only once. Folders stay when
// their last object goes. One thing object stores allow and this does not: an object below the name
// of another ("a" and "a/b").
type fileStore struct {
	dir  string // as the user wrote it, for messages
	root *os.Root
	tree *durable.Tree
}

// openFile opens the store in dir. With create it makes the folder, and those above it; else one that
// is not there is ErrNoBucket: a disk that was not mounted must not be taken for an empty store.
func openFile(dir string, create bool) (Store, error) {
	if create {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, fileError(err))
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, fmt.Errorf("open store %s: %w: %w", dir, ErrNoBucket, err)
		}
		return nil, fmt.Errorf("open store %s: %w", dir, fileError(err))
	}
	s := &fileStore{dir: dir, root: root, tree: durable.NewTree(root, tempFolder)}
	// A store that may only be read is still a store: what can't be cleaned stays.
	if _, err := root.Lstat(tempFolder); err == nil {
		err := durable.RemoveTemporary(root, tempFolder, time.Now().Add(-tempLife))
		if err != nil && !readOnly(err) {
			return nil, errors.Join(fmt.Errorf("clean store %s: %w", dir, fileError(err)), root.Close())
		}
	}
	return s, nil
}

func readOnly(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
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
	return s.fail(opPut, key, durable.SyncFolder(s.root, path.Dir(key)))
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
	if err := s.root.Mkdir(tempFolder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
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

// open opens an object; what is no regular file is no object. Not to block on a fifo that somebody put there.
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

func (s *fileStore) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return s.listAfter(ctx, prefix, "")
}

func (s *fileStore) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := enterList(ctx, prefix); err != nil {
			yield(Info{}, err)
			return
		}
		w := &fileWalk{s: s, ctx: ctx, prefix: prefix, after: after, yield: yield}
		w.folder(path.Dir(prefix + "x"))
	}
}

// fileWalk yields the objects of a folder and those below it.
type fileWalk struct {
	s             *fileStore
	ctx           context.Context //nolint:containedctx // lives for one call of List
	prefix, after string
	yield         func(Info, error) bool
}

// folder returns false when the list is to end.
func (w *fileWalk) folder(name string) bool {
	entries, err := w.s.readFolder(name)
	if err != nil {
		// The top is either the store itself, whose loss is an error, or a prefix that names nothing.
		if errors.Is(err, fs.ErrNotExist) && w.s.there() {
			return true
		}
		w.yield(Info{}, w.s.fail(opList, w.prefix, err))
		return false
	}
	for _, e := range entries {
		if err := ended(w.ctx, opList, w.prefix); err != nil {
			w.yield(Info{}, err)
			return false
		}
		key := path.Join(name, e.Name())
		switch {
		case KeyValid(key) != nil: // the temporary folder, and what others put there
		case e.IsDir():
			below := key + "/"
			related := strings.HasPrefix(below, w.prefix) || strings.HasPrefix(w.prefix, below)
			// All keys below sort before the mark: nothing to find there.
			passed := w.after > below && !strings.HasPrefix(w.after, below)
			if related && !passed && !w.folder(key) {
				return false
			}
		case e.Type().IsRegular() && strings.HasPrefix(key, w.prefix) && key > w.after:
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				w.yield(Info{}, w.s.fail(opList, key, err))
				return false
			}
			if !w.yield(Info{Key: key, Size: fi.Size(), Modified: fi.ModTime().UTC()}, nil) {
				return false
			}
		}
	}
	return true
}

// readFolder reads a folder in the order of the keys below it: "a-b" comes before "a/b".
func (s *fileStore) readFolder(name string) ([]fs.DirEntry, error) {
	d, err := s.root.Open(name)
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	entries, err := d.ReadDir(-1)
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist // an object whose name is the prefix
	}
	if err != nil {
		return nil, err
	}
	sortName := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortName(a), sortName(b)) })
	return entries, nil
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
		if err := durable.SyncFolder(s.root, f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, s.fail(opDelete, f, err))
		}
	}
	return failed
}

func (s *fileStore) Capabilities() Capabilities {
	return Capabilities{ConditionalPut: true, Integrity: "fsync"}
}

func (s *fileStore) String() string { return (&url.URL{Scheme: "file", Path: s.dir}).String() }

func (s *fileStore) Close() error { return s.root.Close() }

// there tells whether the store's folder is still what its path names.
func (s *fileStore) there() bool {
	held, err := s.root.Lstat(".")
	if err != nil {
		return false
	}
	now, err := os.Stat(s.dir)
	return err == nil && os.SameFile(held, now)
}

// fail gives an error of the file system its class and says what was being done. nil stays nil.
func (s *fileStore) fail(op, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrClosed) && !s.there():
		return fmt.Errorf("%s %s: %w: %s", op, key, ErrNoBucket, s.dir)
	}
	return fmt.Errorf("%s %s: %w", op, key, fileError(err))
}

// fileError wraps err with the class that fits it.
func fileError(err error) error {
	var class error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		class = ErrNotFound
	case errors.Is(err, fs.ErrExist):
		class = ErrExists
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENAMETOOLONG),
		errors.Is(err, syscall.EMLINK), errors.Is(err, syscall.EOPNOTSUPP):
		class = ErrUsage
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		class = ErrNoSpace
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		class = ErrAccess
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ETIMEDOUT),
		errors.Is(err, syscall.EHOSTDOWN), errors.Is(err, syscall.ENOTCONN),
		errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		// A disk behind a network may come back, and descriptors get free.
		class = ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", class, err)
}
