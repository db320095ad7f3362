package service

import (
	"context"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// Throttle implements api.Throttler.
func (s *service) Throttle(context.Context, model.Caller) (api.Throttle, error) {
	return s.throttle.state(), nil
}

// SetThrottle implements api.Throttler.
func (s *service) SetThrottle(_ context.Context, _ model.Caller, set api.ThrottleSetting) (api.Throttle, error) {
	s.log.Info("an operator sets limits of what the store is asked for",
		"up", settingOf(set.Up), "down", settingOf(set.Down), "requests", settingOf(set.Requests))
	s.throttle.operator(set)
	return s.throttle.state(), nil
}

// settingOf is a value of a setting, for the log.
func settingOf(n *int64) any {
	if n == nil {
		return "as configured"
	}
	return *n
}
