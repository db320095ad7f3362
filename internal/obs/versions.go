package obs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// Version is one version of an object in a bucket that keeps versions.
type Version struct {
	Key    string // without the store's own prefix
	ID     string
	Size   int64 // bytes
	Marker bool  // a delete marker, which has no bytes
}

// KeepsVersions tells whether the store keeps older versions of its objects, or did so before: a
// plain Delete leaves their bytes behind. Stores that are no bucket keep none. An error says that
// the bucket does not tell.
func KeepsVersions(ctx context.Context, s Store) (keeps bool, err error) {
	err = withBucket(ctx, s, opList, "", func(ctx context.Context, b *s3Store) (err error) {
		keeps, err = b.keepsVersions(ctx)
		return err
	})
	return keeps, err
}

// Versions yields all versions and delete markers of the objects whose key begins with prefix. It
// ends after the first error. A store that keeps no versions yields none.
func Versions(ctx context.Context, s Store, prefix string) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		b := bucketOf(s)
		if b == nil {
			return
		}
		if err := enterList(ctx, prefix); err != nil {
			yield(Version{}, err)
			return
		}
		b.listVersions(ctx, prefix, yield)
	}
}

// DeleteVersion removes one version for good; a version that is not
// there is no error. until is the end of the lock that keeps the
// version, where there is one; the zero time is no lock, or not known.
func DeleteVersion(ctx context.Context, s Store, v Version) (until time.Time, err error) {
	err = withBucket(ctx, s, opDelete, v.Key, func(ctx context.Context, b *s3Store) (err error) {
		until, err = b.deleteVersion(ctx, v)
		return err
	})
	return until, err
}

// bucketOf finds the bucket below its wrappers; nil where there is none.
func bucketOf(s Store) *s3Store {
	for {
		switch w := s.(type) {
		case *s3Store:
			return w
		case *retrying:
			s = w.Store
		case *observed:
			s = w.Store
		case *limited:
			s = w.Store
		default:
			return nil
		}
	}
}

// withBucket calls f with the bucket of a store, as often as the store's policy says.
func withBucket(ctx context.Context, s Store, op, key string, f func(context.Context, *s3Store) error) error {
	b := bucketOf(s)
	if b == nil {
		return nil
	}
	call := func(ctx context.Context) error { return f(ctx, b) }
	if r, ok := s.(*retrying); ok {
		return r.do(ctx, op, key, call)
	}
	return call(ctx)
}

func (s *s3Store) keepsVersions(ctx context.Context) (bool, error) {
	c := s.begin(ctx, opList, "")
	defer c.end()
	config, err := s.client.GetBucketVersioning(c.ctx, s.bucket)
	switch res := minio.ToErrorResponse(err); {
	case err == nil:
		// A bucket that was suspended has the versions of before.
		return config.Status != "", nil
	case res.StatusCode == http.StatusNotImplemented, res.StatusCode == http.StatusMethodNotAllowed:
		return false, nil
	}
	return false, c.fail(err)
}

func (s *s3Store) listVersions(ctx context.Context, prefix string, yield func(Version, error) bool) {
	c := s.begin(ctx, opList, prefix)
	defer c.end()
	rows := s.client.ListObjectsIter(c.ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, WithVersions: true})
	for row := range rows {
		if row.Err != nil {
			yield(Version{}, c.fail(row.Err))
			return
		}
		key, ok := strings.CutPrefix(row.Key, s.prefix)
		if !ok || !strings.HasPrefix(key, prefix) {
			yield(Version{}, c.fail(odd("a list of versions has the key %q, which does not begin as it was asked for", row.Key)))
			return
		}
		if !yield(Version{Key: key, ID: row.VersionID, Size: row.Size, Marker: row.IsDeleteMarker}, nil) {
			return
		}
	}
	if err := ended(ctx, opList, prefix); err != nil {
		yield(Version{}, err)
	}
}

func (s *s3Store) deleteVersion(ctx context.Context, v Version) (time.Time, error) {
	s.fresh.remove([]string{v.Key})
	c := s.begin(ctx, opDelete, v.Key)
	defer c.end()
	err := s.client.RemoveObject(withForm(c.ctx, quietForm), s.bucket, s.prefix+v.Key, minio.RemoveObjectOptions{VersionID: v.ID})
	switch code := minio.ToErrorResponse(err).Code; code {
	case minio.NoSuchKey, minio.NoSuchVersion:
		err = nil
	}
	if err == nil || errors.Is(err, context.Canceled) {
		return time.Time{}, c.fail(err)
	}
	err = c.fail(err)
	if errors.Is(err, ErrUnavailable) || v.Marker {
		return time.Time{}, err
	}
	look := s.begin(ctx, opStat, v.Key)
	defer look.end()
	o, serr := s.client.StatObject(look.ctx, s.bucket, s.prefix+v.Key, minio.StatObjectOptions{VersionID: v.ID})
	if serr != nil {
		return time.Time{}, err
	}
	until := lockTime(o.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if until.IsZero() {
		until = lockTime(look.said.either("Object-Lock-Retain-Until-Date"))
	}
	if !until.IsZero() {
		err = fmt.Errorf("%w: version %s is locked until %s", err, v.ID, until.Format(time.RFC3339))
	}
	return until, err
}
