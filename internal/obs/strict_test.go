package obs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/obs/proxytest"
	"holdfast/internal/testbed"
)

// strict starts a strict OBS in front of a server.
func strict(t testing.TB, s *testbed.S3, opts proxytest.Options) *proxytest.Proxy {
	t.Helper()
	p := proxytest.Start(proxytest.Backend{
		Endpoint: s.Endpoint, Access: s.AccessKey, Key: proxytest.Key{Secret: s.SecretKey}, Region: "us-east-1",
	}, opts)
	t.Cleanup(p.Close)
	p.SetKey("THEID", proxytest.Key{Secret: "verysecret", Token: "secrettoken"})
	return p
}

// atStrict is a URL of a bucket of strict's, whose name only viaStrict finds. It is without TLS.
func atStrict(bucket, rest string) string {
	return "obs://" + bucket + rest + "?region=test-1&endpoint=http://obs.test-1.myhuaweicloud.com"
}

// viaStrict sends every connection to the proxy.
func viaStrict(p *proxytest.Proxy, o obs.Options) obs.Options { return toServer(p.Server, o) }

// TestStrictOBS runs the suite against proxytest, which refuses every request that OBS
// refuses, in front of two servers.
func TestStrictOBS(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *testbed.S3{"MinIO": testbed.StartMinIO, "Versity": testbed.StartVersity} {
		t.Run(name, func(t *testing.T) {
			var except []string
			if name == "Versity" {
				except = []string{"ListMany"} // as in TestServers
			}
			s := start(t)
			p := strict(t, s, proxytest.Options{})
			obstest.Run(t, func(t *testing.T) obs.Store {
				return open(t, atStrict(s.Bucket(t), "/pre"), viaStrict(p, obs.Options{Getenv: keys}))
			}, except...)
		})
	}
}

// TestPlainClientAtStrictOBS: the client library as it comes breaks
// the rules that this package keeps.
func TestPlainClientAtStrictOBS(t *testing.T) {
	m := testbed.StartMinIO(t)
	p, bucket := strict(t, m, proxytest.Options{}), m.Bucket(t)
	body := obstest.Body("k", 200_000)
	sum := sha256.Sum256(body)
	for _, c := range []struct {
		name     string
		opts     minio.Options
		unsigned bool
		sha256   string
		code     string
	}{
		{"chunks that are signed", minio.Options{BucketLookup: minio.BucketLookupDNS}, false, "", ""},
		{"an unsigned payload", minio.Options{BucketLookup: minio.BucketLookupDNS}, true, "", ""},
		{"trailing checksums", minio.Options{BucketLookup: minio.BucketLookupDNS, TrailingHeaders: true}, true, "", "XAmzContentSHA256Mismatch"},
		{"a digest in the signature", minio.Options{BucketLookup: minio.BucketLookupDNS}, true, hex.EncodeToString(sum[:]), "XAmzContentSHA256Mismatch"},
		{"path style", minio.Options{BucketLookup: minio.BucketLookupPath}, true, "", "VirtualHostDomainRequired"},
	} {
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.Listener.Addr().String())
		}}
		c.opts.Creds = credentials.NewStaticV4("THEID", "verysecret", "secrettoken")
		c.opts.Region, c.opts.MaxRetries, c.opts.Transport = "test-1", 1, tr
		client, err := minio.NewCore("obs.test-1.myhuaweicloud.com", &c.opts)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.PutObject(t.Context(), bucket, "k", bytes.NewReader(body), int64(len(body)), "", c.sha256,
			minio.PutObjectOptions{DisableContentSha256: c.unsigned})
		if code := minio.ToErrorResponse(err).Code; code != c.code {
			t.Errorf("%s: %q (%v), want %q", c.name, code, err, c.code)
		}
	}
}

// TestStrictOBSSlowsDown: a store that is asked to slow down waits and goes on.
func TestStrictOBSSlowsDown(t *testing.T) {
	m := testbed.StartMinIO(t)
	p := strict(t, m, proxytest.Options{PerSecond: 3})
	var slowed atomic.Int64
	s := open(t, atStrict(m.Bucket(t), ""), viaStrict(p, obs.Options{Getenv: keys, Retry: &obs.RetryPolicy{
		MaxElapsed: time.Minute, OnRetry: func(obs.RetryEvent) { slowed.Add(1) },
	}}))
	var all sync.WaitGroup
	// at once, which no busy host spreads over the two seconds that they would need
	for i := range 8 {
		all.Go(func() {
			if err := s.Put(t.Context(), string(rune('a'+i))+"/k", []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if slowed.Load() == 0 {
		t.Error("8 puts at once were never too many for 3 a second")
	}
}
