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
	"time"

	"holdfast/agent/api"
	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/agent/metrics"
	"holdfast/internal/contain"
)

// listeners are bound by Open, so that an address that is taken shows before anything is touched.
type listeners struct {
	control net.Listener // TCP, TLS is added by the server; nil: off
	socket  net.Listener
	metrics net.Listener // nil: off
	tls     *auth.TLS
}

func (l *listeners) open(cfg *config.Config) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if cfg.Listen != "" {
		if l.tls, err = auth.NewTLS(tlsOptions(cfg)); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		if l.control, err = net.Listen("tcp", cfg.Listen); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	if l.socket, err = listenSocket(cfg.Socket); err != nil {
		return err
	}
	if cfg.MetricsListen != "" {
		if l.metrics, err = net.Listen("tcp", cfg.MetricsListen); err != nil {
			return fmt.Errorf("metrics_listen: %w", err)
		}
	}
	return nil
}

// close closes what its server has not closed.
func (l *listeners) close() error {
	var errs []error
	for _, one := range []net.Listener{l.metrics, l.socket, l.control} {
		if one == nil {
			continue
		}
		if err := one.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// listenSocket binds the operators' socket, mode 0660: whoever can open it is an operator. A socket
// that a crash left is replaced; one that answers belongs to another agent.
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
	http          *http.Server
	listener      net.Listener
	afterRecovery bool // callers wait in the listener until the jobs of the last life are looked at
}

func (a *Agent) servers(ctx context.Context) []server {
	var all []server
	s := &service{a: a}
	options := api.Options{Log: a.log, Audit: a.audit.command, Observe: func(e api.Exchange) {
		a.metrics.APIRequest(e.Code)
		if e.Panicked {
			a.metrics.Panicked(metrics.PanicCall)
		}
	}}
	add := func(h http.Handler, c *tls.Config, l net.Listener, afterRecovery bool) {
		srv := api.NewServer(h, c, a.log)
		srv.BaseContext = func(net.Listener) context.Context { return ctx } // streams end with it
		all = append(all, server{srv, l, afterRecovery})
	}
	if a.listeners.control != nil {
		network := options
		network.Peer, network.Requests = a.peer, float64(a.cfg.Limits.Requests)
		add(api.NewHandler(s, a.auth, network), a.listeners.tls.Config(), a.listeners.control, true)
		control := &all[len(all)-1]
		n := a.cfg.Limits.Connections
		control.listener = api.LimitConnections(control.http, control.listener, n, n/addressShare)
	}
	add(api.NewOperatorHandler(s, options), nil, a.listeners.socket, false) // what recovery waits for, operators ask
	if a.listeners.metrics != nil {
		page := a.metrics.Handler(a.healthy, a.takesCommands)
		add(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a.measure()
			page.ServeHTTP(w, r)
		}), nil, a.listeners.metrics, false)
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
	if _, now, err := a.sighted(); err == nil {
		a.metrics.Look(now)
	}
	if bases, err := a.journal.Bases(""); err == nil {
		a.metrics.BaseSnapshots(len(bases))
	}
	if a.listeners.tls != nil {
		expiry, _ := a.listeners.tls.Expiry() // watchCertificate tells of the fault
		a.metrics.CertificateExpiry(time.Until(expiry))
	}
}

func (a *Agent) healthy() error { return a.Alive(context.Background()) }

// run serves until ctx ends, then lets calls under way end.
func (s server) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() {
		served <- contain.Call(func() error {
			if s.http.TLSConfig != nil {
				return s.http.ServeTLS(s.listener, "", "")
			}
			return s.http.Serve(s.listener)
		})
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", s.listener.Addr(), err)
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := s.http.Shutdown(shutdown)
	if err != nil {
		err = s.http.Close() // who has not finished by now is cut off
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
