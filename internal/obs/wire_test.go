package obs_test

import (
	"context"
	"crypto/md5" //nolint:gosec // the digest that OBS verifies
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
)

// toServer sends every connection for any host to server, and trusts its certificate.
func toServer(server *httptest.Server, o obs.Options) obs.Options {
	return obs.WithTransport(o, func(tr *http.Transport) {
		tr.Proxy = nil
		next := tr.DialContext
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return next(ctx, network, server.Listener.Addr().String())
		}
		if cert := server.Certificate(); cert != nil {
			tr.TLSClientConfig.RootCAs = x509.NewCertPool()
			tr.TLSClientConfig.RootCAs.AddCert(cert)
			tr.TLSClientConfig.ServerName = "example.com" // the name in httptest's certificate
		}
	})
}

var once = obs.RetryPolicy{MaxAttempts: 1}

// TestOBSRequests checks the rules of OBS that a request can break.
func TestOBSRequests(t *testing.T) {
	body := obstest.Body("pack", 200_000)
	var seen []string
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method)
		if !strings.HasPrefix(r.Host, "bucket.obs.region-1.myhuaweicloud.com") {
			t.Errorf("%s: host %s, want the virtual host of the bucket", r.Method, r.Host)
		}
		if len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 || r.Header.Get("X-Amz-Trailer") != "" {
			t.Errorf("%s: it has a trailer or no length", r.Method)
		}
		if !strings.Contains(r.Header.Get("Authorization"), "/region-1/s3/aws4_request") {
			t.Errorf("%s: signed for another region: %s", r.Method, r.Header.Get("Authorization"))
		}
		if r.Header.Get("X-Amz-Security-Token") != "secrettoken" {
			t.Errorf("%s: the security token is missing", r.Method)
		}
		switch {
		case r.Method == http.MethodPut:
			got, err := io.ReadAll(r.Body)
			sum := md5.Sum(body) //nolint:gosec // see the import
			if err != nil || string(got) != string(body) || r.Header.Get("Content-Md5") != base64.StdEncoding.EncodeToString(sum[:]) {
				t.Errorf("PUT: %d bytes, %v, Content-MD5 %s", len(got), err, r.Header.Get("Content-Md5"))
			}
			if mode := r.Header.Get("X-Amz-Content-Sha256"); mode != "UNSIGNED-PAYLOAD" {
				t.Errorf("PUT: payload mode %s", mode)
			}
			if r.Header.Get("If-None-Match") != "" {
				t.Error("PUT: OBS knows no conditional put")
			}
		case r.Method == http.MethodGet && r.URL.Path == "/":
			if r.URL.Query().Get("list-type") != "" {
				t.Error("GET: lists by version 2")
			}
			_, _ = io.WriteString(w, `<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>`)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case r.Method == http.MethodPost:
			t.Error("POST: OBS refuses the payload mode of the client's batch")
		}
	})
	server := httptest.NewUnstartedServer(handler)
	// connections that the client closes in their beginning
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	s := open(t, "obs://bucket/pre?region=region-1", toServer(server, obs.Options{Getenv: keys, Retry: &once}))
	if err := s.Put(t.Context(), "k", body); err != nil {
		t.Error(err)
	}
	for _, err := range s.List(t.Context(), "") {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "a", "b"); err != nil {
		t.Error(err)
	}
	if err := s.PutNew(t.Context(), "n", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("PutNew: %v", err)
	}
	if got := strings.Join(seen, " "); got != "PUT GET DELETE DELETE" {
		t.Errorf("requests: %s", got)
	}
	if c := s.Capabilities(); c.ConditionalPut || c.Integrity != "md5" {
		t.Errorf("capabilities %+v", c)
	}
}

