package known

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"time"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Comparison tells how a volume relates to its last backup: for each entry of
// the backup that is no folder, the state of its path now. No content is read.
type Comparison struct {
	Looked uint64 // entries whose paths were looked at
	// Same are the same file with the same size and times, Changed the same file with other ones.
	Same, Changed uint64
	Replaced      uint64 // another file is at the path
	Gone          uint64 // nothing is at the path, or a folder
	// Back are those whose time of change is earlier than the backup knows
	// it: their content went back to an earlier time. They count as Changed too.
	Back uint64
	// Folders are those in which names came or went, the root among them.
	Folders uint64
	// Weak says that the numbers of inodes tell nothing there, so that
	// Replaced counts as Changed, and Back is 0.
	Weak bool
	// Partly says that the time was over before all paths were looked at. A sample of all
	// comes first.
	Partly bool
	// First is a path that is of another backup, or gone; "" for none.
	First string
}

// Likeness is the result of a Comparison in one word.
type Likeness string

// The words.
const (
	// LikenessUnknown says that nothing could be compared.
	LikenessUnknown Likeness = ""
	// LikenessSame says that nothing changed since the backup, as far as times and sizes tell.
	LikenessSame Likeness = "same"
	// LikenessNewer says that the volume changed since, as one does whose instance ran.
	LikenessNewer Likeness = "newer"
	// LikenessHalf says that half of the entries or more are gone.
	LikenessHalf Likeness = "half"
	// LikenessOther says that hardly any file is a backed-up file.
	LikenessOther Likeness = "other"
	// LikenessOlder says that the volume went back to a time before the backup.
	LikenessOlder Likeness = "older"
)

// fewKept is the part of the files below which hardly any is a backed-up file. Programs
// that write a file anew and rename it replace files too, so one in ten is enough.
const fewKept = 10

// Likeness gives the meaning of the numbers.
func (c Comparison) Likeness() Likeness {
	switch {
	case c.Back > 0:
		return LikenessOlder
	case c.Looked > 0 && 2*c.Gone >= c.Looked:
		return LikenessHalf
	case c.Looked > 0 && fewKept*(c.Same+c.Changed) < c.Looked:
		return LikenessOther
	case c.Changed+c.Replaced+c.Gone+c.Folders > 0:
		return LikenessNewer
	case c.Looked == 0 || c.Partly:
		return LikenessUnknown
	}
	return LikenessSame
}

// String tells an operator of the numbers.
func (c Comparison) String() string {
	s := fmt.Sprintf("of %d files %d are as they were, %d changed, %d were replaced, %d are gone", c.Looked, c.Same, c.Changed-c.Back, c.Replaced, c.Gone)
	if c.Back > 0 {
		s += fmt.Sprintf(", %d have a time of change before the backup", c.Back)
	}
	if c.Partly {
		s += "; the time was over before all were looked at"
	}
	return s
}

// ErrNoCatalogue says that this host keeps nothing of the volume with which it can be compared.
var ErrNoCatalogue = errors.New("this host has no catalogue of that backup of the volume")

// sampled is one entry of how many is looked at before all others are.
const sampled = 16

// Compare compares the tree at root with this host's catalogue of that id in dir. It takes no
// longer than limit, beside a call that hangs. ErrNoCatalogue says that there is no such one.
func Compare(ctx context.Context, v *vault.Vault, dir, instance, volume, id, root string, limit time.Duration) (Comparison, error) {
	c, err := newComparer(root, tree.TellsChanges(root) != nil)
	if err != nil {
		return Comparison{}, err
	}
	defer c.close()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errCompareTime)
	defer cancel()
	for _, c.sample = range []bool{true, false} {
		err := catalogued(v, dir, instance, volume, id, func(items []vault.Item) error { return c.page(ctx, items) })
		if errors.Is(err, errCompareTime) {
			c.Partly = true
			break
		} else if err != nil {
			return Comparison{}, err
		}
	}
	return c.Comparison, nil
}

var errCompareTime = errors.New("the time for the comparison is over")

