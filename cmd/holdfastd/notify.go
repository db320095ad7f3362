package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how the daemon is. Without systemd it does
// nothing. It is safe for several goroutines.
type notifier struct {
	socket   string
	watchdog time.Duration // 0: systemd does not watch
	log      *slog.Logger
}

// newNotifier reads what systemd has put into the environment, and takes
// it out: the commands that the daemon runs must not speak for it.
func newNotifier(log *slog.Logger) (*notifier, error) {
	n := &notifier{socket: os.Getenv("NOTIFY_SOCKET"), log: log}
	watchdog, err := daemon.SdWatchdogEnabled(true)
	if err != nil {
		return nil, fmt.Errorf("read systemd's watchdog time: %w", err)
	}
	n.watchdog = watchdog
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		return nil, err
	}
	return n, nil
}

// send sends one message. A message that gets lost costs a restart
// at worst, so it is logged and no more.
func (n *notifier) send(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close()
	}
	if err != nil {
		n.log.Warn("systemd did not take a message", "state", state, "error", err)
	}
}

func (n *notifier) ready(status string) { n.send(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// watch pings the watchdog, twice in the time that it allows, for
// as long as alive returns nil in time. It returns when ctx ends.
func (n *notifier) watch(ctx context.Context, alive func(context.Context) error) {
	if n.watchdog <= 0 || n.socket == "" {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		check, cancel := context.WithTimeout(ctx, n.watchdog/4)
		err := alive(check)
		cancel()
		switch {
		case err == nil:
			n.send(daemon.SdNotifyWatchdog)
		case ctx.Err() == nil:
			n.log.Error("not alive, systemd's watchdog is not pinged", "error", err)
		}
	}
}
