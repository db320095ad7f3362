package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/agent/config"
	"holdfast/internal/obs"
)

// The meaning of a section, as the limiter has it.
func TestBandwidth(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name, text string
		want       obs.Schedule
	}{
		{"left out", "", obs.Schedule{}},
		{"empty", "bandwidth:", obs.Schedule{}},
		{"no limits, written out", "bandwidth: {up: 0, down: 0B, requests: 0, schedule: []}", obs.Schedule{}},
		{"limits", "bandwidth: {up: 200MiB, down: 16KiB, requests: 7}", obs.Schedule{Otherwise: obs.Limits{Up: 200 * mib, Down: 16 << 10, Requests: 7}}},
		{
			"a window takes what it leaves out from outside", `
bandwidth:
  up: 200MiB
  requests: 50
  schedule:
  - {from: "08:00", to: "20:30", days: [mon, sun], up: 50MiB, down: 1MiB}
  - {from: 20:30, to: 06:00, up: 0, requests: 0}
  - {days: [sat], up: , requests: 1}
`,
			obs.Schedule{Otherwise: obs.Limits{Up: 200 * mib, Requests: 50}, Windows: []obs.Window{
				{
					From: 8 * time.Hour, To: 20*time.Hour + 30*time.Minute, Days: []time.Weekday{time.Monday, time.Sunday},
					Limits: obs.Limits{Up: 50 * mib, Down: mib, Requests: 50},
				},
				{From: 20*time.Hour + 30*time.Minute, To: 6 * time.Hour},
				{Days: []time.Weekday{time.Saturday}, Limits: obs.Limits{Up: 200 * mib, Requests: 1}},
			}},
		},
	} {
		c, err := config.Parse([]byte(minimal+tt.text), "x")
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, c.Bandwidth.Plan()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	// A window to 24:00 ends with its day.
	c, err := config.Parse([]byte(minimal+`bandwidth: {schedule: [{from: "20:00", to: "24:00", days: [mon], up: 1MiB}]}`), "x")
	if err != nil {
		t.Fatal(err)
	}
	for when, up := range map[string]int64{"2026-11-23 19:59:59": 0, "2026-11-23 20:00:00": mib, "2026-11-23 23:59:59": mib, "2026-11-24 00:00:00": 0} {
		at, err := time.Parse(time.DateTime, when)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := c.Bandwidth.Plan().At(at); got.Up != up {
			t.Errorf("%s: %d, want %d", when, got.Up, up)
		}
	}
}

func TestBandwidthFaults(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"{up: 200}", `bandwidth.up: must be a size such as 256MiB, got "200"`},
		{"{up: 200MB}", `bandwidth.up: must be a size such as 256MiB, got "200MB"`},
		{"{up: 1KiB}", "bandwidth.up: must be 16KiB or more (a second), or 0 for no limit; got 1KiB"},
		{"{down: 1B}", "bandwidth.down: must be 16KiB or more"},
		{"{requests: -1}", "bandwidth.requests: must be 0 (no limit) to 100000, got -1"},
		{"{requests: 0.5}", `bandwidth.requests: must be a whole number, got "0.5"`},
		{"{limit: 1}", "bandwidth.limit: unknown key; known here: up, down, requests, schedule"},
		{"{schedule: {from: 1}}", "bandwidth.schedule: must be a list (- item), got a mapping"},
		{"{schedule: [{from: 8am}]}", `bandwidth.schedule[0].from: must be a time of day such as 08:30, got "8am"`},
		{"{schedule: [{from: '24:00'}]}", `bandwidth.schedule[0].from: must be a time of day such as 08:30, got "24:00"`},
		{"{schedule: [{to: '25:00'}]}", `bandwidth.schedule[0].to: must be a time of day such as 20:00, 24:00 at most, got "25:00"`},
		{"{schedule: [{days: [monday]}]}", `bandwidth.schedule[0].days[0]: must be one of sun, mon, tue, wed, thu, fri, sat; got "monday"`},
		{"{schedule: [{days: [mon, tue, mon]}]}", "bandwidth.schedule[0].days[2]: is days[0] again"},
		{"{schedule: [{days: []}]}", "bandwidth.schedule[0].days: must name at least one day; leave it out for every day"},
		{"{schedule: [{}, {up: 5KiB}]}", "bandwidth.schedule[1].up: must be 16KiB or more"},
		{"{schedule: [{down: 5KiB}]}", "bandwidth.schedule[0].down: must be 16KiB or more"},
		{"{schedule: [{requests: 100001}]}", "bandwidth.schedule[0].requests: must be 0 (no limit) to 100000, got 100001"},
		{"{schedule: [" + strings.Repeat("{up: 1MiB},", 51) + "]}", "bandwidth.schedule: must have 50 windows at most, got 51"},
	} {
		_, err := config.Parse([]byte(minimal+"bandwidth: "+tt.text), "x")
		if err == nil || !strings.Contains(err.Error(), "x:8:") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got\n%v\nwant\n%s", tt.text, err, tt.want)
		}
	}
	// Every fault is named, in the order of the file.
	_, err := config.Parse([]byte(minimal+`bandwidth:
  up: 1KiB
  schedule:
  - from: noon
    days: [mon, sin]
    requests: many
`), "x")
	want := `x:9:7: bandwidth.up: must be 16KiB or more (a second), or 0 for no limit; got 1KiB
x:11:11: bandwidth.schedule[0].from: must be a time of day such as 08:30, got "noon"
x:12:17: bandwidth.schedule[0].days[1]: must be one of sun, mon, tue, wed, thu, fri, sat; got "sin"
x:13:15: bandwidth.schedule[0].requests: must be a whole number, got "many"`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}
