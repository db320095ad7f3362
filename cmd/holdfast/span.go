package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// spanFlag is a flag for a span of time: 36h, 30d, 8w or 2y.
type spanFlag struct {
	span  time.Duration
	given bool
}

// Type implements pflag.Value.
func (s *spanFlag) Type() string { return "SPAN" }

// String implements pflag.Value.
func (s *spanFlag) String() string {
	const day = 24 * time.Hour
	switch {
	case !s.given && s.span == 0:
		return ""
	case s.span != 0 && s.span%day == 0:
		return fmt.Sprintf("%dd", s.span/day)
	}
	return s.span.String()
}

// Set implements pflag.Value.
func (s *spanFlag) Set(text string) error {
	d, err := parseSpan(text)
	if err != nil {
		return err
	}
	s.span, s.given = d, true
	return nil
}

// maxSpan keeps a span far from the greatest duration.
const maxSpan = 100 * 365 * 24 * time.Hour

// parseSpan reads a span of time: a number of days (d), weeks (w) or years of 365 days (y), or a
// duration as Go writes it (90m, 36h).
func parseSpan(text string) (time.Duration, error) {
	for unit, days := range map[string]int64{"d": 1, "w": 7, "y": 365} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil || n < 0 || n*days > int64(maxSpan/(24*time.Hour)) || n > int64(maxSpan/(24*time.Hour)) {
				return 0, fmt.Errorf("must be a number of days, weeks or years up to 100 years, such as 30d, 8w or 2y")
			}
			return time.Duration(n*days) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > maxSpan {
		return 0, fmt.Errorf("must be a span of time up to 100 years, such as 36h, 30d, 8w or 2y")
	}
	return d, nil
}
