// Package proxytest is a strict OBS for tests: a proxy in front of a server that speaks
// S3. The proxy refuses every request that OBS refuses, and answers in the words of OBS.
//
// A test can't reach OBS, so the rules here come from its documents and from reports of its
// users; where those are silent, the proxy is the stricter of the two. Only tests import
// it. Its one goroutine per connection belongs to net/http/httptest, and ends with Close.
package proxytest

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the digest that OBS verifies
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of OBS.
const (
	maxPut  = 5 << 30          // bytes of one PUT
	maxSkew = 15 * time.Minute // between the clocks of client and server
)

// drained is how long the body of a refused request may be and still be read, bytes.
const drained = 1 << 20

// Backend is the server behind the proxy.
type Backend struct {
	Endpoint string // http://host:port, path style
	Access   string
	Key      Key
	Region   string
}

// Key is the secret of an access key.
type Key struct {
	Secret string
	Token  string    // of temporary keys, which are refused without it; "" for lasting ones
	Ends   time.Time // of temporary keys; zero for never
}

// Options select the kind of OBS. The zero value has one region, test-1, no limit and
// the host's clock.
type Options struct {
	Region string
	// Domain is the domain of the service, to which a bucket's name is prefixed; "" is
	// obs.REGION.myhuaweicloud.com.
	Domain string
	// PerSecond is how many requests a second it takes before it
	// answers 503 SlowDown; 0 is any number.
	PerSecond int
	// Now is its clock; nil is the host's.
	Now func() time.Time
	// WORM tells that its buckets take retention.
	WORM bool
	// IgnoreSHA256 lets it not look at x-obs-content-sha256, as a server that does not know it.
	IgnoreSHA256 bool
	// IgnoreSSE lets it store in the clear, without a word, objects that the client
	// wants encrypted.
	IgnoreSSE bool
	// IgnoreLock lets it keep no retention, without a word.
	IgnoreLock bool
}

// Request is a request that the proxy answered.
type Request struct {
	Method, Bucket, Key string
	Query               string
	Header              http.Header
	Size                int64 // of the body, decoded
	Status              int
	Code                string // of the error; "" for none
}

// Proxy is a running one. Its methods may be called from any goroutine.
type Proxy struct {
	*httptest.Server

	back   Backend
	opts   Options
	client *http.Client

	mu       sync.Mutex
	keys     map[string]Key
	seen     []Request
	locked   map[string]time.Time // "bucket/key": until when
	windowed []time.Time          // the requests of the last second
	serial   int
}

// Start starts a proxy, whose caller closes it.
func Start(back Backend, opts Options) *Proxy {
	if opts.Region == "" {
		opts.Region = "test-1"
	}
	if opts.Domain == "" {
		opts.Domain = "obs." + opts.Region + ".myhuaweicloud.com"
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	p := &Proxy{back: back, opts: opts, keys: map[string]Key{}, locked: map[string]time.Time{}}
	p.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	p.Server = httptest.NewServer(p)
	return p
}

// Close ends it and its connections.
func (p *Proxy) Close() {
	p.Server.Close()
	p.client.CloseIdleConnections()
}

// SetKey makes an access key known, or changes it.
func (p *Proxy) SetKey(access string, key Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys[access] = key
}

// Seen returns the requests so far.
func (p *Proxy) Seen() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// refusal is an error of OBS.
type refusal struct {
	status    int
	code, say string
}

func refuse(status int, code, say string) *refusal { return &refusal{status, code, say} }

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.serial++
	id := fmt.Sprintf("%032X", p.serial)
	p.mu.Unlock()
	h := w.Header()
	h.Set("Server", "OBS")
	h.Set("X-Obs-Request-Id", id)
	h.Set("X-Obs-Id-2", base64.StdEncoding.EncodeToString([]byte(id)))
	h.Set("Date", p.opts.Now().UTC().Format(http.TimeFormat))
	seen := Request{Method: r.Method, Query: r.URL.RawQuery, Header: r.Header.Clone()}
	no := p.answer(w, r, &seen)
	if no != nil {
		seen.Status, seen.Code = no.status, no.code
		if r.ContentLength <= drained {
			// A client that still sends when the connection is closed
			// may see a reset before it reads the answer.
			_, _ = io.CopyN(io.Discard, r.Body, drained)
		}
		h.Set("Content-Type", "application/xml")
		h.Set("Connection", "close") // the body may be longer
		w.WriteHeader(no.status)
		if r.Method != http.MethodHead {
			_, _ = fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n"+
				"<Error><Code>%s</Code><Message>%s</Message><RequestId>%s</RequestId><HostId>%s</HostId></Error>",
				no.code, no.say, id, h.Get("X-Obs-Id-2"))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, seen)
}

