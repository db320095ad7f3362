package api

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/obs"
)

// Bounds of an operator's limits.
const (
	// MaxThrottleBytes a second is more than any link carries; it
	// keeps the value within the range that JSON readers hold exactly.
	MaxThrottleBytes = 1 << 40
	// MaxThrottleRequests a second is more than any store answers to one host.
	MaxThrottleRequests = 100_000
)

// Throttler is the part of a Service that bounds the traffic of the host's store.
type Throttler interface {
	// Throttle tells which limits hold now, and why.
	Throttle(ctx context.Context, c model.Caller) (Throttle, error)
	// SetThrottle replaces the operator's limits by s, for calls under way too, until the agent
	// ends. The configuration gives the limits that s leaves out. It returns the limits in force.
	SetThrottle(ctx context.Context, c model.Caller, s ThrottleSetting) (Throttle, error)
}

// Where a limit comes from.
const (
	FromOperator      = "operator"      // set by a call, until the agent ends
	FromSchedule      = "schedule"      // a window of the configuration's bandwidth.schedule
	FromConfiguration = "configuration" // bandwidth, outside of all windows
)

// Throttle is what bounds the calls to the host's store, over all its jobs.
type Throttle struct {
	Up         Limit     `json:"up"`       // bytes a second
	Down       Limit     `json:"down"`     // bytes a second
	Requests   Limit     `json:"requests"` // a second
	NextChange time.Time `json:"next_change,omitzero"`
	// Requests under way, requests that wait for one of them to end, and how many
	// may be under way: as many as the agent found out that the store bears.
	InFlight int `json:"in_flight"`
	Waiting  int `json:"waiting"`
	Level    int `json:"level"`
}

// Limit is one limit and where it comes from.
type Limit struct {
	Limit int64  `json:"limit"` // 0 is none
	From  string `json:"from"`  // one of the From constants
}

// InForce tells whether anything is limited.
func (t Throttle) InForce() bool {
	return t.Up.Limit != 0 || t.Down.Limit != 0 || t.Requests.Limit != 0
}

// ThrottleSetting is an operator's setting: 0 is no limit, nil the limit of the configuration.
type ThrottleSetting struct {
	// bytes a second, 0 or obs.MinRate to MaxThrottleBytes
	Up       *int64 `json:"up,omitempty"`
	Down     *int64 `json:"down,omitempty"`     // the same
	Requests *int64 `json:"requests,omitempty"` // a second, 0 to MaxThrottleRequests
}

func (h *handler) throttle(q *request) (any, error) {
	return h.service.Throttle(q.r.Context(), q.caller)
}

func (h *handler) setThrottle(q *request) (any, error) {
	body, err := readBody(q.w, q.r)
	if err != nil {
		return nil, err
	}
	s, err := decodeThrottle(body)
	if err != nil {
		return nil, err
	}
	return h.service.SetThrottle(q.r.Context(), q.caller, s)
}

// decodeThrottle reads {"up": BYTES, "down": BYTES, "requests": N},
// of which all may be missing; {} takes the operator's limits back.
func decodeThrottle(body []byte) (s ThrottleSetting, err error) {
	err = eachField(body, func(key string, raw json.RawMessage) error {
		least, most := int64(obs.MinRate), int64(MaxThrottleBytes)
		var into **int64
		switch key {
		case "up":
			into = &s.Up
		case "down":
			into = &s.Down
		case "requests":
			into, least, most = &s.Requests, 1, MaxThrottleRequests
		default:
			return unknownField(key)
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
		if err != nil || n != 0 && (n < least || n > most) {
			return Refuse(CodeParameter, "%s: must be 0 for no limit or a whole number from %d to %d, got %s", key, least, most, Quote(string(raw)))
		}
		*into = &n
		return nil
	})
	return s, err
}
