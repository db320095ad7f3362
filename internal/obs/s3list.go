package obs

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// maxEmptyPages is how many pages without an object a list may have one
// after the other. Stores give some where many objects were deleted.
const maxEmptyPages = 1000

// pager is the way to ask for the next page of a list.
type pager int

const (
	// byToken is version 2 with the token of the page before, where there is one.
	byToken pager = iota
	// byKey is version 2 after the last key: the way that is left when a token has
	// expired, or leads in a circle.
	byKey
	// byMarker is version 1, which all servers know.
	byMarker
)

// listing is one list under way.
type listing struct {
	s      *s3Store
	c      *call
	prefix string // with the store's own
	by     pager
	last   string          // the greatest key so far, with the store's own prefix
	token  string          // of the next page
	tokens map[string]bool // the tokens that the pages so far brought
	empty  int             // pages without an object, one after the other
	doubt  bool            // the page before was full and said that it was the last one
}

func (s *s3Store) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return s.listAfter(ctx, prefix, "")
}

// listAfter yields each object once and in order, or ends with an error: a list
// that lacks objects in silence would let its reader take them for deleted.
func (s *s3Store) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := enterList(ctx, prefix); err != nil {
			yield(Info{}, err)
			return
		}
		c := s.begin(ctx, opList, prefix)
		defer c.end()
		l := &listing{s: s, c: c, prefix: s.prefix + prefix, tokens: map[string]bool{}}
		if s.listV1 || s.proved.listV2.fails() {
			l.by = byMarker
		}
		if after != "" {
			l.last = s.prefix + after
		}
		for more := true; more; {
			page, err := l.next()
			if err != nil {
				yield(Info{}, c.fail(err))
				return
			}
			for _, row := range page.rows {
				in, ok := s.infoOfRow(row)
				if ok && !yield(in, nil) {
					return
				}
			}
			more = page.more
		}
	}
}

// next gets the next page. When the way by which it was asked for
// fails, it is asked for by the next way.
func (l *listing) next() (*listPage, error) {
	for {
		page, err := l.ask()
		if err == nil {
			err = l.accept(page)
		}
		if err == nil {
			return page, nil
		}
		switch {
		case l.doubt && errors.Is(err, errListCircle):
			return &listPage{}, nil // the server can't begin after a key, and told the truth
		case !l.another(err):
			return nil, err
		}
	}
}

// another changes the way by which pages are asked for, and tells
// whether there is another one for this error.
func (l *listing) another(err error) bool {
	first := l.last == "" && l.token == ""
	refused := refusesRequest(err)
	switch {
	case l.c.ctx.Err() != nil:
		return false
	case l.by == byToken && l.token != "" && (refused || errors.Is(err, errListCircle)):
		l.by, l.token = byKey, "" // the token expired, or it leads in a circle
	case l.by != byMarker && errors.Is(err, errListCircle), l.token == "" && l.by != byMarker && stumbles(err):
		l.by, l.token = byMarker, ""
		if first {
			l.s.proved.listV2.set(false)
		}
	default:
		return false
	}
	return true
}

// refusesRequest reports whether a server refused the form of the request, and not its sender.
func refusesRequest(err error) bool {
	switch minio.ToErrorResponse(err).StatusCode {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusGone,
		http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// ask sends the request for a page.
func (l *listing) ask() (*listPage, error) {
	page := &listPage{}
	ctx := withForm(l.c.ctx, func(res *http.Response) error { return page.read(res, l.s.bucket, l.prefix) })
	noOwner := false
	opts := minio.ListObjectsOptions{Prefix: l.prefix, Recursive: true, UseV1: l.by == byMarker, FetchOwner: &noOwner}
	if l.token != "" {
		ctx = context.WithValue(ctx, queryKey{}, url.Values{"continuation-token": {l.token}})
	} else {
		opts.StartAfter = l.last
	}
	// The client library takes the request to its answer. The page
	// has read it by then, and leaves an empty one to the library.
	for o := range l.s.client.ListObjectsIter(ctx, l.s.bucket, opts) {
		if o.Err != nil {
			return nil, o.Err
		}
	}
	if err := l.c.ctx.Err(); err != nil { // the library ends a list quietly when its context ends
		return nil, err
	}
	if !page.here {
		return nil, odd("no list came")
	}
	return page, nil
}

// errListCircle is a list that repeats objects that it gave before.
var errListCircle = odd("the pages of the list repeat themselves or are not in the order of their keys")

// accept checks that a page goes on behind the pages before it, and finds out whether
// another one follows.
func (l *listing) accept(page *listPage) error {
	rows := page.rows[:0:len(page.rows)]
	last := l.last
	for _, row := range page.rows {
		switch {
		case row.Key == last:
			continue // told twice
		case row.Key < last:
			return errListCircle
		}
		rows, last = append(rows, row), row.Key
	}
	switch {
	case len(rows) > 0:
		l.empty = 0
	case page.truncated && page.token == "":
		return odd("the list has an empty page, says that more follow and does not say how to get them")
	default:
		if l.empty++; l.empty > maxEmptyPages {
			return odd("the list has %d empty pages one after the other", l.empty)
		}
	}
	if page.token != "" && l.tokens[page.token] && len(rows) == 0 {
		return errListCircle
	}
	page.rows, l.last = rows, last
	l.doubt = !page.truncated && page.token == ""
	// A full page may not be the last one, even if it says that it is.
	page.more = page.truncated || page.token != "" || page.full()
	l.token = ""
	if l.by == byToken && page.token != "" && !l.tokens[page.token] {
		l.token = page.token
		l.tokens[page.token] = true
	}
	if page.more && l.token == "" && len(rows) == 0 {
		if page.truncated {
			return errListCircle
		}
		page.more = false
	}
	return nil
}

// infoOfRow makes an Info of a row, and tells whether it is one of
// ours: consoles make objects that end in "/".
func (s *s3Store) infoOfRow(row listRow) (Info, bool) {
	key := strings.TrimPrefix(row.Key, s.prefix)
	if KeyValid(key) != nil {
		return Info{}, false
	}
	in := Info{Key: key, Size: row.size, Modified: row.modified}
	s.setClass(&in, row.StorageClass, "", "")
	if row.RestoreStatus.RestoreExpiryDate != "" && !row.RestoreStatus.IsRestoreInProgress {
		in.Cold = false
	}
	return in, true
}

// rowTime reads the time of a row, which is only for display; zero where it has none.
func rowTime(text string) time.Time {
	for _, form := range []string{time.RFC3339Nano, http.TimeFormat} {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC()
		}
	}
	return time.Time{}
}
