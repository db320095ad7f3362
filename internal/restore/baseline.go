package restore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"holdfast/internal/evidence"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// A restore makes every file anew, so the next backup would read all of them: inode and time
// of change differ from the old ones. But a restore knows the content that it wrote. So it
// leaves a catalogue, as a backup does, with the inodes and times of the tree that it made.

// clockTick is longer than the clock of ctime stands still where it counts nanoseconds:
// a tick of the kernel, 10 ms at the most (CONFIG_HZ of 100), and then some.
const clockTick = 25 * time.Millisecond

// errCoarse says that the times of a tree count whole seconds only.
var errCoarse = errors.New("the file system's times are coarse")

// errClock says that files have times of change that this host's clock has not reached.
var errClock = errors.New("the clock was set back while the volume was restored")

// baseline writes the catalogue of a volume that was restored to dir and
// that nobody else can see yet. When it returns, a later change of any file
// shows in its time of change, as long as the file system stays mounted.
func (r *run) baseline(ctx context.Context, vol *vault.Volume, dir string) error {
	root, err := tree.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	now := r.o.Now()
	cat, err := r.o.Vault.BeginCatalogue(r.o.CatalogueDir, r.o.Ref.Instance, vol.Name, vault.Evidence{
		FileSystem: root.FileSystem(), Mounted: root.Mounted(), Clock: evidence.ClockOffset(), Young: now,
	})
	if err != nil {
		return err
	}
	defer cat.Close()
	next, stop := iter.Pull2(r.pages(ctx, vol))
	defer stop()
	m := &merger{next: next, cat: cat, flagsLost: r.targets[len(r.targets)-1].FlagsLost()}
	// The warnings repeat the restore's own.
	if err := root.Walk(ctx, tree.WalkOptions{NoXattrs: true}, m.entry); err != nil {
		return err
	}
	if err := m.rest(); err != nil {
		return err
	}
	if m.files > 0 && !m.fine {
		return errCoarse
	}
	if newest := time.Unix(m.newest.Sec, int64(m.newest.Nsec)); newest.After(now.Add(clockTick)) {
		return errClock
	}
	select {
	case <-time.After(2 * clockTick): // behind the time of each file, which is at most a tick behind now
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := cat.Keep(); err != nil {
		return err
	}
	r.res.Catalogues[vol.Name] = cat.ID()
	return nil
}

// place keeps a catalogue that tells about no file, only on which file system the volume lies now,
// so that the next backup does not take the restored volume for a volume that is not mounted.
func (r *run) place(vol *vault.Volume, path string) error {
	rest := vault.Evidence{FileSystem: evidence.FileSystemOf(path), Clock: evidence.ClockOffset(), Young: r.o.Now()}
	cat, err := r.o.Vault.BeginCatalogue(r.o.CatalogueDir, r.o.Ref.Instance, vol.Name, rest)
	if err != nil {
		return err
	}
	defer cat.Close()
	return cat.Keep()
}

// pages yields the pages of a volume's recipe.
func (r *run) pages(ctx context.Context, vol *vault.Volume) iter.Seq2[[]vault.Item, error] {
	return func(yield func([]vault.Item, error) bool) {
		err := r.o.Vault.Items(ctx, vol, func(items []vault.Item) error {
			if !yield(items, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

var errStopped = errors.New("nobody wants more pages")

// merger gives the items of a recipe the inodes and times of a
// tree. Both come in the order of a walk.
type merger struct {
	next  func() ([]vault.Item, error, bool)
	cat   *vault.CatalogueFile
	items []vault.Item // the page at hand
	at    int
	files int
	fine  bool // some time of change has a fraction of a second
	// flagsLost: the tree has not all flags of the recipe, so that the next backup has to look.
	flagsLost bool

	newest tree.Time // of the files' times of change
}

// item returns the next item, or nil at the end.
func (m *merger) item() (*vault.Item, error) {
	for m.at == len(m.items) {
		if len(m.items) > 0 {
			if err := m.cat.Items(m.items); err != nil {
				return nil, err
			}
		}
		items, err, ok := m.next()
		if err != nil {
			return nil, err
		}
		m.items, m.at = items, 0
		if !ok {
			return nil, nil
		}
	}
	return &m.items[m.at], nil
}

// entry takes an entry of the walk.
func (m *merger) entry(e *tree.Entry) error {
	for {
		it, err := m.item()
		if it == nil || err != nil {
			return err
		}
		order := tree.ComparePaths(it.Path, e.Path)
		if order > 0 {
			return nil // the tree has more than the recipe; the next backup reads it
		}
		m.at++
		if order == 0 && !it.Continued {
			it.Ino, it.Ctime = e.Ino, e.Ctime
			if m.flagsLost && (it.Flags != 0 || it.Project != 0) {
				it.Ino = 0 // of no file
			}
			if e.Kind == tree.File {
				m.files++
				m.fine = m.fine || e.Ctime.Nsec != 0
				if m.newest.Sec < e.Ctime.Sec || m.newest.Sec == e.Ctime.Sec && m.newest.Nsec < e.Ctime.Nsec {
					m.newest = e.Ctime
				}
			}
			return nil
		}
	}
}

// rest takes the items that are left: without an inode, they are no
// file that a backup could find again.
func (m *merger) rest() error {
	for {
		it, err := m.item()
		if it == nil || err != nil {
			return err
		}
		m.at++
	}
}

// leaveBaseline is baseline, or at least place, whose faults cost
// the next backup time and this restore nothing.
func (r *run) leaveBaseline(ctx context.Context, vol *vault.Volume, path string) error {
	if r.o.CatalogueDir == "" || len(r.o.Include) > 0 {
		return nil
	}
	var err error
	tree := vol.Kind == vault.KindTree
	if tree {
		err = r.baseline(ctx, vol, path)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil || !tree {
		if perr := r.place(vol, path); perr != nil && (err == nil || errors.Is(err, errCoarse)) {
			err = perr // else the disk refused both for the reason that err tells
		}
	}
	if err != nil && !errors.Is(err, errCoarse) && r.o.Trouble != nil {
		r.o.Trouble(fmt.Errorf("no catalogue of what was restored is kept, the next backup reads all of it: %w", err))
	}
	return nil
}
