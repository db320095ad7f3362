package obs

import (
	"bytes"
	"errors"
	"io"
	"sync"
)

// errDetached is what a late reader of a body gets. Nobody sees it: the request has its answer.
var errDetached = errors.New("the request is over")

// putBody is the body of a put. The HTTP transport may go on reading a body after the request returned (an
// answer that came early, a context that ended), but Store.Put keeps no reference to the caller's bytes, which
// may be unmapped memory by then. So detach ends all access first. It has no WriteTo, which would hand out the
// bytes themselves.
type putBody struct {
	mu   sync.Mutex
	r    *bytes.Reader
	over bool
}

func newPutBody(p []byte) *putBody { return &putBody{r: bytes.NewReader(p)} }

// detach returns when nobody reads, and keeps everybody from reading again.
func (b *putBody) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over, b.r = true, bytes.NewReader(nil)
}

func (b *putBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errDetached
	}
	return b.r.Read(p)
}

func (b *putBody) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errDetached
	}
	return b.r.ReadAt(p, off)
}

func (b *putBody) Seek(off int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errDetached
	}
	return b.r.Seek(off, whence)
}

var _ interface {
	io.ReadSeeker
	io.ReaderAt
} = (*putBody)(nil)
