package year_test

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the ETag of S3
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// store is a server with one bucket in memory, which speaks as much of S3 as holdfast needs and
// asks nobody for keys. It has the clock of the simulation. Its methods may be called from any
// goroutine.
type store struct {
	now func() time.Time

	mu      sync.Mutex
	objects map[string]object
	keys    []string // of objects, in order
	bytes   int64    // of all objects
}

type object struct {
	body []byte
	etag string
	put  time.Time
}

const bucket = "year"

// door is a way to the store that counts its requests.
type door struct {
	url string
	// writes are requests that cost as a put does, reads cost as a get, and deletes cost nothing.
	writes, reads, deletes atomic.Int64
	// listed says that somebody has listed packs through the door.
	listed atomic.Bool
}

// open makes a door, which goes with the test.
func (s *store) open(t testing.TB) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	d := &door{url: "s3://" + bucket + "/fleet?region=us-east-1&endpoint=http://" + l.Addr().String()}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(d, w, r) })}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the store ended: %v", err)
		}
	}()
	t.Cleanup(func() {
		must(t, server.Close())
		<-ended
	})
	return d
}

func (s *store) serve(d *door, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"+bucket), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && key == "":
		d.writes.Add(1)
		if strings.Contains(r.URL.Query().Get("prefix"), "/packs/") {
			d.listed.Store(true)
		}
		s.list(w, r)
	case r.Method == http.MethodHead && key == "": // the bucket is there
		d.reads.Add(1)
	case r.Method == http.MethodPut:
		d.writes.Add(1)
		s.put(w, r, key, body)
	case r.Method == http.MethodPost:
		d.deletes.Add(1)
		s.deleteMany(w, body)
	case r.Method == http.MethodDelete:
		d.deletes.Add(1)
		s.remove(key)
		w.WriteHeader(http.StatusNoContent)
	default:
		d.reads.Add(1)
		s.get(w, r, key)
	}
}

func (s *store) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	if _, is := s.objects[key]; is && r.Header.Get("If-None-Match") == "*" {
		fault(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	s.remove(key)
	at, _ := slices.BinarySearch(s.keys, key)
	s.keys = slices.Insert(s.keys, at, key)
	o := object{body, etag(body), s.now()}
	s.objects[key] = o
	s.bytes += int64(len(body))
	w.Header().Set("ETag", o.etag)
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Amz-Checksum-") {
			w.Header().Set(name, r.Header.Get(name))
		}
	}
}

func (s *store) remove(key string) {
	o, is := s.objects[key]
	if !is {
		return
	}
	s.bytes -= int64(len(o.body))
	delete(s.objects, key)
	if at, found := slices.BinarySearch(s.keys, key); found {
		s.keys = slices.Delete(s.keys, at, at+1)
	}
}

func (s *store) get(w http.ResponseWriter, r *http.Request, key string) {
	o, is := s.objects[key]
	if !is {
		fault(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("ETag", o.etag)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", o.put.UTC(), bytes.NewReader(o.body))
}

func (s *store) deleteMany(w http.ResponseWriter, body []byte) {
	var doc struct {
		XMLName xml.Name `xml:"Delete"`
		Object  []struct{ Key string }
	}
	if err := xml.Unmarshal(body, &doc); err != nil {
		fault(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	for _, o := range doc.Object {
		s.remove(o.Key)
	}
	_, _ = io.WriteString(w, "<DeleteResult></DeleteResult>")
}

// pageSize is how many objects a page of a list has at most.
const pageSize = 1000

func (s *store) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	prefix, after := q.Get("prefix"), max(q.Get("marker"), q.Get("start-after"))
	if token := q.Get("continuation-token"); token != "" {
		after = token
	}
	at, found := slices.BinarySearch(s.keys, max(prefix, after))
	if found && s.keys[at] == after {
		at++
	}
	n := 0
	var rows strings.Builder
	for ; at+n < len(s.keys) && n < pageSize && strings.HasPrefix(s.keys[at+n], prefix); n++ {
		key := s.keys[at+n]
		o := s.objects[key]
		fmt.Fprintf(&rows, "<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>&#34;e&#34;</ETag><Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>",
			key, o.put.UTC().Format(time.RFC3339), len(o.body))
	}
	more := at+n < len(s.keys) && n == pageSize && strings.HasPrefix(s.keys[at+n], prefix)
	w.Header().Set("Content-Type", "application/xml")
	_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`+
		"<Name>%s</Name><Prefix>%s</Prefix><MaxKeys>%d</MaxKeys><KeyCount>%d</KeyCount><IsTruncated>%t</IsTruncated>", bucket, prefix, pageSize, n, more)
	if more {
		_, _ = fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", s.keys[at+n-1])
	}
	_, _ = io.WriteString(w, rows.String()+"</ListBucketResult>")
}

func fault(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>in words</Message></Error>`, code)
}

func etag(body []byte) string {
	sum := md5.Sum(body) //nolint:gosec // see the import
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// size returns how many objects the store has, and their bytes.
func (s *store) size() (objects int, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys), s.bytes
}