func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, seen *Request) *refusal {
	if p.tooMany() {
		return refuse(http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
	}
	var virtual bool
	if seen.Bucket, virtual = strings.CutSuffix(strings.Split(r.Host, ":")[0], "."+p.opts.Domain); !virtual {
		return refuse(http.StatusForbidden, "VirtualHostDomainRequired", "Virtual host domain is required.")
	}
	seen.Key = strings.TrimPrefix(r.URL.Path, "/")
	auth, key, no := p.authorize(r)
	if no != nil {
		return no
	}
	body, no := readBody(r, auth, key)
	if no != nil {
		return no
	}
	seen.Size = int64(len(body))
	if r.Method == http.MethodPut && r.URL.Query().Has("retention") {
		return p.extend(body, seen)
	}
	if no := p.checkPut(r, body, seen); no != nil {
		return no
	}
	if r.Method == http.MethodDelete && p.lockOf(seen).After(p.opts.Now()) {
		return refuse(http.StatusForbidden, "AccessDenied", "The object you specified is immutable.")
	}
	return p.forward(w, r, body, seen)
}

// tooMany counts a request and tells whether it is one too many in the last second.
func (p *Proxy) tooMany() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.opts.Now()
	p.windowed = slices.DeleteFunc(p.windowed, func(t time.Time) bool { return now.Sub(t) >= time.Second })
	if p.opts.PerSecond > 0 && len(p.windowed) >= p.opts.PerSecond {
		return true
	}
	p.windowed = append(p.windowed, now)
	return false
}

func (p *Proxy) authorize(r *http.Request) (authorization, Key, *refusal) {
	auth, ok := parseAuthorization(r.Header.Get("Authorization"))
	if !ok {
		return auth, Key{}, refuse(http.StatusForbidden, "AccessDenied", "Access Denied")
	}
	p.mu.Lock()
	key, known := p.keys[auth.key]
	p.mu.Unlock()
	stamp, err := time.Parse(stampForm, r.Header.Get("X-Amz-Date"))
	now := p.opts.Now()
	switch {
	case !known:
		return auth, key, refuse(http.StatusForbidden, "InvalidAccessKeyId", "The access key you provided does not exist in our records.")
	case err != nil:
		return auth, key, refuse(http.StatusForbidden, "AccessDenied", "a valid X-Amz-Date header is required")
	case now.Sub(stamp).Abs() > maxSkew:
		return auth, key, refuse(http.StatusForbidden, "RequestTimeTooSkewed",
			"The difference between the request time and the current time is too large.")
	case key.Token != r.Header.Get("X-Amz-Security-Token"):
		return auth, key, refuse(http.StatusForbidden, "AccessDenied", "The security token is missing or is not that of the access key.")
	case !key.Ends.IsZero() && now.After(key.Ends):
		return auth, key, refuse(http.StatusForbidden, "ExpiredToken", "The provided token has expired.")
	case auth.region != p.opts.Region || auth.unsignedHeader(r) != "" || auth.sign(r, key.Secret) != auth.signature:
		return auth, key, refuse(http.StatusForbidden, "SignatureDoesNotMatch",
			"The request signature we calculated does not match the signature you provided. Check your key and signing method.")
	}
	return auth, key, nil
}

