package obs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/contain"
)

const (
	// deleteBatch is the most objects that one request of S3 deletes.
	deleteBatch = 1000
	// deleteWorkers is how many single deletions run at once where there is no batch.
	deleteWorkers = 8
)

// dialect holds the differences between OBS and S3.
type dialect struct {
	scheme string
	// integrity is the checksum that the server verifies where the URL names none.
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

// s3Store is a bucket, or the objects below a prefix in it.
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
	proved   facts
	fresh    freshKeys
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

// fail gives a client's error its class, and says of a put or a
// delete whether it may have taken effect. nil stays nil.
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

// renewed asks for credentials anew after the store refused a request
// for its keys, and tells whether there are others now: somebody
// rotated them, or the store's clock ended them before ours did.
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
	if !s.takesCondition() {
		return c.fail(s.send(c, body, false))
	}
	err := s.send(c, body, true)
	if stumbles(err) {
		if perr := s.send(c, body, false); perr != nil {
			return c.fail(perr) // it was not the condition that the server refused
		}
		s.proved.conditionalPut.set(false)
		return nil
	}
	if err = c.fail(err); !errors.Is(err, ErrExists) {
		return err
	}
	// Our own bytes of a try whose answer was lost, or other bytes: ask.
	same, serr := holdsSame(ctx, s, key, body)
	switch {
	case errors.Is(serr, ErrNotFound):
		// Another client deleted the object in between, so the name is free; or the
		// server refuses every conditional put.
		return c.fail(odd("the server says that the name is taken, and has no such object: %w", serr))
	case serr != nil:
		return serr
	case same:
		return nil
	}
	return err
}

func (s *s3Store) PutNew(ctx context.Context, key string, body []byte) error {
	if err := enter(ctx, opPutNew, key); err != nil {
		return err
	}
	if !s.conditional {
		return fmt.Errorf("%s %s: conditional put on %s: %w", opPutNew, key, s.scheme, errors.ErrUnsupported)
	}
	if err := s.mustTakeCondition(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", opPutNew, key, err)
	}
	c := s.begin(ctx, opPutNew, key)
	defer c.end()
	return c.fail(s.send(c, body, true))
}

func (s *s3Store) Stat(ctx context.Context, key string) (Info, error) {
	if err := enter(ctx, opStat, key); err != nil {
		return Info{}, err
	}
	c := s.begin(ctx, opStat, key)
	defer c.end()
	in, err := s.stat(c)
	if err == nil && in.Size < 0 {
		return Info{}, c.fail(odd("the answer to a HEAD does not say how long the object is"))
	}
	return in, s.again(c, err, lookStats)
}

// stat asks for the object of a call.
func (s *s3Store) stat(c *call) (Info, error) {
	o, err := s.client.StatObject(withForm(c.ctx, objectForm), s.bucket, s.prefix+c.key, minio.StatObjectOptions{})
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
	if o.LastModified.Equal(noTime) {
		o.LastModified = time.Time{}
	}
	in := Info{Key: c.key, Size: o.Size, Modified: o.LastModified.UTC(), RetainUntil: lockTime(c.said.either("Object-Lock-Retain-Until-Date"))}
	s.setClass(&in, c.said.either("Storage-Class"), c.said.either("Restore"), c.said.either("Archive-Status"))
	return in, nil
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
	s.fresh.remove(keys)
	c := s.begin(ctx, opDelete, keys[0])
	defer c.end()
	if len(keys) == 1 || !s.batchDelete || s.proved.batchDelete.fails() {
		return s.deleteSingly(c, keys)
	}
	for batch := range slices.Chunk(keys, deleteBatch) {
		err := s.deleteMany(c, batch)
		if stumbles(err) {
			if err := s.deleteSingly(c, keys); err != nil {
				return err // it was not the batch that the server refused
			}
			s.proved.batchDelete.set(false)
			return nil
		}
		if err != nil {
			return c.fail(err)
		}
		s.proved.batchDelete.set(true)
	}
	return nil
}

func (s *s3Store) deleteSingly(c *call, keys []string) error {
	g, gctx := contain.WithContext(withForm(c.ctx, quietForm))
	g.SetLimit(deleteWorkers)
	for _, key := range keys {
		g.Go(func() error {
			err := s.client.RemoveObject(gctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
			if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
				return nil // some servers say so
			}
			return err
		})
	}
	return c.fail(g.Wait())
}

// deleteMany removes objects by one request. The answer has to be
// of the form that tells of objects that stayed.
func (s *s3Store) deleteMany(c *call, keys []string) error {
	ctx := withForm(c.ctx, func(res *http.Response) error {
		body, err := readDocument(res)
		if err != nil {
			return err
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
		return parseDocument(body, "DeleteResult", new(struct{}))
	})
	results, err := s.client.RemoveObjectsWithIter(ctx, s.bucket, s.names(keys), minio.RemoveObjectsOptions{})
	if err != nil {
		return err
	}
	for r := range results {
		if r.Err != nil && minio.ToErrorResponse(r.Err).Code != minio.NoSuchKey {
			return r.Err
		}
	}
	return c.ctx.Err()
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
	c := Capabilities{ConditionalPut: s.takesCondition(), Integrity: s.put.describe(), Retain: s.put.retain}
	c.Proved.ConditionalPut, c.Proved.BatchDelete, c.Proved.ListV2 = s.proved.conditionalPut.proof(), s.proved.batchDelete.proof(), s.proved.listV2.proof()
	c.Proved.Checksum, c.Proved.Lock = s.put.proof()
	return c
}

func (s *s3Store) String() string { return s.name }

func (s *s3Store) Close() error {
	s.close(os.ErrClosed)
	s.idle()
	return nil
}
