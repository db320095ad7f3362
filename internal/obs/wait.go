package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// longestPatience is how many times Options.Stall is doubled at
// most for a server that did not answer in time.
const longestPatience = 3

// patience is how long the server may think about a request: longer
// with each try that it did not answer in time, since a store that
// takes 75 s for each put would else be sent the same put for ever.
func patience(ctx context.Context, stall time.Duration) time.Duration {
	tried, _ := ctx.Value(attemptKey{}).(int)
	return stall << min(tried, longestPatience)
}

// silentError is the end of a request to a server that sent nothing for too long.
type silentError struct{ after time.Duration }

func (e *silentError) Error() string { return fmt.Sprintf("the server sent nothing for %v", e.after) }

// Timeout and Temporary make it a net.Error.
func (e *silentError) Timeout() bool   { return true }
func (e *silentError) Temporary() bool { return true }

// silence ends a request when the server is silent for too long:
// after the request was sent, and in the middle of the answer.
type silence struct {
	ctx    context.Context //nolint:containedctx // of the request
	cancel context.CancelCauseFunc
	timer  atomic.Pointer[time.Timer]
}

func newSilence(ctx context.Context) (context.Context, *silence) {
	s := &silence{}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s.ctx, s
}

// begin waits for at most that long from now on.
func (s *silence) begin(d time.Duration) {
	s.end()
	s.timer.Store(time.AfterFunc(d, func() { s.cancel(&silentError{d}) }))
}

// end says that the server sent something.
func (s *silence) end() {
	if t := s.timer.Swap(nil); t != nil {
		t.Stop()
	}
}

// reason gives the silence as the reason of an error that it caused.
func (s *silence) reason(err error) error {
	var silent *silentError
	if err != nil && errors.As(context.Cause(s.ctx), &silent) {
		return silent
	}
	return err
}

// silenceBody is the body of an answer.
type silenceBody struct {
	io.ReadCloser
	s     *silence
	stall time.Duration
}

func (b *silenceBody) Read(p []byte) (int, error) {
	b.s.begin(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.s.end()
	if err == io.EOF { //nolint:errorlint // as in io.Reader
		return n, err
	}
	return n, b.s.reason(err)
}

func (b *silenceBody) Close() error {
	err := b.ReadCloser.Close()
	b.s.end()
	b.s.cancel(nil)
	return err
}

// answerTransport notes the answers to a call in its context's answer, checks their
// form, and gives up requests that get no answer.
type answerTransport struct {
	next  http.RoundTripper
	stall time.Duration
}

func (t answerTransport) RoundTrip(req *http.Request) (res *http.Response, err error) {
	a, ok := req.Context().Value(answerKey{}).(*answer)
	if !ok {
		return t.next.RoundTrip(req)
	}
	var connected atomic.Bool
	ctx, quiet := newSilence(req.Context())
	if changes := req.Method != http.MethodGet && req.Method != http.MethodHead; changes {
		defer func() { a.outcome(connected.Load(), res, err) }()
	}
	wait := patience(ctx, t.stall)
	res, err = t.next.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { connected.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { quiet.begin(wait) },
	})))
	quiet.end()
	if err != nil {
		err = quiet.reason(err)
		quiet.cancel(nil)
		return nil, err
	}
	res.Body = &silenceBody{res.Body, quiet, wait}
	a.set(req, res)
	if err = errors.Join(missingForm(res), checkForm(req, res)); err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	readable(res.Header)
	return res, nil
}

// noTime is the time of an object whose server tells none or tells it in another form.
var noTime = time.Unix(0, 0).UTC()

// readable takes away headers that the client library stumbles over and nobody here needs.
func readable(h http.Header) {
	if _, err := http.ParseTime(h.Get("Last-Modified")); err != nil {
		h.Set("Last-Modified", noTime.Format(http.TimeFormat))
	}
	for _, name := range []string{"Expires", "X-Minio-Source-Mtime", "X-Amz-Tagging", "X-Amz-Tagging-Count", "X-Amz-Restore", "X-Amz-Expiration"} {
		h.Del(name)
	}
}
