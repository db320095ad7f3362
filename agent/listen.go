package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// listenEvery is how often the agent tries again to listen on an
// address that was not there or was taken.
const listenEvery = 2 * time.Second

// tcpListener listens on an address as soon as that is possible: after a boot the
// address may come later than the agent, and instances that are held must not
// wait for it. The zero value listens nowhere. It is safe for several goroutines.
type tcpListener struct {
	setting string // of the configuration, for messages
	address string // "": off
	// prepare opens everything that the server needs beside the address.
	// It is called until it returns nil, by one goroutine at a time.
	prepare func() error

	mu       sync.Mutex
	bound    net.Listener
	prepared bool
	why      error // why nothing is served; nil before the first try, and once bound
	closed   bool
}

// try prepares and binds. It does nothing where that is done.
func (t *tcpListener) try() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.address == "" || t.bound != nil || t.closed {
		return nil
	}
	if t.why = t.open(); t.why != nil {
		t.why = fmt.Errorf("%s: %w", t.setting, t.why)
	}
	return t.why
}

func (t *tcpListener) open() error {
	if !t.prepared && t.prepare != nil {
		if err := t.prepare(); err != nil {
			return err
		}
	}
	t.prepared = true
	l, err := net.Listen("tcp", t.address)
	if err != nil {
		return err
	}
	t.bound = l
	return nil
}

// wait tries until the address is bound, and returns nil when ctx ends before. It logs
// the first failure, each failure of another kind, and the success after a failure.
func (t *tcpListener) wait(ctx context.Context, log *slog.Logger) net.Listener {
	said := ""
	for {
		err := t.try()
		if err == nil {
			if said != "" {
				log.Info("the agent listens now", "setting", t.setting, "address", t.address)
			}
			return t.listener()
		}
		if text := err.Error(); text != said {
			said = text
			log.Error("the agent can't listen yet and tries again; all else goes on", "setting", t.setting, "address", t.address, keyError, text)
		}
		select {
		case <-time.After(listenEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

func (t *tcpListener) listener() net.Listener {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bound
}

// fault tells why nothing is served at an address of the configuration; nil while something is.
func (t *tcpListener) fault() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

// text is the address with the port that was chosen where the
// configuration says 0; "" while nothing is bound.
func (t *tcpListener) text() string {
	if l := t.listener(); l != nil {
		return l.Addr().String()
	}
	return ""
}

func (t *tcpListener) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.bound == nil {
		return nil
	}
	if err := t.bound.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
