package main

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"holdfast/agent"
	"holdfast/agent/config"
)

// stopMargin is the time that a stop gets beyond agent.StopTime before the process ends all
// the same. Only an act that no context ends, such as a call of the kernel, hangs that long.
const stopMargin = 3 * time.Second

// stopping tells systemd that the daemon drains, and how long that may
// take: systemd then waits for as long, also where its unit says less.
func (n *notifier) stopping(within time.Duration) {
	n.send(fmt.Sprintf("%s\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyStopping, within.Microseconds()))
}

// unitStopTime asks systemd how long it lets the service stop; 0
// where there is no systemd or it sets no limit.
func unitStopTime() time.Duration {
	out, err := exec.Command("systemctl", "show", "--property=TimeoutStopUSec", "--value", serviceName+".service").Output()
	if err != nil {
		return 0
	}
	return parseUnitTime(strings.TrimSpace(string(out)))
}

// parseUnitTime reads a time as systemd prints it, such as "1min
// 30s"; 0 for a text that it can't read, and for "infinity".
func parseUnitTime(text string) (sum time.Duration) {
	for word := range strings.FieldsSeq(text) {
		word = strings.NewReplacer("min", "m", "us", "µs").Replace(word)
		d, err := time.ParseDuration(word)
		if err != nil {
			return 0
		}
		sum += d
	}
	return sum
}

// adviseStop writes odd facts about the time that a
// stop may take, beside the time that systemd gives it.
func adviseStop(cfg *config.Config, unit time.Duration, w io.Writer) error {
	need := agent.StopTime(cfg.Limits.DrainTimeout) + stopMargin
	if unit == 0 || need <= unit {
		return nil
	}
	_, err := fmt.Fprintf(w, "note: with limits.drain_timeout: %v a stop may take %v, and TimeoutStopSec= of %s.service is %v. The daemon asks systemd for the longer time; "+
		"a unit that says so itself (systemctl edit %s, TimeoutStopSec=%.0f) also covers a daemon that can't ask.\n",
		cfg.Limits.DrainTimeout, need, serviceName, unit, serviceName, need.Seconds())
	return err
}