// catalogued gives the pages of a catalogue.
func catalogued(v *vault.Vault, dir, instance, volume, id string, each func([]vault.Item) error) error {
	last, f, err := v.LastCatalogue(dir, instance, volume)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoCatalogue
	} else if err != nil {
		return fmt.Errorf("%w: %w", ErrNoCatalogue, err)
	}
	defer f.Close() // only read
	if last.ID() != id {
		return ErrNoCatalogue
	}
	for {
		items, err := last.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrNoCatalogue, err)
		}
		if err := each(items); err != nil {
			return err
		}
	}
}

// CompareStored compares the tree at root with the recipe of a volume in the vault, for a host
// that has no catalogue of it. It knows no inodes, so it is Weak. It takes no longer than limit.
func CompareStored(ctx context.Context, v *vault.Vault, vol *vault.Volume, root string, limit time.Duration) (Comparison, error) {
	c, err := newComparer(root, true)
	if err != nil {
		return Comparison{}, err
	}
	defer c.close()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errCompareTime)
	defer cancel()
	c.every = true
	err = v.Items(ctx, vol, func(items []vault.Item) error { return c.page(ctx, items) })
	if err != nil && context.Cause(ctx) == errCompareTime { //nolint:errorlint // the cause itself
		c.Partly = true
		return c.Comparison, nil
	}
	return c.Comparison, err
}

// comparer looks for the entries of one volume. It is for one goroutine.
type comparer struct {
	Comparison
	root   *tree.Root
	finder *tree.Finder
	sample bool // else the others
	every  bool // both at once
}

func newComparer(root string, weak bool) (*comparer, error) {
	r, err := tree.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	return &comparer{Comparison: Comparison{Weak: weak}, root: r, finder: r.Finder()}, nil
}

func (c *comparer) close() {
	c.finder.Close()
	_ = c.root.Close() // only looked at
}

func (c *comparer) page(ctx context.Context, items []vault.Item) error {
	for i := range items {
		it := &items[i]
		if it.Continued || it.HasLinkTo || !c.every && c.sample != inSample(it.Path) {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := c.look(it); err != nil {
			return err
		}
	}
	return nil
}

// inSample chooses by the path, so that files of all folders are in the sample.
func inSample(path string) bool {
	h := fnv.New32a()
	_, _ = io.WriteString(h, path) // never fails
	return h.Sum32()%sampled == 0
}

// look counts the state of an entry's path now.
func (c *comparer) look(it *vault.Item) error {
	now, err := c.finder.Find(it.Path)
	gone := errors.Is(err, fs.ErrNotExist)
	if err != nil && !gone {
		if pe, ok := errors.AsType[*tree.PathError](err); ok && tree.Ours(pe.Err) {
			return err
		}
		return nil // it can't be looked at, and says nothing
	}
	if it.Kind == tree.Dir {
		if gone || !now.Dir || now.Mtime != it.Mtime {
			c.Folders++
		}
		return nil
	}
	c.Looked++
	// Only files have an inode and a time of change there.
	known, dated := !c.Weak && it.Kind == tree.File && it.Ino != 0, !c.Weak && it.Ctime != tree.Time{}
	same := now.Mtime == it.Mtime && (it.Kind != tree.File || now.Size == it.Size)
	switch {
	case gone || now.Dir:
		c.Gone++
	case now.File != (it.Kind == tree.File), known && now.Ino != it.Ino, it.Kind == tree.Symlink && !same:
		c.Replaced++
	case dated && earlier(now.Ctime, it.Ctime):
		c.Back++
		c.Changed++
	case same && (!dated || now.Ctime == it.Ctime):
		c.Same++
		return nil
	default:
		c.Changed++
		return nil
	}
	if c.First == "" {
		c.First = it.Path
	}
	return nil
}

// Empty tells whether the tree at path has nothing but folders, as a new file
// system has: a backup does not take that for content either. Files that fsck
// put into lost+found count as content here. A file or a device is never empty.
func Empty(ctx context.Context, path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return false, nil
	}
	p, err := lookAt(ctx, path)
	return p.empty && p.recovered == 0, err
}
