package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

// MaxReason bounds the reason of a takeover, bytes. It is the bound of the vault's claims.
const MaxReason = 1024

// claims takes ?instance=ID.
func (h *handler) claims(q *request) (any, error) {
	id := ""
	for key, values := range q.r.URL.Query() {
		if key != "instance" || len(values) != 1 || !instancePattern.MatchString(values[0]) {
			return nil, Refuse(CodeParameter, "%s: must be instance=ID, once", Quote(key))
		}
		id = values[0]
	}
	list, err := h.service.Claims(q.r.Context(), q.caller, id)
	return claimList{notNil(list)}, err
}

func (h *handler) takeOverClaim(q *request) (any, error) {
	id, err := q.instanceID()
	if err != nil {
		return nil, err
	}
	body, err := readBody(q.w, q.r)
	if err != nil {
		return nil, err
	}
	reason, force := "", false
	if err := eachField(body, func(key string, raw json.RawMessage) error {
		switch key {
		case "reason":
			if !text(raw, &reason) || reason == "" || len(reason) > MaxReason {
				return Refuse(CodeParameter, "reason: must be a text of 1 to %d bytes, got %s", MaxReason, Quote(string(raw)))
			}
			return nil
		case "force":
			if force = string(raw) == "true"; !force && string(raw) != "false" {
				return Refuse(CodeParameter, "force: must be true or false, got %s", Quote(string(raw)))
			}
			return nil
		}
		return unknownField(key)
	}); err != nil {
		return nil, err
	}
	if reason == "" {
		return nil, Refuse(CodeParameter, "reason: missing")
	}
	taken, err := h.service.TakeOverClaim(q.r.Context(), q.caller, id, reason, force)
	return claimList{notNil(taken)}, err
}

// Claims lists the claims on an instance, or on all instances of the host of the agent with "".
func (c *Client) Claims(ctx context.Context, instanceID string) ([]ClaimInfo, error) {
	path := "/v1/agent/claims"
	if instanceID != "" {
		path += "?" + url.Values{"instance": {instanceID}}.Encode()
	}
	var v claimList
	err := c.call(ctx, http.MethodGet, path, "", nil, &v)
	return v.Claims, err
}

// TakeOverClaim gives the host of the agent the claim on an instance; see Claims.
func (c *Client) TakeOverClaim(ctx context.Context, instanceID, reason string, force bool) ([]ClaimInfo, error) {
	body := struct {
		Reason string `json:"reason"`
		Force  bool   `json:"force,omitempty"`
	}{reason, force}
	var v claimList
	err := c.call(ctx, http.MethodPost, "/v1/agent/instances/"+url.PathEscape(instanceID)+"/take-over-claim", "", body, &v)
	return v.Claims, err
}
