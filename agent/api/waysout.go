package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

// decodePrepareFrom is decodeBatch, and takes the id of a backup of one instance too.
func decodePrepareFrom(body []byte) (command, error) {
	backup, rest := "", map[string]json.RawMessage{}
	if err := eachField(body, func(key string, raw json.RawMessage) error {
		if key != "backup_id" {
			rest[key] = raw
			return nil
		}
		return decodeID(key, raw, &backup)
	}); err != nil {
		return command{}, err
	}
	if backup != "" {
		var err error
		if body, err = json.Marshal(rest); err != nil {
			return command{}, err
		}
	}
	c, err := decodeBatch(body)
	if err == nil && backup != "" && len(c.ids) != 1 {
		err = Refuse(CodeParameter, "backup_id: is of one instance, and the command names %d", len(c.ids))
	}
	c.backup = backup
	return c, err
}

// prepareFrom is POST /v1/agent/prepare.
func (h *handler) prepareFrom(q *request) (any, error) {
	cmd, err := h.command(q, decodePrepareFrom)
	if err != nil {
		return nil, err
	}
	cmd.verb = "prepare"
	a, err := h.service.PrepareFrom(q.r.Context(), q.caller, q.id, cmd.digest(), cmd.ids, cmd.backup)
	if err != nil {
		return nil, err
	}
	a.Jobs = notNil(a.Jobs)
	q.seen.Task = a.TaskID
	return a, nil
}

func (h *handler) loss(q *request) (any, error) {
	id, err := q.instanceID()
	if err != nil {
		return nil, err
	}
	l, err := h.service.Loss(q.r.Context(), q.caller, id)
	l.Lost = notNil(l.Lost)
	return l, err
}

func (h *handler) acceptLoss(q *request) (any, error) {
	id, err := q.instanceID()
	if err != nil {
		return nil, err
	}
	body, err := readBody(q.w, q.r)
	if err != nil {
		return nil, err
	}
	var confirmed LossConfirmed
	lost := false
	if err := eachField(body, func(key string, raw json.RawMessage) error {
		switch key {
		case "backup_id":
			if string(raw) == `""` {
				return nil
			}
			return decodeID(key, raw, &confirmed.BackupID)
		case "lost":
			lost = true
			var items []json.RawMessage
			if raw[0] != '[' || json.Unmarshal(raw, &items) != nil || len(items) == 0 || len(items) > maxLost {
				return Refuse(CodeParameter, "lost: must be an array of 1 to %d ids, got %s", maxLost, Quote(string(raw)))
			}
			for _, item := range items {
				var one string
				if err := decodeID(key, item, &one); err != nil {
					return err
				}
				confirmed.Lost = append(confirmed.Lost, one)
			}
			return nil
		}
		return unknownField(key)
	}); err != nil {
		return nil, err
	}
	if !lost {
		return nil, Refuse(CodeParameter, "lost: missing")
	}
	l, err := h.service.AcceptLoss(q.r.Context(), q.caller, id, confirmed)
	l.Lost = notNil(l.Lost)
	return l, err
}

// maxLost is above the number of backups of one instance that a host knows by itself.
const maxLost = 16

func (h *handler) abandon(q *request) (any, error) {
	id, err := q.instanceID()
	if err != nil {
		return nil, err
	}
	body, err := readBody(q.w, q.r)
	if err != nil {
		return nil, err
	}
	job := ""
	if err := eachField(body, func(key string, raw json.RawMessage) error {
		if key != "job_id" {
			return unknownField(key)
		}
		return decodeID(key, raw, &job)
	}); err != nil {
		return nil, err
	}
	if job == "" {
		return nil, Refuse(CodeParameter, "job_id: missing")
	}
	return h.service.Abandon(q.r.Context(), q.caller, id, job)
}

// Prepare commands a restore of instances: of the backup of that id, or of the
// newest for "". The same request id gives the same task; "" makes a new one.
func (c *Client) Prepare(ctx context.Context, requestID string, instanceIDs []string, backupID string) (TaskAnswer, error) {
	body := struct {
		IDs    []string `json:"instance_ids"`
		Backup string   `json:"backup_id,omitempty"`
	}{instanceIDs, backupID}
	var v TaskAnswer
	err := c.call(ctx, http.MethodPost, "/v1/agent/prepare", requestID, body, &v)
	return v, err
}

// Loss tells which backups of an instance the host knows and the store lacks.
func (c *Client) Loss(ctx context.Context, instanceID string) (Loss, error) {
	var v Loss
	err := c.call(ctx, http.MethodGet, "/v1/agent/instances/"+url.PathEscape(instanceID)+"/loss", "", nil, &v)
	return v, err
}

// AcceptLoss accepts the loss that was shown.
func (c *Client) AcceptLoss(ctx context.Context, instanceID string, confirmed LossConfirmed) (Loss, error) {
	var v Loss
	err := c.call(ctx, http.MethodPost, "/v1/agent/instances/"+url.PathEscape(instanceID)+"/accept-loss", "", confirmed, &v)
	return v, err
}

// Abandon gives up the unfinished job of an instance.
func (c *Client) Abandon(ctx context.Context, instanceID, jobID string) (Abandoned, error) {
	var v Abandoned
	body := map[string]string{"job_id": jobID}
	err := c.call(ctx, http.MethodPost, "/v1/agent/instances/"+url.PathEscape(instanceID)+"/abandon", "", body, &v)
	return v, err
}
