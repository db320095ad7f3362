package agent_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/internal/testbed"
)

// countedBody counts the bytes that are read from it.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// TestThrottleWhileUploading: a pack that would take nine minutes under the configuration's
// limit is stored at once when an operator lifts it in the middle of the request.
func TestThrottleWhileUploading(t *testing.T) {
	const pack = 16 << 20
	minio := testbed.StartMinIO(t)
	target, err := url.Parse(minio.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var large atomic.Int64 // bytes of the bodies of large puts
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // the signature covers it
		if r.In.Method == http.MethodPut && r.In.ContentLength > pack/2 {
			r.Out.Body = countedBody{r.Out.Body, &large}
		}
	}}
	front := httptest.NewServer(proxy)
	defer front.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", minio.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", minio.SecretKey)

	h := newHost(t)
	content := make([]byte, pack+pack/2)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	h.write(filepath.Join("volumes", "phone-1", "large"), string(content), 0o600)
	h.cfg = strings.Replace(h.cfg, "file://"+h.in("store"), minio.URLVia(front.URL, minio.Bucket(t), ""), 1) + "bandwidth: {up: 32KiB, down: 1MiB}\n"
	h.start()
	c := api.NewClient(h.in("s"))
	info, err := c.Info(t.Context())
	if err != nil || info.Throttle == nil || info.Throttle.Up != (api.Limit{Limit: 32 << 10, From: api.FromConfiguration}) {
		t.Fatalf("info: %+v, %v", info.Throttle, err)
	}
	h.backup("acme", "r1", "phone-1")
	h.eventually("the upload of a pack begins", func() bool { return large.Load() > 64<<10 })
	during := large.Load()
	if during > pack/2 {
		t.Errorf("%d bytes of packs were sent within a moment at 32 KiB/s", during)
	}
	none := int64(0)
	now, err := c.SetThrottle(t.Context(), api.ThrottleSetting{Up: &none})
	if err != nil || now.Up.From != api.FromOperator || now.Down != (api.Limit{Limit: 1 << 20, From: api.FromConfiguration}) {
		t.Errorf("%+v, %v", now, err)
	}
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	if n := large.Load(); n < pack {
		t.Errorf("%d bytes of packs arrived", n)
	}
	h.metrics("holdfast_store_limit_up_bytes_per_second 0", fmt.Sprintf("holdfast_store_limit_down_bytes_per_second %g", float64(1<<20)))

	// A reload: the configuration's limits change, the
	// operator's limits stay until they are taken back.
	h.agent.SetBandwidth(config.Bandwidth{Up: 1 << 30, Requests: 40})
	if now, err = c.Throttle(t.Context()); err != nil || now.Up.Limit != 0 || now.Down.Limit != 0 || now.Requests != (api.Limit{Limit: 40, From: api.FromConfiguration}) {
		t.Errorf("after a reload: %+v, %v", now, err)
	}
	if now, err = c.SetThrottle(t.Context(), api.ThrottleSetting{}); err != nil || now.Up != (api.Limit{Limit: 1 << 30, From: api.FromConfiguration}) {
		t.Errorf("taken back: %+v, %v", now, err)
	}
}
