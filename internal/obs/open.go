package obs

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options are Open's arguments beside the URL. The zero value is usable.
type Options struct {
	// Getenv looks up the environment, in which credentials are; nil means os.Getenv.
	Getenv func(string) string
	// Observe, if set, is called for each request on the goroutine
	// that made it: from several at once.
	Observe func(Event)
	// Retry is the policy for failed requests; nil means DefaultRetry.
	Retry *RetryPolicy
	// Create makes the folder of a file store that is not there, and
	// the marker that tells a store from any other folder, and tries
	// whether its file system can hold a store. Buckets are never made.
	Create bool
	// Later opens a file store also while its folder is not there or has
	// no marker, as before its disk is mounted: calls fail until then.
	Later bool
	// Warn, if set, gets a sentence about each ability that the file system of a file store
	// lacks and its consequence: on the goroutine of the call that met the lack, once per Lack.
	Warn func(message string)
	// Retention tells how long an object is locked where the URL asks for locks of that
	// length: 0 is not at all. Nil means that all are locked as long as the URL asks.
	Retention func(key string, asked time.Duration) time.Duration
	// Limiter, if set, holds this store and all others that have it within
	// one budget. Waiting for it is no part of an Event's duration.
	Limiter *Limiter
	// Stall is how long a connection may move nothing, or next to nothing, before it is
	// given up, and how long a server may think about a request; 0 means a minute. The
	// latter doubles with each try that the server did not answer, three times at most.
	Stall time.Duration

	// transport changes how connections are made, in tests of this package.
	transport func(*http.Transport)
}

// Open opens the store at a URL:
//
//	file:///path
//	s3://bucket/prefix?endpoint=https://host[:port]&region=r&addressing=auto|path|virtual
//	obs://bucket/prefix?region=r
//
// It reads the files of certificates that the URL names. README.md has the parameters of s3
// and obs. It sends nothing to the store, but may ask for credentials (never from the URL):
// the environment first (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or the
// same with OBS_ and OBS_SECURITY_TOKEN), then the shared credentials file, then the metadata
// service of the instance, within metadataPatience. The store retries (see Options.Retry).
//
// A URL that is not of this form is ErrUsage, a file store whose folder does not exist ErrNoFolder,
// a file store whose folder has no marker ErrNoMarker, a file store on a file system that can hold
// no store ErrFileSystem, and a bucket without credentials ErrAccess. Messages repeat no secret.
func Open(ctx context.Context, rawURL string, opts Options) (Store, error) {
	if opts.Getenv == nil {
		opts.Getenv = os.Getenv
	}
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	var s Store
	switch u.Scheme {
	case "file":
		s, err = openFileURL(u, opts)
	case dialectS3.scheme:
		s, err = openBucket(ctx, u, dialectS3, opts)
	case dialectOBS.scheme:
		s, err = openBucket(ctx, u, dialectOBS, opts)
	default:
		return nil, fmt.Errorf("%w: store URL: scheme %q, want file, s3 or obs", ErrUsage, u.Scheme)
	}
	if err != nil {
		return nil, err
	}
	if opts.Observe != nil {
		s = &observed{s, opts.Observe}
	}
	if opts.Limiter != nil {
		s = opts.Limiter.Store(s)
	}
	policy := DefaultRetry
	if opts.Retry != nil {
		policy = *opts.Retry
	}
	return Retry(s, policy), nil
}

// parseURL parses a store's URL. Its errors never hold the URL,
// which may hold a secret that it should not.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: the store's URL can't be parsed", ErrUsage)
	}
	if u.User != nil {
		return nil, fmt.Errorf("%w: store URL: it has a user or password; credentials come from the environment, "+
			"a credentials file or the instance's metadata", ErrUsage)
	}
	if u.Fragment != "" || u.Opaque != "" || u.Scheme == "" {
		return nil, fmt.Errorf("%w: store URL: want file:///path, s3://bucket/prefix?… or obs://bucket/prefix?…", ErrUsage)
	}
	return u, nil
}

// parameters returns the query's values. It refuses a parameter that is not in known,
// is repeated or is empty.
func parameters(u *url.URL, known ...string) (map[string]string, error) {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: the store URL's parameters can't be parsed", ErrUsage)
	}
	values := make(map[string]string, len(q))
	for name, all := range q {
		if !slices.Contains(known, name) {
			want := "none"
			if len(known) > 0 {
				want = strings.Join(known, ", ")
			}
			return nil, fmt.Errorf("%w: store URL: unknown parameter %q (known: %s)", ErrUsage, name, want)
		}
		if len(all) != 1 || all[0] == "" {
			return nil, fmt.Errorf("%w: store URL: parameter %q must be given once, with a value", ErrUsage, name)
		}
		values[name] = all[0]
	}
	return values, nil
}

func openFileURL(u *url.URL, opts Options) (Store, error) {
	if _, err := parameters(u); err != nil {
		return nil, err
	}
	if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
		return nil, fmt.Errorf("%w: store URL: want file:///path with an absolute path", ErrUsage)
	}
	return openFileAt(filepath.Clean(u.Path), opts.Create, opts.Later, opts.Warn)
}
