package obs

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/minio/minio-go/v7"
)

// modeCompliance is the lock that nobody can shorten, in the words of S3 and of OBS.
const modeCompliance = "COMPLIANCE"

// errNoLock is the end of an Extend in a store without object lock.
var errNoLock = fmt.Errorf("object lock: %w", errors.ErrUnsupported)

// Extend is for the folders of a file store, which have no lock.
func (s *fileStore) Extend(ctx context.Context, key string, _ time.Time) error {
	if err := enter(ctx, opExtend, key); err != nil {
		return err
	}
	return fmt.Errorf("%s %s: %w", opExtend, key, errNoLock)
}

func (s *s3Store) Extend(ctx context.Context, key string, until time.Time) error {
	if err := enter(ctx, opExtend, key); err != nil {
		return err
	}
	if s.put.retain == 0 {
		return fmt.Errorf("%s %s: the store's URL has no retain=: %w", opExtend, key, errNoLock)
	}
	if short := until.Truncate(time.Second); !short.Equal(until) {
		// the wire has whole seconds, and the lock is not to end before
		until = short.Add(time.Second)
	}
	ends, mode, err := s.lockOf(ctx, opExtend, key)
	if err != nil || !ends.Before(until) {
		return err
	}
	if mode == "" {
		mode = modeCompliance // put before the URL asked for a lock
	}
	c := s.begin(ctx, opExtend, key)
	defer c.end()
	if err := s.sendRetention(c, mode, until); err != nil {
		if lockless(err) {
			return fmt.Errorf("%s %s: the bucket has no object lock (WORM): %w: %w", opExtend, key, errNoLock, err)
		}
		return c.fail(err)
	}
	return s.confirmExtension(ctx, key, until)
}

// lockOf asks until when an object is locked, and how.
func (s *s3Store) lockOf(ctx context.Context, op, key string) (until time.Time, mode string, err error) {
	c := s.begin(ctx, op, key)
	defer c.end()
	in, err := s.stat(c)
	return in.RetainUntil, c.said.either("Object-Lock-Mode"), err
}

// confirmExtension checks, once for each Store, that the server did the extension that
// it answered with 200.
func (s *s3Store) confirmExtension(ctx context.Context, key string, until time.Time) error {
	s.put.mu.Lock()
	defer s.put.mu.Unlock()
	if s.put.extends {
		return nil
	}
	ends, _, err := s.lockOf(ctx, opExtend, key)
	if err != nil {
		return err
	}
	if ends.Before(until) {
		return fmt.Errorf("%s %s: the server answered that it did, but keeps the object until %v only: %w", opExtend, key, ends, errNoLock)
	}
	s.put.extends = true
	return nil
}

// sendRetention asks the server to keep an object until then.
func (s *s3Store) sendRetention(c *call, mode string, until time.Time) error {
	ctx := c.ctx
	if s.scheme == dialectOBS.scheme {
		// OBS takes no signed payload, and wants the time in milliseconds.
		doc, err := xml.Marshal(struct {
			XMLName         xml.Name `xml:"Retention"`
			Mode            string
			RetainUntilDate int64
		}{Mode: mode, RetainUntilDate: until.UnixMilli()})
		if err != nil {
			return err
		}
		_, sum := md5Of(doc)
		ctx = context.WithValue(ctx, extraKey{}, http.Header{"X-Amz-Content-Sha256": {"UNSIGNED-PAYLOAD"}, "Content-Md5": {sum}})
		ctx = context.WithValue(ctx, documentKey{}, doc)
	}
	m := minio.RetentionMode(mode)
	return s.client.PutObjectRetention(ctx, s.bucket, s.prefix+c.key, minio.PutObjectRetentionOptions{Mode: &m, RetainUntilDate: &until})
}

// lockless tells the answers of servers and buckets without object lock.
func lockless(err error) bool {
	res := minio.ToErrorResponse(err)
	return slices.Contains([]string{
		"InvalidRequest", "NotImplemented", "MethodNotAllowed", "InvalidBucketState",
		"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "InvalidBucketObjectLockConfiguration",
	}, res.Code) || res.StatusCode == http.StatusMethodNotAllowed || res.StatusCode == http.StatusNotImplemented
}

// confirmRetention asks the server, once for each Store, whether it keeps the retention
// of a put: in a bucket without retention, any holder of its keys could delete objects
// that users believe locked.
func (s *s3Store) confirmRetention(c *call) error {
	if s.put.retains(c.key) == 0 {
		return nil
	}
	s.put.mu.Lock()
	defer s.put.mu.Unlock()
	if s.put.holds {
		return nil
	}
	_, mode, err := s.lockOf(c.caller, opStat, c.key)
	if err != nil {
		return err
	}
	if mode == "" {
		return fmt.Errorf("%w: the server stored the object without the retention that the store's URL asks for: "+
			"make the bucket with object lock (WORM)", ErrUsage)
	}
	s.put.holds = true
	return nil
}

// lockTime reads the end of a lock: S3 has RFC 3339, OBS has milliseconds. A text of
// neither form is no lock.
func lockTime(text string) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at.UTC()
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms > 0 {
		return time.UnixMilli(ms).UTC()
	}
	return time.Time{}
}

// documentKey is the key of a context's value that holds a request's body in place of
// the client library's.
type documentKey struct{}

// withDocument puts the body of the context into a request, if there is one.
func withDocument(req *http.Request) {
	doc, ok := req.Context().Value(documentKey{}).([]byte)
	if !ok {
		return
	}
	req.ContentLength = int64(len(doc))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(doc)), nil }
	req.Body, _ = req.GetBody()
}
