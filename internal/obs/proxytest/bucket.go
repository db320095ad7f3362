package proxytest

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the ETag of S3
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// BucketName is the name of every Bucket.
const BucketName = "bucket-7"

// Bucket is a server with one bucket in memory, which speaks S3 as its
// documents say and asks nobody for keys. It is the sound server behind
// the Misbehaviours. Its methods may be called from any goroutine.
type Bucket struct {
	PageSize int // of lists; 0 is 1000

	mu      sync.Mutex
	objects map[string][]byte
	serial  int
}

// NewBucket makes an empty one.
func NewBucket() *Bucket { return &Bucket{objects: map[string][]byte{}} }

// Object returns the bytes under a key, and whether there are any.
func (b *Bucket) Object(key string) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.objects[key]
	return bytes.Clone(body), ok
}

// Set puts an object there, past all misbehaviour.
func (b *Bucket) Set(key string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[key] = bytes.Clone(body)
}

// Keys are the names of all objects, in order.
func (b *Bucket) Keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

// keyOf is the key of a request, in a path or behind a virtual host.
func keyOf(r *http.Request) string {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if strings.HasPrefix(r.Host, BucketName+".") {
		return path
	}
	return strings.TrimPrefix(strings.TrimPrefix(path, BucketName), "/")
}

// ServeHTTP answers one request.
func (b *Bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serial++
	w.Header().Set("X-Amz-Request-Id", fmt.Sprintf("REQ%d", b.serial))
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	key := keyOf(r)
	switch {
	case r.Method == http.MethodGet && key == "":
		b.list(w, r)
	case r.Method == http.MethodHead && key == "":
	case r.Method == http.MethodPost && r.URL.Query().Has("delete"):
		b.deleteMany(w, body)
	case r.Method == http.MethodPut:
		b.put(w, r, key, body)
	case r.Method == http.MethodDelete:
		delete(b.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		b.get(w, r, key)
	default:
		fault(w, http.StatusMethodNotAllowed, "MethodNotAllowed")
	}
}

// fault writes an error document.
func fault(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>in words</Message><RequestId>REQ</RequestId></Error>", code)
}

func etag(body []byte) string {
	sum := md5.Sum(body) //nolint:gosec // see the import
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (b *Bucket) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	if _, taken := b.objects[key]; taken && r.Header.Get("If-None-Match") == "*" {
		fault(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	b.objects[key] = body
	w.Header().Set("ETag", etag(body))
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Amz-Checksum-") {
			w.Header().Set(name, r.Header.Get(name))
		}
	}
}

func (b *Bucket) get(w http.ResponseWriter, r *http.Request, key string) {
	body, ok := b.objects[key]
	if !ok {
		fault(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	h := w.Header()
	h.Set("ETag", etag(body))
	h.Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), bytes.NewReader(body))
}

func (b *Bucket) deleteMany(w http.ResponseWriter, body []byte) {
	var doc struct {
		XMLName xml.Name `xml:"Delete"`
		Object  []struct{ Key string }
	}
	if err := xml.Unmarshal(body, &doc); err != nil {
		fault(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	for _, o := range doc.Object {
		delete(b.objects, o.Key)
	}
	_, _ = io.WriteString(w, "<DeleteResult></DeleteResult>")
}

// list answers in version 1 and 2.
func (b *Bucket) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	v2 := q.Get("list-type") == "2"
	after := q.Get("marker")
	if v2 {
		after = q.Get("start-after")
		if token := q.Get("continuation-token"); token != "" {
			after = strings.TrimPrefix(token, "after ")
		}
	}
	most := 1000
	if b.PageSize > 0 {
		most = b.PageSize
	}
	var rows strings.Builder
	n, last, truncated := 0, "", false
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		if !strings.HasPrefix(key, q.Get("prefix")) || key <= after {
			continue
		}
		if n == most {
			truncated = true
			break
		}
		n, last = n+1, key
		rows.WriteString(Row(key, len(b.objects[key])))
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>%s</Name><Prefix>%s</Prefix><MaxKeys>%d</MaxKeys>",
		BucketName, q.Get("prefix"), most)
	if v2 {
		_, _ = fmt.Fprintf(w, "<KeyCount>%d</KeyCount>", n)
		if truncated {
			_, _ = fmt.Fprintf(w, "<NextContinuationToken>after %s</NextContinuationToken>", last)
		}
	}
	_, _ = fmt.Fprintf(w, "<IsTruncated>%s</IsTruncated>%s</ListBucketResult>", strconv.FormatBool(truncated), rows.String())
}

// Row is an object in a page of a list.
func Row(key string, size int) string {
	return fmt.Sprintf("<Contents><Key>%s</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&#34;e&#34;</ETag><Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>", key, size)
}
