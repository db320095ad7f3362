package metrics

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapeTimeout ends a scrape before Prometheus gives up by default (10 s).
const scrapeTimeout = 9 * time.Second

// Check tells whether all is well: nil, or the reason why not, in words for
// an operator. It must answer at once and may be called from many goroutines.
type Check func() error

// Handler serves /metrics, /healthz and /readyz, for a listener on loopback: it
// asks for no password. healthy is nil while the agent's loops advance; ready is
// nil while it takes commands. A failing check is answered 503 with its reason.
// A nil check always passes. On a nil *Metrics /metrics is an empty page.
func (m *Metrics) Handler(healthy, ready Check) http.Handler {
	mux := http.NewServeMux()
	if m != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
			Timeout:             scrapeTimeout,
			MaxRequestsInFlight: 4, // a scraper or two; the page costs memory
		}))
	} else {
		mux.HandleFunc("GET /metrics", func(http.ResponseWriter, *http.Request) {})
	}
	mux.HandleFunc("GET /healthz", answer(healthy))
	mux.HandleFunc("GET /readyz", answer(ready))
	return mux
}

func answer(check Check) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if check != nil {
			if err := check(); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintf(w, "not ok: %v\n", err)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	}
}
