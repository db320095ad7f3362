package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Toxic is a network path to a server, whose faults a test chooses.
// Its methods may be called from any goroutine.
type Toxic struct {
	Endpoint string // http://host:port, in place of the server's

	t     testing.TB
	mu    sync.Mutex
	proxy *toxiproxy.Proxy
}

// The directions of a fault.
const (
	ToServer   = "upstream"
	FromServer = "downstream"
)

// StartToxic opens a path without faults to a server (host:port, or
// a URL with no more than that); it goes with the test.
func StartToxic(t testing.TB, server string) *Toxic {
	t.Helper()
	_, after, isURL := strings.Cut(server, "://")
	if isURL {
		server = after
	}
	zerolog.SetGlobalLevel(zerolog.Disabled) // parts of it log past their logger
	x := &Toxic{t: t, proxy: toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "path", "127.0.0.1:0", server)}
	if err := x.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	x.Endpoint = "http://" + x.proxy.Listen
	t.Cleanup(x.proxy.Stop)
	return x
}

// Add adds a fault in one direction, by its name and attributes in toxiproxy ("latency"
// with "latency" in ms, "bandwidth" with "rate" in KB/s, "slicer", "reset_peer",
// "timeout", "limit_data", "slow_close"), for connections that are open and for new ones.
func (x *Toxic) Add(kind, direction string, attributes map[string]int) {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	text, err := json.Marshal(map[string]any{"type": kind, "stream": direction, "attributes": attributes})
	if err != nil {
		x.t.Fatal(err)
	}
	if _, err := x.proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
		x.t.Fatal(err)
	}
}

// Heal removes all faults.
func (x *Toxic) Heal() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.proxy.Toxics.ResetToxics(context.Background())
}