// TestWrongETag: OBS names other bytes as stored than the client sent.
func TestWrongETag(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
	}))
	defer server.Close()
	s := open(t, "obs://bucket?region=r&endpoint=http://obs.test", toServer(server, obs.Options{Getenv: keys, Retry: &once}))
	if err := s.Put(t.Context(), "k", []byte("x")); !errors.Is(err, obs.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

func TestRetryAfterOfServer(t *testing.T) {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	var waits []time.Duration
	s := open(t, "s3://bucket?endpoint="+server.URL, obs.Options{Getenv: keys, Retry: &obs.RetryPolicy{
		OnRetry: func(e obs.RetryEvent) { waits = append(waits, e.Wait) },
	}})
	if err := s.Put(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	if len(waits) != 1 || waits[0] != time.Second {
		t.Errorf("waits %v, want one of the second that the server asked for", waits)
	}
}

// TestNoConditionalPut: a server that does not know If-None-Match still takes plain puts.
func TestNoConditionalPut(t *testing.T) {
	var plain int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotImplemented)
			_, _ = io.WriteString(w, "<Error><Code>NotImplemented</Code></Error>")
			return
		}
		plain++
	}))
	defer server.Close()
	s := open(t, "s3://bucket?endpoint="+server.URL, obs.Options{Getenv: keys, Retry: &once})
	for range 2 {
		if err := s.Put(t.Context(), "k", []byte("x")); err != nil {
			t.Error(err)
		}
	}
	if plain != 2 {
		t.Errorf("%d plain puts", plain)
	}
	if err := s.PutNew(t.Context(), "k", []byte("x")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("PutNew: %v", err)
	}
}

// TestStalledConnection: a server that goes silent in each of the places where it can.
func TestStalledConnection(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"before the answer": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		},
		"in the answer": func(w http.ResponseWriter, r *http.Request) {
			// the client drains answers without it
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Range", "bytes 0-99/100")
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, 10))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"in drips": func(w http.ResponseWriter, r *http.Request) {
			// the client drains answers without it
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Range", "bytes 0-99/100")
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusPartialContent)
			for range 100 {
				_, _ = w.Write([]byte{1})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(50 * time.Millisecond):
				case <-r.Context().Done():
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.Close()
			defer server.CloseClientConnections()
			s := open(t, "s3://bucket?endpoint="+server.URL, obs.Options{Getenv: keys, Retry: &once, Stall: 200 * time.Millisecond})
			start := time.Now()
			_, err := s.ReadAt(t.Context(), "k", make([]byte, 100), 0)
			if !errors.Is(err, obs.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want ErrUnavailable", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	t.Run("reading nothing", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		s := open(t, "s3://bucket?endpoint=http://"+l.Addr().String(),
			obs.Options{Getenv: keys, Retry: &once, Stall: 200 * time.Millisecond})
		// More than the buffers of the kernel hold.
		if err := s.Put(t.Context(), "k", make([]byte, 32<<20)); !errors.Is(err, obs.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
	})
	t.Run("a caller that leaves", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		defer server.Close()
		s := open(t, "s3://bucket?endpoint="+server.URL, obs.Options{Getenv: keys})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := s.Stat(ctx, "k")
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, obs.ErrUnavailable) {
			t.Errorf("error %v, want context.DeadlineExceeded alone", err)
		}
	})
}

// TestNetworkErrors: a request that got no answer may be tried again, except where no
// try can succeed.
func TestNetworkErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	hangup := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer hangup.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for _, c := range []struct {
		endpoint string
		want     error
	}{
		{"http://" + closed, obs.ErrUnavailable},
		{hangup.URL, obs.ErrUnavailable},
		// a certificate that nobody vouches for
		{secure.URL, obs.ErrUsage},
		{strings.Replace(hangup.URL, "http:", "https:", 1), obs.ErrUsage}, // no TLS there
	} {
		s := open(t, "s3://bucket?endpoint="+c.endpoint, obs.Options{Getenv: keys, Retry: &once})
		if err := s.Put(t.Context(), "k", []byte("x")); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.endpoint, err, c.want)
		}
	}
}
