package config

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/obs"
)

// Bounds of the limits on what goes to the store and comes from it.
const (
	maxStoreRequests = 100_000
	maxWindows       = 50
)

// Bandwidth bounds what all jobs together have the store do. 0 is no limit.
type Bandwidth struct {
	Up       Size `yaml:"up"`       // bytes a second to the store
	Down     Size `yaml:"down"`     // bytes a second from it
	Requests int  `yaml:"requests"` // a second
	// the first that the time is in counts; outside of all, what stands above
	Schedule []Window `yaml:"schedule"`
}

// Window is a part of the day with limits of its own, by the clock of the host's time zone. One
// that ends before it begins goes on past midnight, and belongs to the day on which it began.
type Window struct {
	From     string   `yaml:"from"` // 08:30
	To       string   `yaml:"to"`   // the same as From: a whole day
	Days     []string `yaml:"days"` // mon, tue, wed, thu, fri, sat, sun; nil is every day
	Up       *Size    `yaml:"up"`   // nil, as with the two below: as outside of all windows
	Down     *Size    `yaml:"down"`
	Requests *int     `yaml:"requests"`
}

// endOfDay is the midnight that a day ends with.
const endOfDay = "24:00"

func (w *Window) setDefaults() { w.From, w.To = "00:00", endOfDay }

// days by their number in package time.
var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (b Bandwidth) check(f *faults) {
	rate(f, "bandwidth.up", b.Up)
	rate(f, "bandwidth.down", b.Down)
	storeRequests(f, "bandwidth.requests", b.Requests)
	if n := len(b.Schedule); n > maxWindows {
		f.add("bandwidth.schedule", "must have %d windows at most, got %d", maxWindows, n)
	}
	for i, w := range b.Schedule {
		w.check(f, fmt.Sprintf("bandwidth.schedule[%d]", i))
	}
}

func (w Window) check(f *faults, path string) {
	if _, err := obs.ParseClock(w.From); err != nil {
		f.add(path+".from", "must be a time of day such as 08:30, got %s", quote(w.From))
	}
	if _, err := obs.ParseClock(w.To); err != nil && w.To != endOfDay {
		f.add(path+".to", "must be a time of day such as 20:00, 24:00 at most, got %s", quote(w.To))
	}
	if _, given := f.src.at[path+".days"]; given && len(w.Days) == 0 {
		f.add(path+".days", "must name at least one day; leave it out for every day")
	}
	for i, d := range w.Days {
		path := fmt.Sprintf("%s.days[%d]", path, i)
		oneOf(f, path, d, days...)
		if first := slices.Index(w.Days, d); first < i {
			f.add(path, "is days[%d] again", first)
		}
	}
	if w.Up != nil {
		rate(f, path+".up", *w.Up)
	}
	if w.Down != nil {
		rate(f, path+".down", *w.Down)
	}
	if w.Requests != nil {
		storeRequests(f, path+".requests", *w.Requests)
	}
}

func rate(f *faults, path string, s Size) {
	if s != 0 && s < obs.MinRate {
		f.add(path, "must be %v or more (a second), or 0 for no limit; got %v", Size(obs.MinRate), s)
	}
}

func storeRequests(f *faults, path string, n int) {
	if n < 0 || n > maxStoreRequests {
		f.add(path, "must be 0 (no limit) to %d, got %d", maxStoreRequests, n)
	}
}

// Plan is the schedule of the limiter of the store's traffic. b was checked by Parse.
func (b Bandwidth) Plan() obs.Schedule {
	s := obs.Schedule{Otherwise: obs.Limits{Up: int64(b.Up), Down: int64(b.Down), Requests: float64(b.Requests)}}
	for _, w := range b.Schedule {
		out := obs.Window{Limits: s.Otherwise}
		out.From, _ = obs.ParseClock(w.From)
		// the clock of 24:00 is the midnight with which the next day begins
		out.To, _ = obs.ParseClock(w.To)
		for _, d := range w.Days {
			out.Days = append(out.Days, time.Weekday(slices.Index(days, d)))
		}
		if w.Up != nil {
			out.Limits.Up = int64(*w.Up)
		}
		if w.Down != nil {
			out.Limits.Down = int64(*w.Down)
		}
		if w.Requests != nil {
			out.Limits.Requests = float64(*w.Requests)
		}
		s.Windows = append(s.Windows, out)
	}
	return s
}
