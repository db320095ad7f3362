package main

import (
	"time"

	"holdfast/internal/retention"
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
	if !s.given && s.span == 0 {
		return ""
	}
	return retention.FormatSpan(s.span)
}

// Set implements pflag.Value.
func (s *spanFlag) Set(text string) error {
	d, err := retention.ParseSpan(text)
	if err != nil {
		return err
	}
	s.span, s.given = d, true
	return nil
}
