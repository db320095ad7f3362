package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Claims is the part of a Service about the claims by which hosts say that they have instances.
type Claims interface {
	// Claims lists the claims on an instance, or on all instances
	// of this host with "", in the order of the instances.
	Claims(ctx context.Context, c Caller, instanceID string) ([]ClaimInfo, error)
	// TakeOverClaim gives this host the claim on an instance, and returns the claims of other hosts
	// that it took. It is refused where no other host has a claim, and, without force, where
	// the other host gave a sign of life lately. reason is for people.
	TakeOverClaim(ctx context.Context, c Caller, instanceID, reason string, force bool) ([]ClaimInfo, error)
}

// ClaimInfo is a claim on an instance.
type ClaimInfo struct {
	InstanceID string `json:"instance_id"`
	Host       string `json:"host"`
	ThisHost   bool   `json:"this_host"`
	JobID      string `json:"job_id"`
	BackupID   string `json:"backup_id,omitempty"` // that the host prepared
	// Since is by the clock of that host, and Renewed, the last sign of life, by the clock of the
	// store. SilentSeconds compares Renewed with the clock of this host; never below 0.
	Since         time.Time `json:"since"`
	Renewed       time.Time `json:"renewed"`
	SilentSeconds float64   `json:"silent_seconds"`
	// Took counts the claims of other hosts that it took over, and Reason says why.
	Took   int    `json:"took,omitempty"`
	Reason string `json:"reason,omitempty"`
}

type claimList struct {
	Claims []ClaimInfo `json:"claims"`
}

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
