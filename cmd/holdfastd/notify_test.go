package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// listenNotify makes this process a service manager that listens for messages.
func listenNotify(t *testing.T) (socket string, receive func() string) {
	t.Helper()
	socket = filepath.Join(testbed.Dir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return socket, func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func newTestNotifier(t *testing.T, watchdog time.Duration) (*notifier, func() string) {
	t.Helper()
	socket, receive := listenNotify(t)
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	n, err := newNotifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return n, receive
}

func TestNotifierSpeaksAndHidesTheSocket(t *testing.T) {
	n, receive := newTestNotifier(t, time.Minute)
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if v, ok := os.LookupEnv(name); ok {
			t.Errorf("%s=%s is left for child processes", name, v)
		}
	}
	n.ready("serving")
	if got := receive(); got != "READY=1\nSTATUS=serving" {
		t.Errorf("ready sent %q", got)
	}
	n.stopping(90 * time.Second)
	if got := receive(); got != "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=90000000" {
		t.Errorf("stopping sent %q", got)
	}
}

func TestNotifierWithoutSystemd(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		t.Setenv(name, "")
	}
	n, err := newNotifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n.ready("serving")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	n.watch(ctx, func(context.Context) error {
		t.Error("asked for life without a watchdog")
		return nil
	})
}

// TestWatchdogIsPingedOnlyWhileAlive: an agent that does not answer
// gets no ping, and again some when it does.
func TestWatchdogIsPingedOnlyWhileAlive(t *testing.T) {
	n, receive := newTestNotifier(t, 40*time.Millisecond)
	var asked atomic.Int32
	dead := true
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.watch(ctx, func(check context.Context) error {
			if _, ok := check.Deadline(); !ok {
				t.Error("the check has no deadline")
			}
			if asked.Add(1) == 3 {
				dead = false
			}
			if dead {
				return errors.New("stuck")
			}
			return nil
		})
	}()
	if got := receive(); got != "WATCHDOG=1" {
		t.Errorf("sent %q", got)
	}
	if n := asked.Load(); n < 3 {
		t.Errorf("pinged after %d checks, of which two failed", n)
	}
	cancel()
	<-ended
}
