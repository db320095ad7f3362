package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/testbed"
)

// received is one event that the control plane got, and its answer.
type received struct {
	model.Event
	At     time.Time
	Status int
}

// plane is a control plane that takes reports over TLS.
type plane struct {
	t      *testing.T
	server *httptest.Server
	caFile string

	mu     sync.Mutex
	events []received
	// answer decides the status of an answer, and may wait before it
	// gives it. The body follows from the status.
	answer func(model.Event) int
}

func startPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, answer: func(model.Event) int { return http.StatusOK }}
	p.server = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() {
		p.server.CloseClientConnections()
		p.server.Close()
	})
	p.caFile = filepath.Join(t.TempDir(), "plane.pem")
	testbed.WritePEM(t, p.caFile, "CERTIFICATE", p.server.Certificate().Raw, 0o644)
	return p
}

func (p *plane) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the agent was killed while it sent
	}
	e, _, err := report.Decode(body)
	if err != nil {
		p.t.Errorf("control plane: %v: %s", err, body)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	answer := p.answer
	p.mu.Unlock()
	status := answer(e)
	p.mu.Lock()
	p.events = append(p.events, received{Event: e, At: time.Now(), Status: status})
	p.mu.Unlock()
	body = []byte(`{"error_code":"0","error_msg":"OK"}`)
	if status != http.StatusOK {
		body = []byte(`{"error_code":"KOOPHONE.API.9999","error_msg":"internal service error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the agent may be gone
}

func (p *plane) setAnswer(f func(model.Event) int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// got returns the events of that type that were acknowledged, in order.
func (p *plane) got(kind string) (out []received) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if (kind == "" || e.Type == kind) && e.Status < 300 {
			out = append(out, e)
		}
	}
	return out
}

// data decodes an event's data into a map.
func data(t *testing.T, e model.Event) map[string]any {
	t.Helper()
	m := map[string]any{}
	must(t, json.Unmarshal(e.Data, &m))
	return m
}
