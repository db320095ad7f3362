package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
)

const (
	// deleteBatch is what one request of S3 deletes at most.
	deleteBatch = 1000
	// deleteWorkers is how many single deletions run at once where there is no batch.
	deleteWorkers = 8
)

// dialect is in what OBS and S3 differ.
type dialect struct {
	scheme string
	// integrity is what the server verifies where the URL does not say.
	integrity string
	// conditional sends If-None-Match with each put, so that a name is taken once.
	conditional bool
	// listV1 lists by marker: the newer way came late to OBS and not to all of its regions.
	listV1 bool
	// batchDelete: the request that deletes many has a signed payload, which OBS refuses.
	batchDelete bool
}

var (
	dialectS3  = dialect{scheme: "s3", integrity: integrityAuto, conditional: true, batchDelete: true}
	dialectOBS = dialect{scheme: "obs", integrity: integrityMD5, listV1: true}
)

// s3Store is a bucket, or what lies below a prefix in it.
type s3Store struct {
	dialect
	client *minio.Core
	bucket string
	prefix string // "" or ends in "/"
	name   string // the URL
	// endpoint is whom to ask for the bucket, for messages.
	endpoint string
	put      putter
	creds    *credentials.Credentials
	// plainPut is set when the server turns out not to know conditional puts.
	plainPut atomic.Bool
	// bucketSeen: the bucket answered for itself, so a 404 is the object's.
	bucketSeen atomic.Bool

	life  context.Context //nolint:containedctx // ends with Close, and with it the calls under way
	close context.CancelCauseFunc
	idle  func()        // closes idle connections
	stall time.Duration // see Options.Stall
}

// call is one call under way. Its context ends with the caller's and with the store.
type call struct {
	s       *s3Store
	op, key string
	caller  context.Context //nolint:containedctx // lives for one call
	ctx     context.Context //nolint:containedctx // lives for one call
	said    *answer
	extra   http.Header // of OBS, which the client library does not know
	cancel  context.CancelCauseFunc
	end     func()
}

func (s *s3Store) begin(ctx context.Context, op, key string) *call {
	c := &call{s: s, op: op, key: key, caller: ctx, said: &answer{}}
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, answerKey{}, c.said))
	if s.life.Err() != nil {
		cancel(os.ErrClosed) // at once: AfterFunc would do it while the request is on its way
	}
	stop := context.AfterFunc(s.life, func() { cancel(os.ErrClosed) })
	c.ctx, c.cancel = ctx, cancel
	c.end = func() {
		stop()
		cancel(nil)
	}
	return c
}

// fail gives a client's error its class, and says of a put or a delete whether it may have taken effect. nil stays nil.
func (c *call) fail(err error) error {
	err = c.classify(err)
	switch {
	case !changes(c.op):
		return err
	case c.said.mayHaveActed():
		return uncertain(err)
	}
	return noEffect(err)
}

func (c *call) classify(err error) error {
	if err == nil {
		return nil
	}
	if cerr := ended(c.caller, c.op, c.key); cerr != nil {
		return cerr
	}
	if c.s.life.Err() != nil {
		return fmt.Errorf("%s %s: store is closed: %w", c.op, c.key, os.ErrClosed)
	}
	if cause := context.Cause(c.ctx); errors.Is(cause, errDrips) {
		err = &unavailableError{err: cause}
	}
	if stalled(err) {
		c.s.idle() // the others that are open may be as dead: the next try makes a new one
	}
	err = c.s.classify(err, c.said)
	if (errors.Is(err, ErrExpiredKeys) || errors.Is(err, ErrWrongKeys)) && c.s.renewed(c.said) {
		err = &unavailableError{err: err}
	}
	return fmt.Errorf("%s %s: %w", c.op, c.key, err)
}

