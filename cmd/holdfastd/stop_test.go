package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/agent/config"
	"holdfast/systemd"
)

// TestUnitGivesTheTimeOfAStop: with the default drain_timeout a stop
// ends before systemd kills, without being asked for more time.
func TestUnitGivesTheTimeOfAStop(t *testing.T) {
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=(.*)$`).FindStringSubmatch(systemd.Unit)
	if m == nil {
		t.Fatal("the unit has no TimeoutStopSec=")
	}
	if need := agent.StopTime(config.DefaultDrainTimeout) + stopMargin; need > parseUnitTime(m[1]) {
		t.Errorf("a stop takes up to %v, and the unit says %s", need, m[1])
	}
}

func TestAdviseStop(t *testing.T) {
	for _, c := range []struct {
		drain, unit time.Duration
		says        bool
	}{
		{time.Minute, 90 * time.Second, false},
		{5 * time.Minute, 90 * time.Second, true},
		{5 * time.Minute, 10 * time.Minute, false},
		{5 * time.Minute, 0, false}, // no systemd, or no limit
	} {
		var out bytes.Buffer
		if err := adviseStop(&config.Config{Limits: config.Limits{DrainTimeout: c.drain}}, c.unit, &out); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "TimeoutStopSec=") != c.says {
			t.Errorf("%+v: %q", c, &out)
		}
	}
}
