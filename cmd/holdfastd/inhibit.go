package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/coreos/go-systemd/v22/login1"
)

// logind is the connection to systemd's login manager, made when it
// is first needed. A host without one goes down without asking.
type logind struct {
	mu   sync.Mutex
	conn *login1.Conn
}

func (l *logind) connect() (*login1.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		conn, err := login1.New()
		if err != nil {
			return nil, fmt.Errorf("connect to logind: %w", err)
		}
		l.conn = conn
	}
	return l.conn, nil
}

// inhibit delays a shutdown until release is called, for as long as logind's
// InhibitDelayMaxSec allows. (https://systemd.io/INHIBITOR_LOCKS: the lock is the descriptor.)
func (l *logind) inhibit(why string) (release func(), err error) {
	conn, err := l.connect()
	if err != nil {
		return nil, err
	}
	lock, err := conn.Inhibit("shutdown", "holdfast", why, "delay")
	if err != nil {
		return nil, fmt.Errorf("ask logind to delay a shutdown: %w", err)
	}
	return sync.OnceFunc(func() { _ = lock.Close() }), nil // only read from
}

// watch calls shutdown when logind says that the host is about to go down,
// until ctx ends: that leaves time to finish the work on held instances,
// before units are stopped. It returns at once where there is no logind.
func (l *logind) watch(ctx context.Context, shutdown func()) {
	conn, err := l.connect()
	if err != nil {
		return
	}
	signals := conn.Subscribe("PrepareForShutdown")
	for {
		select {
		case s := <-signals:
			if s == nil {
				return // the bus is gone
			}
			if begins, ok := s.Body[0].(bool); ok && begins && s.Name == "org.freedesktop.login1.Manager.PrepareForShutdown" {
				shutdown()
			}
		case <-ctx.Done():
			return
		}
	}
}

func (l *logind) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn.Close() // nil is allowed
	l.conn = nil
}
