package obs

import "net/http"

// WithTransport lets a test change how connections are made.
func WithTransport(o Options, f func(*http.Transport)) Options {
	o.transport = f
	return o
}
