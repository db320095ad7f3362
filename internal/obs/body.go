package obs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// errDetached is the error of a read of a body after its request has ended. No caller
// sees it, because the request has its answer by then.
var errDetached = errors.New("the request is over")

// putBody is the body of a put. The HTTP transport may go on reading a body after the
// request returned (an answer that came early, a context that ended), but Store.Put keeps
// no reference to the caller's bytes, which may be unmapped memory by then. So detach
// ends all access first. It has no WriteTo, which would hand out the bytes themselves.
type putBody struct {
	ctx  context.Context //nolint:containedctx // lives for one request
	pace *pace           // or nil
	w    *watch

	mu   sync.Mutex
	r    *bytes.Reader
	over bool
}

func newPutBody(ctx context.Context, w *watch, p []byte) *putBody {
	pace, _ := ctx.Value(paceKey{}).(*pace)
	return &putBody{ctx: ctx, pace: pace, w: w, r: bytes.NewReader(p)}
}

// detach returns when nobody reads, and keeps everybody from reading again.
func (b *putBody) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over, b.r = true, bytes.NewReader(nil)
}

func (b *putBody) Read(p []byte) (int, error) {
	if b.pace != nil {
		p = p[:b.pace.pacer.chunk(len(p))]
	}
	n, err := b.read(p)
	if n > 0 && b.pace != nil {
		if perr := b.pace.take(b.ctx, n); perr != nil {
			return 0, perr
		}
	}
	b.w.moved(n)
	return n, err
}

func (b *putBody) read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errDetached
	}
	return b.r.Read(p)
}

func (b *putBody) Seek(off int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errDetached
	}
	return b.r.Seek(off, whence)
}

var _ io.ReadSeeker = (*putBody)(nil)

// readPaced fills p from r at the pace of ctx. As in io.ReadFull.
func readPaced(ctx context.Context, w *watch, r io.Reader, p []byte) (n int, err error) {
	pace, _ := ctx.Value(paceKey{}).(*pace)
	for n < len(p) && err == nil {
		part := p[n:]
		if pace != nil {
			part = part[:pace.pacer.chunk(len(part))]
		}
		var got int
		got, err = r.Read(part)
		n += got
		w.moved(got)
		if pace != nil && got > 0 {
			if perr := pace.take(ctx, got); perr != nil {
				return n, perr
			}
		}
	}
	switch {
	case n == len(p):
		return n, nil
	case err == io.EOF: //nolint:errorlint // as in io.ReadFull
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// slowest is how few bytes a second a request may move, seen over the
// time of a stall, before it is given up: a connection over which they
// drip holds up a backup as a dead one does, and a new one may be whole.
const slowest = 1 << 10

// errDrips is the end of a request that moved too little.
var errDrips = errors.New("the connection moves next to nothing")

// watch gives up a request that moves almost no bytes. Time in which a limiter holds
// the request back does not count.
type watch struct {
	least int64 // bytes in one period
	bytes atomic.Int64
	pace  *pace // or nil

	mu     sync.Mutex
	timer  *time.Timer
	ended  bool
	before int64
}

// newWatch begins to watch a request of n bytes; the caller stops it. giveUp ends the request.
func newWatch(ctx context.Context, period time.Duration, n int, giveUp func(error)) *watch {
	w := &watch{least: int64(slowest * period.Seconds())}
	w.pace, _ = ctx.Value(paceKey{}).(*pace)
	var check func()
	check = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.ended {
			return
		}
		now := w.bytes.Load()
		held := w.pace != nil && w.pace.held.Load() > 0
		// When all has moved, the server thinks, and other limits hold.
		if now-w.before < w.least && now < int64(n) && !held {
			giveUp(fmt.Errorf("%w: %d bytes in %v", errDrips, now-w.before, period))
			return
		}
		w.before = now
		w.timer = time.AfterFunc(period, check)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(period, check)
	return w
}

func (w *watch) moved(n int) { w.bytes.Add(int64(n)) }

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}
