package obs

import (
	"fmt"
	"slices"
	"time"
)

// Window is a part of the day with limits of its own. A window that ends before it
// begins goes on past midnight, and belongs to the day on which it began. Times of day
// are the times that clocks show, also when the clocks are changed.
type Window struct {
	From, To time.Duration  // since midnight, below 24 h; equal ones are the whole day
	Days     []time.Weekday // nil is every day
	Limits   Limits
}

// Schedule says which limits hold when. The first window that a
// time is in counts; outside of all it is Otherwise.
type Schedule struct {
	Otherwise Limits
	Windows   []Window
}

// At returns the limits at a time, by the clock of its zone, and until when they hold
// at least: the next time at which a window begins or ends, a day later at most.
func (s Schedule) At(t time.Time) (limits Limits, until time.Time) {
	limits = s.Otherwise
	if w, ok := s.Holding(t); ok {
		limits = w.Limits
	}
	until = t.Add(24 * time.Hour)
	for _, w := range s.Windows {
		for _, at := range []time.Duration{w.From, w.To} {
			for _, day := range []int{0, 1} {
				if edge := clock(t, day, at); edge.After(t) && edge.Before(until) {
					until = edge
				}
			}
		}
	}
	return limits, until
}

// Holding returns the window that counts at a time; false outside of all.
func (s Schedule) Holding(t time.Time) (Window, bool) {
	for _, w := range s.Windows {
		if w.holds(t) {
			return w, true
		}
	}
	return Window{}, false
}

// Next returns when the limits next differ from the limits at t; false if they never change.
func (s Schedule) Next(t time.Time) (time.Time, bool) {
	now, at := s.At(t)
	for end := t.AddDate(0, 0, 8); at.Before(end); { // a week has all there is
		limits, until := s.At(at)
		if limits != now {
			return at, true
		}
		at = until
	}
	return time.Time{}, false
}

// holds tells whether t is in the window.
func (w Window) holds(t time.Time) bool {
	from, to := clock(t, 0, w.From), clock(t, 0, w.To)
	if w.From < w.To {
		return w.on(t.Weekday()) && !t.Before(from) && t.Before(to)
	}
	yesterday := (t.Weekday() + 6) % 7
	return w.on(t.Weekday()) && !t.Before(from) || w.on(yesterday) && t.Before(to)
}

func (w Window) on(d time.Weekday) bool { return w.Days == nil || slices.Contains(w.Days, d) }

// clock is the instant at which clocks show the time of day at, on the day of t or some days later.
func clock(t time.Time, days int, at time.Duration) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d+days, 0, int(at/time.Minute), int(at%time.Minute/time.Second), 0, t.Location())
}

// ParseClock reads a time of day, such as "08:30", as Window has it.
func ParseClock(text string) (time.Duration, error) {
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, fmt.Errorf("%w: time of day %q, want 08:30", ErrUsage, text)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}
