package fleet_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/agent/report"
	"holdfast/internal/testbed"
)

// Types of reports.
const (
	backupCompleted  = "holdfast.backup.completed"
	backupFailed     = "holdfast.backup.failed"
	released         = "holdfast.instance.released"
	resumed          = "holdfast.instance.resumed"
	restoreCompleted = "holdfast.restore.completed"
	restoreFailed    = "holdfast.restore.failed"
)

// gate is a way in which a server answers one host. The zero value answers as it should.
type gate struct {
	mu   sync.Mutex
	mode string
}

func (g *gate) set(mode string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = mode
}

func (g *gate) get() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode
}

// page is the page of a server that answers in the place of another.
const page = "<!DOCTYPE html><html><head><title>Welcome to nginx!</title></head><body>If you see this page, it works.</body></html>"

// plane is the control plane: it takes reports, from each host at an address of its own.
type plane struct {
	f      *fleet
	caFile string
	ports  map[*host]string // host -> address at which it reports
	asked  map[*host]int    // host -> requests; under mu

	mu   sync.Mutex
	jobs map[string]map[string]json.RawMessage // job -> type of report that was taken -> its data
}

func startPlane(f *fleet) *plane {
	p := &plane{f: f, caFile: filepath.Join(f.dir, "plane.pem"), ports: map[*host]string{}, asked: map[*host]int{}, jobs: map[string]map[string]json.RawMessage{}}
	var addresses []string
	hosts := append(slices.Clone(f.hosts), f.clone)
	for _, h := range hosts {
		addresses = append(addresses, h.net.Servers[planeServer])
	}
	key := filepath.Join(f.dir, "plane.key")
	testbed.WriteCertificate(f.t, p.caFile, key, addresses...)
	cert, err := tls.LoadX509KeyPair(p.caFile, key)
	must(f.t, err)
	for i, h := range hosts {
		l, err := net.Listen("tcp", addresses[i]+":0")
		must(f.t, err)
		p.ports[h] = l.Addr().String()
		serve(f, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}),
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(h, w, r) }))
	}
	return p
}

// serve runs a server until the test ends.
func serve(f *fleet, l net.Listener, handler http.Handler) {
	s := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			f.found("a server of the test ended: %v", err)
		}
	}()
	f.t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
}

func (p *plane) address(h *host) string { return p.ports[h] }

// planeModes are the ways in which a control plane, or a server in front of
// it, is sick. In "refuses" the control plane itself answers, and says no.
var planeModes = []string{"500", "503", "slow", "cut", "404", "page", "redirect", "409", "refuses"}

func (p *plane) serve(h *host, w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[h]++
	p.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the agent was killed while it sent
	}
	mode := h.plane.get()
	if mode != "" {
		p.f.trail.count("reports answered with " + mode)
	}
	say := func(status int, kind, text string) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
	switch mode {
	case "500", "503":
		status, _ := strconv.Atoi(mode)
		w.Header().Set("Retry-After", "1")
		say(status, "text/plain", "try again")
		return
	case "slow":
		sleep(r.Context(), 3*time.Second)
	case "cut": // it takes the report, and the answer is lost
		p.take(h, body)
		panic(http.ErrAbortHandler)
	case "404":
		say(http.StatusNotFound, "text/html", page)
		return
	case "page":
		say(http.StatusOK, "text/html", page)
		return
	case "redirect":
		w.Header().Set("Location", "https://"+r.Host+"/login")
		say(http.StatusFound, "text/html", page)
		return
	case "409":
		say(http.StatusConflict, "text/html", page)
		return
	case "refuses":
		h.refused.Store(true)
		say(http.StatusUnprocessableEntity, "application/json", `{"error_code":"FLEET.0001","error_msg":"not today"}`)
		return
	}
	if !p.take(h, body) {
		say(http.StatusBadRequest, "application/json", `{"error_code":"FLEET.0002","error_msg":"not a report"}`)
		return
	}
	say(http.StatusOK, "application/json", `{"error_code":"0","error_msg":"OK"}`)
}

// take keeps a report.
func (p *plane) take(h *host, body []byte) bool {
	e, source, err := report.Decode(body)
	if err != nil {
		p.f.found("%s reports what is no report: %v: %s", h.name, err, body)
		return false
	}
	var data struct {
		Job    string `json:"job_id"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		p.f.found("%s reports %s: %v", h.name, e.Data, err)
		return false
	}
	p.f.trail.note("%s: %s of %s (job %s) %s", source, e.Type, e.Instance, data.Job, data.Reason)
	if strings.Contains(data.Reason, "(12h0m0s)") {
		p.f.found("%s: a job failed because a clock was set: %s", h.name, data.Reason)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.jobs[data.Job] == nil {
		p.jobs[data.Job] = map[string]json.RawMessage{}
	}
	p.jobs[data.Job][e.Type] = e.Data
	return true
}

// took tells which of the types was reported of a job; "" for none.
// The first of them that was reported counts.
func (p *plane) took(job string, types ...string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range types {
		if _, ok := p.jobs[job][t]; ok {
			return t
		}
	}
	return ""
}

// told is the part of a report's data that the fleet looks at.
type told struct {
	Backup       string    `json:"backup_id"`
	Instance     string    `json:"instance_id"`
	AlreadyReady bool      `json:"already_ready"`
	Replaced     *replaced `json:"replaced"`
	Fork         []struct {
		Backup string `json:"backup"`
	} `json:"fork"`
	Reason  string `json:"reason"`
	Warning string `json:"warning"`
}

type replaced struct {
	Files uint64 `json:"files"`
	Kept  bool   `json:"kept"`
}

// data is the data of a report of a job.
func (p *plane) data(job, kind string) (d told) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := json.Unmarshal(p.jobs[job][kind], &d); err != nil {
		p.f.found("the report %s of job %s: %v", kind, job, err)
	}
	return d
}

// keeps tells whether a report said that the content which a job replaced is kept.
func (p *plane) keeps(job string) bool {
	return p.took(job, restoreCompleted) != "" && p.data(job, restoreCompleted).keeps() ||
		p.took(job, restoreFailed) != "" && p.data(job, restoreFailed).keeps()
}

func (d told) keeps() bool { return d.Replaced != nil && d.Replaced.Kept }

// forks are the ids of all backups of an instance that reports named as a part of a fork.
func (p *plane) forks(instance string) map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := map[string]bool{}
	for _, kinds := range p.jobs {
		for _, text := range kinds {
			var d told
			if json.Unmarshal(text, &d) != nil || d.Instance != instance || len(d.Fork) == 0 {
				continue
			}
			ids[d.Backup] = true
			for _, f := range d.Fork {
				ids[f.Backup] = true
			}
		}
	}
	return ids
}

// requests is how many requests came from a host.
func (p *plane) requests(h *host) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[h]
}

func sleep(ctx context.Context, d time.Duration) { pause(ctx, d) }
