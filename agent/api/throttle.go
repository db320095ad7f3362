package api

import (
	"bytes"
	"encoding/json"
	"strconv"

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
