package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"holdfast/internal/image"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// A volume is restored in windows: the entries of a window are made, then the chunks that their
// content needs are fetched in the order of packs, each once for all its places, while the next
// windows' entries are made. That bounds memory and open files, however large the volume is.
const (
	windowFiles   = 192 // with windowsAhead and the window being made, fewer than 1024 open files
	windowBytes   = 256 << 20
	windowExtents = 32 << 10
	runBytes      = 2 << 20 // of one request
	// runGap is how many unneeded bytes are read rather than ask twice: about as many as a
	// connection brings while another request is on its way. In a chain of backups it halves
	// the requests, against 32 KiB, for a sixth more bytes (vault/FORMAT.md, "Locality").
	runGap = 128 << 10
)

// file is a file under construction.
type file struct {
	entry *tree.Entry
	f     *tree.Content
	image *image.Target // instead of f: an image, whose volume closes it
	left  atomic.Int64  // places to write, plus one until all its items were seen
}

func (f *file) writer() io.WriterAt {
	if f.image != nil {
		return f.image
	}
	return f.f
}

type place struct {
	to  *file
	off int64
	in  uint32
	n   uint32
}

type window struct {
	places map[vault.Loc][]place
	files  int
	bytes  int64
	ends   []*file      // whose last item was seen in this window
	left   atomic.Int64 // requests and ends that are not done yet, once it is being fetched
}

func newWindow() *window { return &window{places: map[vault.Loc][]place{}} }

// builder makes the entries of one volume.
type builder struct {
	*run
	target *tree.Target
	pick   *picker
	win    *window
	cur    *file // the last file, which may be continued
	skip   bool  // the last file was not included
	end    int64 // how far the extents of cur reach

	fetching *fetching // nil before the first window is complete
	ahead    []*window // that are being fetched, or were a moment ago
}

func (r *run) volume(ctx context.Context, vol *vault.Volume, dir string) error {
	return tree.Unmasked(func() error { return r.build(ctx, vol, dir) })
}

// build makes the tree of a volume in the empty folder dir.
func (r *run) build(ctx context.Context, vol *vault.Volume, dir string) error {
	t, err := tree.NewTarget(dir, r.warnings.Warn)
	if err != nil {
		return err
	}
	r.targets = append(r.targets, t)
	b := &builder{run: r, target: t, pick: newPicker(r.o.Include), win: newWindow()}
	defer b.closeAll()
	ferr := r.o.Vault.Items(ctx, vol, func(items []vault.Item) error {
		for i := range items {
			if err := b.item(ctx, &items[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if ferr == nil {
		b.endFile()
		ferr = b.fetchWindow(ctx)
	}
	if err := errors.Join(ferr, b.wait()); err != nil {
		return err
	}
	return t.Finish()
}

func (b *builder) item(ctx context.Context, it *vault.Item) error {
	if it.Continued {
		if b.skip {
			return nil
		}
		if b.cur == nil || b.cur.entry.Path != it.Path {
			return fmt.Errorf("recipe continues %q, which is not the file before", it.Path)
		}
		return b.extents(ctx, it)
	}
	b.endFile()
	b.skip = false
	parents, ok := b.pick.want(&it.Entry)
	if !ok {
		b.skip = it.Kind == tree.File
		return nil
	}
	if err := b.watch.take(0, uint64(1+len(parents))); err != nil {
		return err
	}
	for _, p := range parents {
		if _, err := b.target.Create(p); err != nil {
			return err
		}
	}
	if it.HasLinkTo && b.pick.left(it.LinkTo) {
		b.warnings.Warn(tree.Warning{Path: it.Path, What: fmt.Sprintf("is a hard link to %q, which was not included; not restored", it.LinkTo)})
		return nil
	}
	f, err := b.target.Create(&it.Entry)
	if err != nil {
		return err
	}
	if it.Path != "" || len(b.o.Include) == 0 {
		b.counts.entries.Add(1)
	}
	switch it.Kind {
	case tree.Dir:
		b.counts.dirs.Add(1)
	case tree.File:
		b.counts.files.Add(1)
	}
	if f == nil {
		return nil
	}
	b.cur, b.end = &file{entry: &it.Entry, f: f}, 0
	b.cur.left.Store(1)
	b.win.files++
	return b.extents(ctx, it)
}

func (b *builder) extents(ctx context.Context, it *vault.Item) error {
	for _, x := range it.Extents {
		if x.Off < b.end || x.Off+int64(x.Len) > b.cur.entry.Size {
			return fmt.Errorf("recipe of %q has an extent at %d that overlaps or passes its end", it.Path, x.Off)
		}
		b.end = x.Off + int64(x.Len)
		b.cur.left.Add(1)
		b.win.places[x.Chunk] = append(b.win.places[x.Chunk], place{to: b.cur, off: x.Off, in: x.In, n: x.Len})
		b.win.bytes += int64(x.Len)
	}
	if b.win.files >= windowFiles || b.win.bytes >= windowBytes || len(b.win.places) >= windowExtents {
		return b.fetchWindow(ctx)
	}
	return nil
}

// endFile notes that no further item of the current file comes.
func (b *builder) endFile() {
	if b.cur != nil {
		b.win.ends = append(b.win.ends, b.cur)
		b.cur = nil
	}
}

// closeAll closes the files that a failed restore left open. Nothing is fetched any more.
func (b *builder) closeAll() {
	_ = b.wait() // its error was returned, or a panic is on its way
	b.endFile()
	for _, w := range append(b.ahead, b.win) {
		for _, f := range w.ends {
			_ = f.f.Close() // is closed already, or the tree is thrown away
		}
		for _, ps := range w.places {
			for _, p := range ps {
				_ = p.to.f.Close()
			}
		}
	}
}
