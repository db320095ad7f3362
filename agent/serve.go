package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/auth"
	"holdfast/agent/metrics"
	"holdfast/agent/service"
	"holdfast/internal/contain"
)

// listeners are tried by Open; Run tries the TCP listeners again.
type listeners struct {
	control tcpListener // TLS is added by the server
	socket  net.Listener
	metrics tcpListener
	tls     atomic.Pointer[auth.TLS] // nil before control is prepared
}

// listen binds the socket, and the addresses as far as they are there. The other needs of the
// control plane's listener, beside its address, have to be right, unless this life recovers.
func (a *Agent) listen() (err error) {
	l := &a.listeners
	l.control.setting, l.control.address, l.control.prepare = "listen", a.cfg.Listen, a.prepareControl
	l.metrics.setting, l.metrics.address = "metrics_listen", a.cfg.MetricsListen
	if l.socket, err = listenSocket(a.cfg.Socket); err != nil {
		return err
	}
	for _, t := range []*tcpListener{&l.control, &l.metrics} {
		if err := t.try(); err != nil && !t.prepared {
			if err := a.without(t.setting, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepareControl opens what tells who calls over the network.
func (a *Agent) prepareControl() (err error) {
	tls, err := auth.NewTLS(tlsOptions(a.cfg))
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if a.auth, err = a.authenticator(a.opened); err != nil {
		return err
	}
	a.listeners.tls.Store(tls)
	return nil
}

// close closes what its server has not closed.
func (l *listeners) close() error {
	errs := []error{l.metrics.close(), l.control.close()}
	if l.socket != nil {
		if err := l.socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// listenSocket binds the operators' socket, mode 0660: everybody who can open it is an operator.
// A socket that a crash left is replaced; a socket that answers belongs to another agent.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("socket %s: another agent serves it", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("socket %s: there is a file of another kind", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), l.Close())
	}
	return l, nil
}

// addressShare is the part of the connections that one address may hold.
const addressShare = 4

// server is one listener with what serves it.
type server struct {
	// open waits for the listener; it returns none when its context ends before.
	open          func(ctx context.Context) (*http.Server, net.Listener)
	afterRecovery bool // callers wait in the listener until the jobs of the last life are looked at
}

func (a *Agent) servers() []server {
	s := service.New(service.Options{
		Log: a.log, Config: a.cfg, Self: a.self, Started: a.started, Store: a.store.String(), Journal: a.journal, Jobs: a.manager, Engine: a.engine,
		Lookout: a.lookout, Throttle: a.throttle, WhyWaits: a.watcher.WhyWaits, Janitor: a.janitor, Recovers: a.recovers,
	})
	options := api.Options{Log: a.log, Audit: a.audit.Command, Refuse: a.refusal, Observe: func(e api.Exchange) {
		a.metrics.APIRequest(e.Code)
		if e.Panicked {
			a.metrics.Panicked(metrics.PanicCall)
		}
	}}
	serving := func(ctx context.Context, h http.Handler, c *tls.Config) *http.Server {
		srv := api.NewServer(h, c, a.log)
		srv.BaseContext = func(net.Listener) context.Context { return ctx } // streams end with it
		return srv
	}
	control := func(ctx context.Context) (*http.Server, net.Listener) {
		l := a.listeners.control.wait(ctx, a.log)
		if l == nil {
			return nil, nil
		}
		network := options
		network.Peer, network.Requests = a.peer, float64(a.cfg.Limits.Requests)
		srv := serving(ctx, api.NewHandler(s, a.auth, network), a.listeners.tls.Load().Config())
		n := a.cfg.Limits.Connections
		return srv, api.LimitConnections(srv, l, n, n/addressShare)
	}
	// The socket is served from the begin: who recovers a host by
	// hand needs it most while the agent recovers.
	socket := func(ctx context.Context) (*http.Server, net.Listener) {
		return serving(ctx, api.NewOperatorHandler(s, options), nil), a.listeners.socket
	}
	metrics := func(ctx context.Context) (*http.Server, net.Listener) {
		page := a.metrics.Handler(a.healthy, a.takesCommands)
		return serving(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a.measure()
			page.ServeHTTP(w, r)
		}), nil), a.listeners.metrics.wait(ctx, a.log)
	}
	all := []server{{open: socket}}
	if a.cfg.MetricsListen != "" {
		all = append(all, server{open: metrics})
	}
	if a.cfg.Listen != "" {
		all = append(all, server{open: control, afterRecovery: true})
	}
	return all
}

// measure brings the gauges that nobody tells of to the present.
func (a *Agent) measure() {
	_, queued := a.manager.Counts()
	a.metrics.QueueLength(queued)
	if n, err := a.journal.PendingReports(); err == nil {
		a.metrics.ReportsPending(n)
	}
	if n, err := a.journal.RefusedReports(); err == nil {
		a.metrics.RefusedReports(n)
	}
	if _, now, err := a.lookout.Look(); err == nil {
		a.metrics.Look(now)
	}
	if bases, err := a.journal.Bases(""); err == nil {
		a.metrics.BaseSnapshots(len(bases))
	}
	if t := a.listeners.tls.Load(); t != nil {
		expiry, _ := t.Expiry() // watchCertificate tells of the fault
		a.metrics.CertificateExpiry(time.Until(expiry))
	}
}

// run serves until ctx ends, then lets calls under way end.
func (s server) run(ctx context.Context) error {
	srv, listener := s.open(ctx)
	if listener == nil {
		return nil
	}
	served := make(chan error, 1)
	go func() {
		served <- contain.Call(func() error {
			if srv.TLSConfig != nil {
				return srv.ServeTLS(listener, "", "")
			}
			return srv.Serve(listener)
		})
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := srv.Shutdown(shutdown)
	if err != nil {
		err = srv.Close() // unfinished calls are cut off
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