// renewed asks for credentials anew after the store refused a request for its keys, and tells whether there are
// others now: somebody rotated them, or the store's clock ended them before ours did.
func (s *s3Store) renewed(said *answer) bool {
	s.creds.Expire()
	v, err := s.creds.GetWithContext(&credentials.CredContext{Context: s.life})
	used := said.signedWith()
	return err == nil && used != "" && used != v.AccessKeyID
}

func (s *s3Store) Put(ctx context.Context, key string, body []byte) error {
	if err := enter(ctx, opPut, key); err != nil {
		return err
	}
	c := s.begin(ctx, opPut, key)
	defer c.end()
	if s.conditional && !s.plainPut.Load() {
		err := c.fail(s.send(c, body, true))
		switch {
		case errors.Is(err, ErrExists):
			// Our own bytes of a try whose answer was lost, or other bytes: ask.
			same, serr := holdsSame(ctx, s, key, body)
			switch {
			case errors.Is(serr, ErrNotFound):
				// Deleted in between, so the name is free.
				return &unavailableError{err: fmt.Errorf("%s %s: %w", opPut, key, serr)}
			case serr != nil:
				return serr
			case same:
				return nil
			}
			return err
		case !errors.Is(err, errors.ErrUnsupported):
			return err
		}
		s.plainPut.Store(true)
	}
	return c.fail(s.send(c, body, false))
}

func (s *s3Store) PutNew(ctx context.Context, key string, body []byte) error {
	if err := enter(ctx, opPutNew, key); err != nil {
		return err
	}
	if !s.conditional {
		return fmt.Errorf("%s %s: conditional put on %s: %w", opPutNew, key, s.scheme, errors.ErrUnsupported)
	}
	c := s.begin(ctx, opPutNew, key)
	defer c.end()
	return c.fail(s.send(c, body, true))
}

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
	var opts minio.GetObjectOptions
	if err := opts.SetRange(off, off+int64(len(p))-1); err != nil {
		return 0, fmt.Errorf("%s %s: %w: %w", opRead, key, ErrUsage, err)
	}
	body, _, header, err := s.client.GetObject(c.ctx, s.bucket, s.prefix+key, opts)
	if minio.ToErrorResponse(err).Code == minio.InvalidRange {
		return 0, io.EOF
	}
	if err != nil {
		return 0, c.fail(err)
	}
	defer func() { _ = body.Close() }()
	s.bucketSeen.Store(true)
	want, end, err := rangeOf(header, off, len(p))
	if err != nil {
		return 0, c.fail(&unavailableError{err: err})
	}
	w := newWatch(c.ctx, s.stall, want, c.cancel)
	defer w.stop()
	n, err := readPaced(c.ctx, w, body, p[:want])
	switch {
	case err != nil:
		return n, c.fail(err)
	case n == len(p):
		return n, nil
	case end:
		return n, io.EOF
	}
	return n, c.fail(&unavailableError{err: fmt.Errorf("the server sent %d bytes of %d", n, len(p))})
}

// rangeOf reads from the answer how many bytes it has, and whether the object ends behind them.
func rangeOf(h http.Header, off int64, length int) (n int, end bool, err error) {
	text := h.Get("Content-Range")
	var first, last, size int64
	if _, err := fmt.Sscanf(text, "bytes %d-%d/%d", &first, &last, &size); err != nil {
		// A server that ignores ranges sends the whole object: usable from the beginning only.
		whole, perr := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
		if text != "" || off != 0 || perr != nil || whole > int64(length) {
			return 0, false, fmt.Errorf("the server answered a ranged read with range %q", text)
		}
		return int(whole), true, nil
	}
	if first != off || last < first || last-first >= int64(length) {
		return 0, false, fmt.Errorf("asked for %d bytes from %d, the server sent range %q", length, off, text)
	}
	return int(last - first + 1), last+1 == size, nil
}

func (s *s3Store) Stat(ctx context.Context, key string) (Info, error) {
	if err := enter(ctx, opStat, key); err != nil {
		return Info{}, err
	}
	c := s.begin(ctx, opStat, key)
	defer c.end()
	return s.stat(c)
}

