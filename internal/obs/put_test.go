package obs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/obs/proxytest"
	"holdfast/internal/testbed"
)

const crcHeader = "X-Amz-Checksum-Crc64nvme"

// TestIntegrityOfS3: the server's earlier answers decide which digest goes with which put.
func TestIntegrityOfS3(t *testing.T) {
	const unsigned = "UNSIGNED-PAYLOAD"
	echo := func(w http.ResponseWriter, r *http.Request) { w.Header().Set(crcHeader, r.Header.Get(crcHeader)) }
	silent := func(http.ResponseWriter, *http.Request) {}
	stumbles := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(crcHeader) != "" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "<Error><Code>InvalidRequest</Code></Error>")
		}
	}
	n := 0
	forgets := func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 3 {
			echo(w, r)
		}
	}
	for _, c := range []struct {
		name, query string
		server      http.HandlerFunc
		want        string // for each request, the digest by which the server verifies it
	}{
		{"verifies the checksum", "", echo, "sha256+crc crc crc"},
		{"does not know it", "", silent, "sha256+crc sha256 sha256"},
		{"stumbles over it", "", stumbles, "sha256+crc sha256 sha256 sha256"},
		// The third put was not confirmed, so it is sent again with a
		// digest that everybody verifies.
		{"forgets it", "", forgets, "sha256+crc crc crc sha256"},
		{"told to use SHA-256", "&integrity=sha256", echo, "sha256 sha256 sha256"},
		{"told to use the checksum", "&integrity=crc64nvme", echo, "crc crc crc"},
		{"told to use MD5", "&integrity=md5", echo, "md5 md5 md5"},
	} {
		var seen []string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			var by []string
			if r.Header.Get("X-Amz-Content-Sha256") != unsigned {
				by = append(by, "sha256")
			}
			if got := r.Header.Get(crcHeader); got == minio.ChecksumCRC64NVME.EncodeToString(body) {
				by = append(by, "crc")
			}
			if r.Header.Get("Content-Md5") != "" {
				by = append(by, "md5")
			}
			seen = append(seen, strings.Join(by, "+"))
			c.server(w, r)
		}))
		s := open(t, "s3://bucket?region=r&endpoint="+server.URL+c.query, obs.Options{Getenv: keys, Retry: &obs.RetryPolicy{Base: time.Millisecond}})
		for i := range 3 {
			if err := s.Put(t.Context(), fmt.Sprint("k", i), []byte("body")); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if got := strings.Join(seen, " "); got != c.want {
			t.Errorf("a server that %s: puts verified by %s, want %s", c.name, got, c.want)
		}
		server.Close()
	}
	server := httptest.NewServer(http.HandlerFunc(silent))
	defer server.Close()
	s := open(t, "s3://bucket?region=r&integrity=crc64nvme&endpoint="+server.URL, obs.Options{Getenv: keys})
	if err := s.Put(t.Context(), "k", nil); !errors.Is(err, obs.ErrUsage) || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("a checksum that was asked for and not verified: %v", err)
	}
}

// flipping damages one byte of the first bodies that pass it: the n
// bytes of each that follow the header.
type flipping struct {
	net.Conn
	left *atomic.Int64
}

func (c flipping) Write(p []byte) (int, error) {
	if i := bytes.Index(p, []byte("DAMAGE ME")); i >= 0 && c.left.Add(-1) >= 0 {
		p = bytes.Clone(p)
		p[i] ^= 1
	}
	return c.Conn.Write(p)
}

// TestDamageOnTheWay: with every kind of digest, a real server refuses bytes that do
// not match the digest, and the client repeats the put.
func TestDamageOnTheWay(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *testbed.S3{"MinIO": testbed.StartMinIO, "Versity": testbed.StartVersity} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			p := strict(t, server, proxytest.Options{})
			for _, url := range []string{
				server.URL(server.Bucket(t), ""),
				server.URL(server.Bucket(t), "") + "&integrity=sha256",
				server.URL(server.Bucket(t), "") + "&integrity=crc32c",
				server.URL(server.Bucket(t), "") + "&integrity=crc64nvme",
				server.URL(server.Bucket(t), "") + "&integrity=md5",
				atStrict(server.Bucket(t), ""),
				atStrict(server.Bucket(t), "") + "&integrity=sha256",
			} {
				o := obs.Options{Getenv: server.Getenv}
				if strings.HasPrefix(url, "obs:") {
					o = viaStrict(p, obs.Options{Getenv: keys})
				}
				var left atomic.Int64
				var retries []error
				o.Retry = &obs.RetryPolicy{Base: time.Millisecond, OnRetry: func(e obs.RetryEvent) { retries = append(retries, e.Err) }}
				o = obs.AlsoTransport(o, func(tr *http.Transport) {
					next := tr.DialContext
					tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
						conn, err := next(ctx, network, address)
						return flipping{conn, &left}, err
					}
				})
				s := open(t, url, o)
				// the store learns which digest the server verifies
				if err := s.Put(t.Context(), "first", []byte("x")); err != nil {
					t.Fatalf("%s: %v", url, err)
				}
				left.Store(2)
				body := append(obstest.Body("k", 1<<20), []byte("DAMAGE ME, please")...)
				if err := s.Put(t.Context(), "k", body); err != nil {
					t.Errorf("%s: %v", url, err)
				}
				if len(retries) != 2 {
					t.Errorf("%s: damage was refused %d times (%v), want 2", url, len(retries), retries)
				}
				if got, err := obstest.ReadAll(t.Context(), s, "k"); err != nil || !bytes.Equal(got, body) {
					t.Errorf("%s: it holds other bytes: %v", url, err)
				}
			}
		})
	}
}

