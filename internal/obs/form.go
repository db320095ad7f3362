package obs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// oddTries is how often a request is made in all if its answer does not come from an
// object store. A gateway's error page may be gone a moment later, so a few tries pay;
// a server that does not know the request will not learn it, so more do not.
const oddTries = 3

// oddError is an answer that is not one of an object store. It is repeated a few times.
type oddError struct{ err error }

func (e *oddError) Error() string { return e.err.Error() }
func (e *oddError) Unwrap() error { return e.err }

// Tries is how often a call that fails with it is tried in all.
func (e *oddError) Tries() int { return oddTries }

func odd(form string, args ...any) error {
	return &oddError{fmt.Errorf("%w: %w", ErrOdd, fmt.Errorf(form, args...))}
}

// formKey is the key of a context's value that holds the check of the form of an answer.
type formKey struct{}

// withForm has the answers 2xx to the requests of a context checked.
func withForm(ctx context.Context, check func(*http.Response) error) context.Context {
	return context.WithValue(ctx, formKey{}, check)
}

// checkForm checks the form of an answer, if the context of the request has a check. Requests
// that the client library makes on its own, about the region of a bucket, are not checked.
func checkForm(req *http.Request, res *http.Response) error {
	check, ok := req.Context().Value(formKey{}).(func(*http.Response) error)
	if !ok || res.StatusCode < 200 || res.StatusCode > 299 || req.URL.Query().Has("location") {
		return nil
	}
	return check(res)
}

// missingForm refuses the page of a gateway that knows no such
// address: it does not say that an object is not there.
func missingForm(res *http.Response) error {
	h := res.Header
	if res.StatusCode == http.StatusNotFound && strings.HasPrefix(h.Get("Content-Type"), "text/html") && requestID(h) == "" {
		return odd("the answer 404 is a page for people, and not that of an object store")
	}
	return nil
}

// requestID is the id that the store gave a request.
func requestID(h http.Header) string {
	for _, name := range []string{"X-Amz-Request-Id", "X-Obs-Request-Id"} {
		if id := h.Get(name); id != "" {
			return id
		}
	}
	return ""
}

// objectForm wants an answer to HEAD or GET from an object store.
func objectForm(res *http.Response) error {
	if res.StatusCode == http.StatusOK && res.Header.Get("Etag") == "" && res.Header.Get("Last-Modified") == "" && requestID(res.Header) == "" {
		return odd("the answer %d has no ETag, no time and no request id, so it is not that of an object", res.StatusCode)
	}
	return encodingForm(res)
}

// encodingForm refuses content that something on the way has encoded.
func encodingForm(res *http.Response) error {
	for _, encoding := range strings.Split(res.Header.Get("Content-Encoding"), ",") {
		switch encoding = strings.TrimSpace(encoding); encoding {
		case "", "identity", "aws-chunked":
		default:
			return odd("the answer has Content-Encoding %s: something between this host and the store changes what it sends", encoding)
		}
	}
	return nil
}

// quietForm wants an answer without a document, or with a document that is neither an
// error nor a page for people.
func quietForm(res *http.Response) error {
	if res.ContentLength == 0 || res.StatusCode == http.StatusNoContent || res.Body == nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxDocument))
	_ = res.Body.Close()
	if err != nil {
		return &unavailableError{err: fmt.Errorf("the answer broke off: %w", err)}
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	text := bytes.TrimSpace(body)
	if len(text) == 0 {
		return nil
	}
	if bytes.Contains(text, []byte("<Error>")) || bytes.Contains(text, []byte("<Error ")) {
		return parseDocument(body, "", nil)
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || bytes.Contains(bytes.ToLower(text[:min(512, len(text))]), []byte("<html")) {
		return odd("the answer %d is a page for people: %s", res.StatusCode, excerpt(text))
	}
	return nil
}
