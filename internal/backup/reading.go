package backup

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"

	"holdfast/internal/tree"
)

const (
	// rereads is how often a file that changed while it was read is read again.
	rereads = 3
	// endless is how many bytes more than its size says a file may
	// have. A longer one is taken for one without an end.
	endless = 1 << 30
)

// reading is the work on the content of one file, which is read again while it changes.
type reading struct {
	p   *pipeline
	e   *tree.Entry // brought up to date by each try
	f   *os.File
	was tree.Entry // what e was when the try began
	c   *content   // of the try
	try int
	// holesToo says that the file is read with its holes: its size and
	// its reads contradict each other.
	holesToo bool
	// sum and length are of the try before, where they can tell that nothing changed.
	sum    uint64
	length int64
}

func (p *pipeline) reading(e *tree.Entry, f *os.File) *reading { return &reading{p: p, e: e, f: f} }

// begin begins a try, which reads up to that size.
func (r *reading) begin(size int64) *content {
	r.was, r.c = *r.e, newContent(r.f, size, r.holesToo)
	return r.c
}

// settled says whether the try need not be repeated, after its content was read and
// stored: e has the size, the times and all other metadata of that content then. last is
// where its last extent ends, and sum tells its content from other content. Where the
// file changed each time, the read content is a loss, and e has a size that takes it.
func (r *reading) settled(last int64, sum func() uint64) (bool, error) {
	same, err := r.p.root.Refresh(r.e, r.f, r.p.warnings.Warn)
	if err != nil {
		return false, faultOf("stat", r.was.Path, err)
	}
	if !same {
		if err := r.p.readFlags(r.e, r.f); err != nil {
			return false, err
		}
	}
	length := r.c.length()
	if same {
		exact := length == r.was.Size && r.p.root.HonestSizes()
		if !exact {
			if exact, err = r.endsAt(length); err != nil {
				return false, err
			}
		}
		if exact && last <= length {
			if length != r.was.Size {
				r.e.Size = length
				r.p.tellSize(r.e.Path, r.was.Size, length)
			}
			return true, nil
		}
		r.holesToo = true
	}
	if !r.p.root.HonestSizes() && !same {
		// Some file systems in user space tell another time at every
		// look. Then content that came twice is settled.
		before, was := r.sum, r.length
		r.sum, r.length = sum(), length
		if r.try == rereads && before == r.sum && was == length && last <= length {
			r.e.Size = length
			return true, nil
		}
	}
	if r.try < rereads {
		r.try++
		return false, nil
	}
	r.e.Size = max(length, last)
	r.p.torn(r.e)
	return true, nil
}

// endsAt says whether the file ends at length and nowhere before.
func (r *reading) endsAt(length int64) (bool, error) {
	if r.c.holesToo && r.c.end.Load() == length {
		return true, nil // it was read up to there without a gap
	}
	exact, err := tree.EndsAt(r.f, length)
	return exact, faultOf("read", r.was.Path, err)
}

// measured returns where the content of a large file ends: what e says,
// or on a file system whose sizes are not relied upon what reads tell.
func (r *reading) measured() (int64, error) {
	if r.p.root.HonestSizes() {
		return r.e.Size, nil
	}
	size, err := tree.Measure(r.f, r.e.Size, endless)
	r.holesToo = r.holesToo || size != r.e.Size // its list of holes depends on its size
	return size, faultOf("read", r.e.Path, err)
}

// unchanged says whether the file is the same as when the try began, once e belongs to the recipe.
func (r *reading) unchanged() (bool, error) {
	same, err := r.p.root.Unchanged(&r.was, r.f)
	return same, faultOf("stat", r.was.Path, err)
}

// lost tells of content that the backup does not have, or not as it was.
func (p *pipeline) lost(path, what string) {
	p.warnings.Warn(tree.Warning{Path: path, What: what, Lost: true})
}

// torn tells that e changed each time it was read. Its content is
// stored, and the next backup reads it again.
func (p *pipeline) torn(e *tree.Entry) {
	e.Ino, e.Ctime = 0, tree.Time{}
	p.lost(e.Path, "it changed each time while it was read; its content is of no single moment")
}

// tellSize tells that a size was wrong. A size of 0 is how a file system says that it knows none.
func (p *pipeline) tellSize(path string, stated, actual int64) {
	if stated > 0 {
		p.warnings.Warn(tree.Warning{Path: path, What: fmt.Sprintf("its size was given as %d, it has %d bytes, which are stored", stated, actual)})
	}
}

// leaveOut takes entry i from the unit, because of err, so the recipe gets
// no such entry. An err that is no fault of the user's file it returns.
func (p *pipeline) leaveOut(u *unit, i int, err error) error {
	e := u.entries[i]
	switch {
	case errors.Is(err, tree.ErrVanished):
		ino := e.Ino
		if e.Nested {
			ino = 0
		}
		p.away.add(e.Path, ino)
	case errors.Is(err, tree.ErrFolder):
		// Its walk would have to be made in the middle of the recipe. The next backup has it.
		p.lost(e.Path, "it became a folder before it was read; it is left out with all that it holds")
	case isFault(err):
		p.lost(e.Path, "it could not be read ("+err.Error()+"); it is left out")
	default:
		return err
	}
	if e.Linked {
		u.moved = append(u.moved, e.Path)
	}
	u.entries[i] = nil
	return nil
}

// open opens entry i of u, a file, as it is now. There is no file
// where the entry is left out, or is no file any more. fresh says that
// it is not the file that the walk saw, or not as the walk saw it.
func (p *pipeline) open(u *unit, i int) (f *os.File, fresh bool, err error) {
	e := u.entries[i]
	was := *e
	f, err = p.root.Open(e, p.warnings.Warn)
	if err != nil {
		return nil, false, p.leaveOut(u, i, faultOf("open", e.Path, err))
	}
	if e.Linked && (f == nil || e.Ino != was.Ino) {
		u.moved = append(u.moved, e.Path) // the further names that the walk saw are of another file
	}
	if f == nil {
		return nil, true, nil
	}
	if err := p.readFlags(e, f); err != nil {
		_ = f.Close() // nothing was written
		return nil, false, err
	}
	return f, e.Ino != was.Ino || e.Size != was.Size || e.Mtime != was.Mtime || e.Ctime != was.Ctime, nil
}

// readFlags reads the flags of a file. Unreadable flags
// are a loss, and no reason to lose the content too.
func (p *pipeline) readFlags(e *tree.Entry, f *os.File) error {
	err := faultOf("read flags of", e.Path, p.root.ReadFlags(e, f))
	if isFault(err) {
		p.lost(e.Path, "its flags could not be read ("+err.Error()+"); it is stored without them")
		p.doubtful.Store(true) // else the next backup would take over that it has none
		return nil
	}
	return err
}

// contentSeed is for comparing the content of a file with its content at an earlier reading.
var contentSeed = maphash.MakeSeed()
