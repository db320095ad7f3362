package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"
)

// ReadAt asks again for the rest of the bytes where a server or a gateway gives fewer
// bytes than the request wanted.
func (s *s3Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := enter(ctx, opRead, key); err != nil {
		return 0, err
	}
	if err := offsetValid(key, off); err != nil {
		return 0, err
	}
	if len(p) == 0 { // no range says "nothing"
		_, err := s.Stat(ctx, key)
		return 0, err
	}
	c := s.begin(ctx, opRead, key)
	defer c.end()
	for got := 0; ; {
		n, end, err := s.readPart(c, p[got:], off+int64(got))
		got += n
		switch {
		case err != nil:
			return got, s.again(c, c.fail(err), lookReads)
		case got == len(p):
			return got, nil
		case end:
			return got, io.EOF
		case n == 0:
			return got, c.fail(odd("the server answered a read of %d bytes with none", len(p)-got))
		}
	}
}

// readPart makes one request, whose answer may have fewer bytes
// than asked for. end says that the object ends behind them.
func (s *s3Store) readPart(c *call, p []byte, off int64) (n int, end bool, err error) {
	var opts minio.GetObjectOptions
	if err := opts.SetRange(off, off+int64(len(p))-1); err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	body, _, header, err := s.client.GetObject(withForm(c.ctx, objectForm), s.bucket, s.prefix+c.key, opts)
	if res := minio.ToErrorResponse(err); res.Code == minio.InvalidRange || res.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return 0, true, behindEnd(c.said.get("Content-Range"), off)
	}
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = body.Close() }()
	s.bucketSeen.Store(true)
	want, end, err := rangeOf(header, off, len(p))
	if err != nil {
		return 0, false, err
	}
	w := newWatch(c.ctx, s.stall, want, c.cancel)
	defer w.stop()
	n, err = readPaced(c.ctx, w, body, p[:want])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = &unavailableError{err: fmt.Errorf("the answer broke off: %d bytes came of %d", n, want)}
	}
	return n, end && n == want, err
}

// behindEnd checks the answer to a read that begins behind the
// object's end. It names the size, where the server tells it.
func behindEnd(contentRange string, off int64) error {
	_, text, _ := strings.Cut(contentRange, "*/")
	if size, err := strconv.ParseInt(text, 10, 64); err == nil && size > off {
		return odd("the server has %d bytes, and refuses to give those from %d on", size, off)
	}
	return nil
}

// rangeOf reads from the answer how many of the wanted bytes it has, and whether the
// object ends behind them.
func rangeOf(h http.Header, off int64, length int) (n int, end bool, err error) {
	text := h.Get("Content-Range")
	told, terr := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if text == "" { // the whole object: usable from the beginning only
		switch {
		case off != 0:
			return 0, false, odd("the server or something before it ignores Range: asked for %d bytes from %d, it sent the whole object", length, off)
		case terr != nil || told < 0:
			return 0, false, odd("the answer to a read says neither which bytes it has nor how many")
		}
		return int(min(told, int64(length))), told <= int64(length), nil
	}
	first, last, size, ok := parseRange(text)
	switch {
	case !ok, first != off, last < first, last-first >= int64(length), size >= 0 && last >= size, terr == nil && told != last-first+1:
		return 0, false, odd("asked for %d bytes from %d, the server sent %s bytes with the range %q", length, off, h.Get("Content-Length"), text)
	}
	return int(last - first + 1), last+1 == size, nil
}

// parseRange reads "bytes 0-9/100", and "bytes 0-9/*" of servers
// that do not tell the size; it is -1 then.
func parseRange(text string) (first, last, size int64, ok bool) {
	unit, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	span, total, found := strings.Cut(rest, "/")
	from, to, both := strings.Cut(span, "-")
	if !strings.EqualFold(unit, "bytes") || !found || !both {
		return 0, 0, 0, false
	}
	first, ferr := strconv.ParseInt(from, 10, 64)
	last, lerr := strconv.ParseInt(to, 10, 64)
	size = -1
	var serr error
	if total != "*" {
		size, serr = strconv.ParseInt(total, 10, 64)
	}
	return first, last, size, ferr == nil && lerr == nil && serr == nil && first >= 0
}

// How often a call looks in all for an object that is not there. An object that is read
// was seen before, in a list or in another object; an object that this Store put exists,
// but a server whose parts learn of it one after the other may not show it at once.
const (
	lookStats = 1
	lookReads = 2
	lookFresh = 4
)

// againError is an object that is not there, and may be at a second look.
type againError struct {
	err   error
	tries int
}

func (e *againError) Error() string { return e.err.Error() }
func (e *againError) Unwrap() error { return e.err }

// Tries is how often a call that fails with it is tried in all.
func (e *againError) Tries() int { return e.tries }

// again lets an object that is not there be looked for again.
func (s *s3Store) again(c *call, err error, tries int) error {
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if s.fresh.has(c.key) {
		tries = lookFresh
	}
	if tries == 1 {
		return err
	}
	return &againError{err, tries}
}

// maxFresh is the most keys of its own puts that a store remembers.
const maxFresh = 4096

// freshKeys are keys that this Store put and did not delete, the newest of them.
type freshKeys struct {
	mu       sync.Mutex
	new, old map[string]bool
}

func (f *freshKeys) add(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.new == nil || len(f.new) >= maxFresh/2 {
		f.new, f.old = map[string]bool{}, f.new
	}
	f.new[key] = true
}

func (f *freshKeys) has(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.new[key] || f.old[key]
}

func (f *freshKeys) remove(keys []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		delete(f.new, key)
		delete(f.old, key)
	}
}