// stat asks for the object of a call.
func (s *s3Store) stat(c *call) (Info, error) {
	o, err := s.client.StatObject(c.ctx, s.bucket, s.prefix+c.key, minio.StatObjectOptions{})
	if err != nil {
		err = c.fail(err)
		if errors.Is(err, ErrNotFound) && !s.bucketSeen.Load() {
			// An answer to HEAD has no body to tell whether bucket or object is missing.
			switch there, berr := s.client.BucketExists(c.ctx, s.bucket); {
			case berr == nil && there:
				s.bucketSeen.Store(true)
			case berr == nil:
				return Info{}, fmt.Errorf("%s %s: %w: %s at %s", c.op, c.key, ErrNoBucket, s.bucket, s.endpoint)
			}
		}
		return Info{}, err
	}
	s.bucketSeen.Store(true)
	in := Info{Key: c.key, Size: o.Size, Modified: o.LastModified.UTC(), RetainUntil: lockTime(c.said.either("Object-Lock-Retain-Until-Date"))}
	s.setClass(&in, c.said.either("Storage-Class"), c.said.either("Restore"), c.said.either("Archive-Status"))
	return in, nil
}

func (s *s3Store) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return s.listAfter(ctx, prefix, "")
}

func (s *s3Store) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := enterList(ctx, prefix); err != nil {
			yield(Info{}, err)
			return
		}
		c := s.begin(ctx, opList, prefix)
		defer c.end()
		noOwner := false
		opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, UseV1: s.listV1, FetchOwner: &noOwner}
		if after != "" {
			opts.StartAfter = s.prefix + after
		}
		for o := range s.client.ListObjectsIter(c.ctx, s.bucket, opts) {
			if o.Err != nil {
				yield(Info{}, c.fail(o.Err))
				return
			}
			key := strings.TrimPrefix(o.Key, s.prefix)
			if KeyValid(key) != nil {
				continue // not ours: consoles make objects that end in "/"
			}
			in := Info{Key: key, Size: o.Size, Modified: o.LastModified.UTC()}
			s.setClass(&in, o.StorageClass, "", "")
			if !yield(in, nil) {
				return
			}
		}
		// The client ends a list quietly when its context ends.
		if c.ctx.Err() != nil {
			yield(Info{}, c.fail(c.ctx.Err()))
		}
	}
}

func (s *s3Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := KeyValid(key); err != nil {
			return fmt.Errorf("%s: %w", opDelete, err)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	c := s.begin(ctx, opDelete, keys[0])
	defer c.end()
	if len(keys) == 1 || !s.batchDelete {
		g, gctx := errgroup.WithContext(c.ctx)
		g.SetLimit(deleteWorkers)
		for _, key := range keys {
			g.Go(func() error {
				return s.client.RemoveObject(gctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
			})
		}
		return c.fail(g.Wait())
	}
	for batch := range slices.Chunk(keys, deleteBatch) {
		results, err := s.client.RemoveObjectsWithIter(c.ctx, s.bucket, s.names(batch), minio.RemoveObjectsOptions{})
		if err != nil {
			return c.fail(err)
		}
		for r := range results {
			if r.Err != nil {
				return c.fail(r.Err)
			}
		}
		if c.ctx.Err() != nil {
			return c.fail(c.ctx.Err())
		}
	}
	return nil
}

func (s *s3Store) names(keys []string) iter.Seq[minio.ObjectInfo] {
	return func(yield func(minio.ObjectInfo) bool) {
		for _, key := range keys {
			if !yield(minio.ObjectInfo{Key: s.prefix + key}) {
				return
			}
		}
	}
}

func (s *s3Store) Capabilities() Capabilities {
	return Capabilities{ConditionalPut: s.conditional, Integrity: s.put.describe(), Retain: s.put.retain}
}

func (s *s3Store) String() string { return s.name }

func (s *s3Store) Close() error {
	s.close(os.ErrClosed)
	s.idle()
	return nil
}
