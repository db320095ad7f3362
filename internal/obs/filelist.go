package obs

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"syscall"
)

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

// fileWalk yields the objects of a folder and of the folders below it.
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
		// The top is either the store itself, whose loss is an error,
		// or a prefix that names nothing.
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
		// the temporary folder, and files that are no objects of the store
		case KeyValid(key) != nil:
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