// TestOptionsOfS3: the wishes of the URL are in the request, and signed.
func TestOptionsOfS3(t *testing.T) {
	var seen http.Header
	encrypts := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			seen = r.Header
		}
		if r.Method == http.MethodHead {
			w.Header().Set("X-Amz-Object-Lock-Mode", "COMPLIANCE")
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		}
		if encrypts {
			w.Header().Set("X-Amz-Server-Side-Encryption", r.Header.Get("X-Amz-Server-Side-Encryption"))
		}
	}))
	defer server.Close()
	packs := func(key string, asked time.Duration) time.Duration {
		if strings.HasPrefix(key, "packs/") {
			return asked
		}
		return 0
	}
	for query, want := range map[string]map[string]string{
		"": {
			"X-Amz-Server-Side-Encryption": "", "X-Amz-Storage-Class": "", "X-Amz-Object-Lock-Mode": "",
		},
		"encryption=AES256": {"X-Amz-Server-Side-Encryption": "AES256"},
		"encryption=kms&kms-key=key-1": {
			"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key-1",
		},
		"class=STANDARD_IA":             {"X-Amz-Storage-Class": "STANDARD_IA"},
		"retain=30d":                    {"X-Amz-Object-Lock-Mode": "COMPLIANCE"},
		"retain=90m&class=REDUCED_COPY": {"X-Amz-Object-Lock-Mode": "COMPLIANCE", "X-Amz-Storage-Class": "REDUCED_COPY"},
	} {
		s := open(t, "s3://bucket?region=r&endpoint="+server.URL+"&"+query, obs.Options{Getenv: keys, Retry: &once, Retention: packs})
		if err := s.Put(t.Context(), "packs/k", []byte("x")); err != nil {
			t.Errorf("%s: %v", query, err)
		}
		for name, value := range want {
			if got := seen.Get(name); got != value {
				t.Errorf("%s: %s is %q, want %q", query, name, got, value)
			}
			if value != "" && !strings.Contains(seen.Get("Authorization"), strings.ToLower(name)) {
				t.Errorf("%s: %s is not signed", query, name)
			}
		}
		if err := s.Put(t.Context(), "index/k", []byte("x")); err != nil {
			t.Errorf("%s: %v", query, err)
		}
		if seen.Get("X-Amz-Object-Lock-Mode") != "" {
			t.Errorf("%s: retention for an object that nobody asked it for", query)
		}
	}
	encrypts = false
	s := open(t, "s3://bucket?region=r&encryption=kms&endpoint="+server.URL, obs.Options{Getenv: keys})
	if err := s.Put(t.Context(), "k", []byte("x")); !errors.Is(err, obs.ErrUsage) || !strings.Contains(err.Error(), "encrypt") {
		t.Errorf("stored in the clear: %v", err)
	}
}

