package service

import (
	"context"

	"holdfast/agent/api"
)

// Throttle implements api.Throttler.
func (s *service) Throttle(context.Context, api.Caller) (api.Throttle, error) {
	return s.throttle.state(), nil
}

// SetThrottle implements api.Throttler.
func (s *service) SetThrottle(_ context.Context, _ api.Caller, set api.ThrottleSetting) (api.Throttle, error) {
	s.log.Info("an operator sets limits of what the store is asked for",
		"up", said(set.Up), "down", said(set.Down), "requests", said(set.Requests))
	s.throttle.operator(set)
	return s.throttle.state(), nil
}

// said is a value of a setting, for the log.
func said(n *int64) any {
	if n == nil {
		return "as configured"
	}
	return *n
}
