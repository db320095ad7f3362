package obs

import "net/http"

// WithTransport lets a test change how connections are made.
func WithTransport(o Options, f func(*http.Transport)) Options {
	o.transport = f
	return o
}

// AlsoTransport adds a change to those of WithTransport.
func AlsoTransport(o Options, f func(*http.Transport)) Options {
	before := o.transport
	return WithTransport(o, func(tr *http.Transport) {
		if before != nil {
			before(tr)
		}
		f(tr)
	})
}