// readBody reads the body in one of the two modes that OBS takes. A request
// without a body may say so by the digest of nothing, as every S3 client does.
func readBody(r *http.Request, auth authorization, key Key) ([]byte, *refusal) {
	mode := r.Header.Get("X-Amz-Content-Sha256")
	decoded, _ := strconv.ParseInt(r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64)
	switch {
	case r.Header.Get("X-Amz-Trailer") != "" || mode != unsigned && mode != streaming && !(mode == emptySHA256 && r.ContentLength == 0):
		return nil, refuse(http.StatusBadRequest, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.")
	case r.ContentLength < 0:
		return nil, refuse(http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header.")
	case r.ContentLength > maxPut && mode != streaming || decoded > maxPut:
		return nil, refuse(http.StatusBadRequest, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.")
	}
	var body []byte
	var err error
	if mode == streaming {
		body, err = auth.readChunks(r, key.Secret)
	} else {
		body, err = io.ReadAll(r.Body)
	}
	switch {
	case err == errChunk: //nolint:errorlint // our own
		return nil, refuse(http.StatusForbidden, "SignatureDoesNotMatch", errChunk.Error())
	case err != nil || mode == streaming && int64(len(body)) != decoded:
		return nil, refuse(http.StatusBadRequest, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header.")
	}
	if text := r.Header.Get("Content-Md5"); text != "" {
		want, err := base64.StdEncoding.DecodeString(text)
		sum := md5.Sum(body) //nolint:gosec // see the import
		switch {
		case err != nil || len(want) != md5.Size:
			return nil, refuse(http.StatusBadRequest, "InvalidDigest", "The Content-MD5 you specified was an invalid.")
		case !bytes.Equal(want, sum[:]):
			return nil, refuse(http.StatusBadRequest, "BadDigest", "The Content-MD5 you specified did not match what we received.")
		}
	}
	return body, nil
}

// either is the value of a header under its OBS name or under its S3 name.
func either(h http.Header, obsName, amzName string) string {
	if v := h.Get("X-Obs-" + obsName); v != "" {
		return v
	}
	return h.Get("X-Amz-" + amzName)
}

// checkPut checks the headers of a PUT.
func (p *Proxy) checkPut(r *http.Request, body []byte, seen *Request) *refusal {
	if r.Method != http.MethodPut || seen.Key == "" {
		return nil
	}
	h := r.Header
	for _, name := range []string{"If-None-Match", "If-Match"} {
		if h.Get(name) != "" {
			return refuse(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented: "+name)
		}
	}
	if want := h.Get("X-Obs-Content-Sha256"); want != "" && !p.opts.IgnoreSHA256 && want != hexSHA256(body) {
		return refuse(http.StatusBadRequest, "BadDigest", "The x-obs-content-sha256 you specified did not match what we received.")
	}
	if c := either(h, "Storage-Class", "Storage-Class"); c != "" && !slices.Contains([]string{"STANDARD", "WARM", "COLD", "STANDARD_IA", "GLACIER"}, c) {
		return refuse(http.StatusBadRequest, "InvalidStorageClass", "The storage class you specified is not valid.")
	}
	if sse := h.Get("X-Obs-Server-Side-Encryption"); sse != "" && sse != "kms" && sse != "AES256" {
		return refuse(http.StatusBadRequest, "InvalidEncryptionAlgorithmError", "The encryption request you specified is not valid.")
	}
	if sse := h.Get("X-Amz-Server-Side-Encryption"); sse != "" && sse != "aws:kms" && sse != "AES256" {
		return refuse(http.StatusBadRequest, "InvalidEncryptionAlgorithmError", "The encryption request you specified is not valid.")
	}
	if limit := h.Get("X-Obs-Traffic-Limit"); limit != "" {
		if n, err := strconv.ParseInt(limit, 10, 64); err != nil || n < 819200 || n > 838860800 {
			return refuse(http.StatusBadRequest, "InvalidArgument", "x-obs-traffic-limit is from 819200 to 838860800 bit/s")
		}
	}
	mode, until := either(h, "Object-Lock-Mode", "Object-Lock-Mode"), either(h, "Object-Lock-Retain-Until-Date", "Object-Lock-Retain-Until-Date")
	if mode == "" && until == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339, until)
	if !p.opts.WORM || mode != "COMPLIANCE" || err != nil || !at.After(p.opts.Now()) {
		return refuse(http.StatusBadRequest, "InvalidRequest", "The retention you specified is not valid, or the bucket has no WORM.")
	}
	if p.opts.IgnoreLock {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.locked[seen.Bucket+"/"+seen.Key] = at
	return nil
}

func (p *Proxy) lockOf(seen *Request) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.locked[seen.Bucket+"/"+seen.Key]
}

// forward sends the request to the backend, signed for it, and its answer to the client.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, body []byte, seen *Request) *refusal {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, p.back.Endpoint+escape(seen.Bucket, seen.Key)+"?"+r.URL.RawQuery, bytes.NewReader(body))
	if err != nil {
		return refuse(http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
	}
	for _, name := range []string{"Content-Type", "Content-Md5", "Range"} {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	Sign(req, unsigned, p.back.Access, p.back.Key, p.back.Region, time.Now())
	res, err := p.client.Do(req)
	if err != nil {
		return refuse(http.StatusServiceUnavailable, "ServiceUnavailable", "Reduce your request rate.")
	}
	defer func() { _ = res.Body.Close() }()
	seen.Status = res.StatusCode
	if res.StatusCode >= http.StatusMultipleChoices {
		return translate(res, seen)
	}
	h := w.Header()
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "Etag", "Last-Modified"} {
		if v := res.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	p.speak(h, r, seen)
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
	return nil
}

// speak adds to an answer the headers of OBS about encryption and retention.
func (p *Proxy) speak(h http.Header, r *http.Request, seen *Request) {
	if sse := either(r.Header, "Server-Side-Encryption", "Server-Side-Encryption"); sse != "" && !p.opts.IgnoreSSE {
		h.Set("X-Obs-Server-Side-Encryption", "kms")
		h.Set("Etag", `"`+hexSHA256([]byte(h.Get("Etag")))[:32]+`"`) // not the MD5 then
	}
	if until := p.lockOf(seen); r.Method == http.MethodHead && !until.IsZero() {
		h.Set("X-Obs-Object-Lock-Mode", "COMPLIANCE")
		h.Set("X-Obs-Object-Lock-Retain-Until-Date", strconv.FormatInt(until.UnixMilli(), 10))
	}
}

// translate makes an error of the backend one of OBS.
func translate(res *http.Response, seen *Request) *refusal {
	var doc struct{ Code, Message string }
	body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if xml.Unmarshal(body, &doc) != nil || doc.Code == "" {
		doc.Code, doc.Message = http.StatusText(res.StatusCode), http.StatusText(res.StatusCode)
		if res.StatusCode == http.StatusNotFound && seen.Key != "" {
			doc.Code = "NoSuchKey"
		}
	}
	return refuse(res.StatusCode, doc.Code, doc.Message)
}