// TestRetentionOfServers: real servers keep the retention, and a bucket without it is told.
func TestRetentionOfServers(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *testbed.S3{"MinIO": testbed.StartMinIO, "Versity": testbed.StartVersity} {
		server := start(t)
		locked := open(t, server.URL(server.LockedBucket(t), "")+"&retain=30d", obs.Options{Getenv: server.Getenv})
		for _, key := range []string{"a", "b"} {
			if err := locked.Put(t.Context(), key, []byte("x")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if name == "Versity" {
			continue // it keeps a retention in every bucket, and says so
		}
		plain := open(t, server.URL(server.Bucket(t), "")+"&retain=30d", obs.Options{Getenv: server.Getenv})
		if err := plain.Put(t.Context(), "a", []byte("x")); err == nil || errors.Is(err, obs.ErrUnavailable) {
			t.Errorf("%s: retention in a bucket without lock: %v", name, err)
		}
	}
}

// TestOptionsOfOBS: the wishes of the URL reach a strict OBS, in its words.
func TestOptionsOfOBS(t *testing.T) {
	m := testbed.StartMinIO(t)
	soon := func(text string) bool {
		at, err := time.Parse(time.RFC3339, text)
		return err == nil && at.After(time.Now().Add(29*24*time.Hour)) && at.Before(time.Now().Add(31*24*time.Hour))
	}
	for query, want := range map[string]map[string]func(string) bool{
		"encryption=kms&kms-key=key-1": {
			"X-Obs-Server-Side-Encryption":            func(v string) bool { return v == "kms" },
			"X-Obs-Server-Side-Encryption-Kms-Key-Id": func(v string) bool { return v == "key-1" },
		},
		"class=WARM":           {"X-Obs-Storage-Class": func(v string) bool { return v == "WARM" }},
		"traffic-limit=819200": {"X-Obs-Traffic-Limit": func(v string) bool { return v == "819200" }},
		"retain=30d": {
			"X-Obs-Object-Lock-Mode":              func(v string) bool { return v == "COMPLIANCE" },
			"X-Obs-Object-Lock-Retain-Until-Date": soon,
		},
		"integrity=sha256": {"X-Obs-Content-Sha256": func(v string) bool { return len(v) == 64 }},
		"integrity=sha256&encryption=kms&class=STANDARD": {"X-Obs-Content-Sha256": func(v string) bool { return len(v) == 64 }},
	} {
		p := strict(t, m, proxytest.Options{WORM: true})
		s := open(t, atStrict(m.Bucket(t), "")+"&"+query, viaStrict(p, obs.Options{Getenv: keys, Retry: &once}))
		for _, key := range []string{"a", "b"} {
			if err := s.Put(t.Context(), key, []byte("content")); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		puts := slices.DeleteFunc(p.Seen(), func(r proxytest.Request) bool { return r.Method != http.MethodPut })
		last := puts[len(puts)-1].Header
		for name, right := range want {
			if got := last.Get(name); !right(got) {
				t.Errorf("%s: %s is %q", query, name, got)
			}
		}
		if strings.Contains(query, "sha256") != (last.Get("Content-Md5") == "") {
			t.Errorf("%s: Content-MD5 %q", query, last.Get("Content-Md5"))
		}
		wantPuts := 2
		if strings.Contains(query, "sha256") {
			wantPuts = 3 // and the trial, once
		}
		if len(puts) != wantPuts {
			t.Errorf("%s: %d puts, want %d", query, len(puts), wantPuts)
		}
	}
}

// TestOBSThatDoesNotDoWhatIsAsked: the store reports it when the server leaves out an
// encryption, a checksum or a lock on which the operator relies.
func TestOBSThatDoesNotDoWhatIsAsked(t *testing.T) {
	m := testbed.StartMinIO(t)
	for query, opts := range map[string]proxytest.Options{
		"encryption=kms":   {IgnoreSSE: true},
		"integrity=sha256": {IgnoreSHA256: true},
		"retain=30d":       {WORM: true, IgnoreLock: true},
	} {
		p := strict(t, m, opts)
		s := open(t, atStrict(m.Bucket(t), "")+"&"+query, viaStrict(p, obs.Options{Getenv: keys}))
		err := s.Put(t.Context(), "k", []byte("content"))
		if !errors.Is(err, obs.ErrUsage) {
			t.Errorf("%s: %v, want ErrUsage", query, err)
		}
		for in := range s.List(t.Context(), "integrity-check/") {
			t.Errorf("%s: the trial %s is left", query, in.Key)
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	all := map[string]string{
		"s3://bucket?integrity=crc":                       `integrity "crc"`,
		"obs://bucket?region=r&integrity=crc64nvme":       `integrity "crc64nvme"`,
		"s3://bucket?encryption=rot13":                    `encryption "rot13"`,
		"s3://bucket?kms-key=k":                           `kms-key "k"`,
		"s3://bucket?encryption=AES256&kms-key=k":         `kms-key "k"`,
		"s3://bucket?class=warm":                          `class "warm"`,
		"obs://bucket?region=r&class=COLD":                "read back",
		"s3://bucket?retain=1s":                           `retain "1s"`,
		"s3://bucket?retain=-3d":                          `retain "-3d"`,
		"s3://bucket?retain=forever":                      `retain "forever"`,
		"s3://bucket?traffic-limit=819200":                `unknown parameter "traffic-limit"`,
		"obs://bucket?region=r&traffic-limit=1":           `traffic-limit "1"`,
		"obs://bucket?region=r&traffic-limit=99999999999": "traffic-limit",
	}
	for _, url := range slices.Sorted(maps.Keys(all)) {
		s, err := obs.Open(t.Context(), url, obs.Options{Getenv: keys})
		if s != nil || !errors.Is(err, obs.ErrUsage) || !strings.Contains(err.Error(), all[url]) {
			t.Errorf("open %s: %v, want ErrUsage that says %s", url, err, all[url])
		}
	}
}
