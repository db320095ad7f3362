package obs_test

import (
	"errors"
	"testing"
	"time"
	_ "time/tzdata" // zones, wherever the tests run

	"holdfast/internal/obs"
)

func TestSchedule(t *testing.T) {
	at := func(text string) time.Duration {
		d, err := obs.ParseClock(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	// 10 by day; 100 in the nights that begin on a working day; 5 at lunch on every day; else 50.
	working := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	s := obs.Schedule{Otherwise: obs.Limits{Up: 50}, Windows: []obs.Window{
		{From: at("12:00"), To: at("13:00"), Limits: obs.Limits{Up: 5}},
		{From: at("08:00"), To: at("20:00"), Days: working, Limits: obs.Limits{Up: 10}},
		{From: at("22:00"), To: at("06:30"), Days: working, Limits: obs.Limits{Up: 100}},
	}}
	for _, c := range []struct {
		when, until string // 2026-11-23 is a Monday
		up          int64
	}{
		{"2026-11-23 00:00:00", "2026-11-23 06:30:00", 50}, // the night began on Sunday
		{"2026-11-23 07:59:59", "2026-11-23 08:00:00", 50},
		{"2026-11-23 08:00:00", "2026-11-23 12:00:00", 10},
		{"2026-11-23 12:30:00", "2026-11-23 13:00:00", 5},
		{"2026-11-23 19:59:59", "2026-11-23 20:00:00", 10},
		{"2026-11-23 20:00:00", "2026-11-23 22:00:00", 50},
		{"2026-11-23 22:00:00", "2026-11-24 06:30:00", 100},
		{"2026-11-24 06:29:59", "2026-11-24 06:30:00", 100},
		{"2026-11-24 06:30:00", "2026-11-24 08:00:00", 50},
		{"2026-11-28 03:00:00", "2026-11-28 06:30:00", 100}, // Friday's night
		{"2026-11-28 10:00:00", "2026-11-28 12:00:00", 50},
		{"2026-11-28 23:00:00", "2026-11-29 06:30:00", 50},
		{"2026-03-29 01:30:00", "2026-03-29 06:30:00", 50}, // clocks go from 2 to 3 that night
		{"2026-10-26 07:00:00", "2026-10-26 08:00:00", 50},
	} {
		when, err := time.ParseInLocation(time.DateTime, c.when, berlin)
		if err != nil {
			t.Fatal(err)
		}
		limits, until := s.At(when)
		if got := until.Format(time.DateTime); limits.Up != c.up || got != c.until {
			t.Errorf("%s: %d until %s, want %d until %s", c.when, limits.Up, got, c.up, c.until)
		}
	}
	for when, want := range map[string]string{
		"2026-11-23 07:00:00": "2026-11-23 08:00:00",
		"2026-11-28 06:30:00": "2026-11-28 12:00:00", // the days of work have ended
		// past edges of windows that do not hold on that day
		"2026-11-28 13:00:00": "2026-11-29 12:00:00",
		"2026-11-29 13:00:00": "2026-11-30 08:00:00",
	} {
		at, err := time.ParseInLocation(time.DateTime, when, berlin)
		if err != nil {
			t.Fatal(err)
		}
		if next, ok := s.Next(at); !ok || next.Format(time.DateTime) != want {
			t.Errorf("after %s the next change is at %s (%v), want %s", when, next.Format(time.DateTime), ok, want)
		}
	}
	weekly := obs.Schedule{Windows: []obs.Window{{To: time.Hour, Days: []time.Weekday{time.Monday}, Limits: obs.Limits{Up: 1}}}}
	if next, ok := weekly.Next(time.Date(2026, 11, 23, 1, 0, 0, 0, berlin)); !ok || next.Format(time.DateTime) != "2026-11-30 00:00:00" {
		t.Errorf("a week later: %s, %v", next, ok)
	}
	always := obs.Schedule{Otherwise: obs.Limits{Up: 1}, Windows: []obs.Window{{To: time.Hour, Limits: obs.Limits{Up: 1}}}}
	if next, ok := always.Next(time.Unix(0, 0)); ok {
		t.Errorf("limits that never change do so at %s", next)
	}
	whole := obs.Schedule{Windows: []obs.Window{{Days: []time.Weekday{time.Sunday}, Limits: obs.Limits{Up: 1}}}}
	for day, up := range map[int]int64{28: 0, 29: 1, 30: 0} {
		for _, hour := range []int{0, 12, 23} {
			if limits, _ := whole.At(time.Date(2026, 11, day, hour, 0, 0, 0, berlin)); limits.Up != up {
				t.Errorf("day %d, %d h: %d, want %d", day, hour, limits.Up, up)
			}
		}
	}
	none := obs.Schedule{Otherwise: obs.Limits{Down: 3}}
	if limits, until := none.At(time.Unix(0, 0)); limits.Down != 3 || until.Sub(time.Unix(0, 0)) != 24*time.Hour {
		t.Errorf("no windows: %+v until %v", limits, until)
	}
	for _, text := range []string{"", "8", "24:00", "08:60", "8:30:00", "-1:00"} {
		if _, err := obs.ParseClock(text); !errors.Is(err, obs.ErrUsage) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
