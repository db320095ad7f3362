package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"holdfast/agent/model"
)

// WaysOut is the part of a Service by which an operator
// leads an instance out of a state that nothing else ends.
type WaysOut interface {
	// PrepareFrom is Prepare for an operator, and restores the backup of that id instead
	// of the newest; "" is the newest. With an id the command is for one instance.
	PrepareFrom(ctx context.Context, c model.Caller, requestID string, digest [32]byte, instanceIDs []string, backupID string) (PrepareAnswer, error)
	// Loss tells which backups of the instance this host knows and the store lacks.
	Loss(ctx context.Context, c model.Caller, instanceID string) (Loss, error)
	// AcceptLoss accepts a loss that Loss told of, so that the newest backup in the store
	// counts from now on. It is refused where the loss is another than the confirmed one.
	AcceptLoss(ctx context.Context, c model.Caller, instanceID string, confirmed LossConfirmed) (Loss, error)
	// Abandon gives up the unfinished job of that id, and leaves the instance as it is. It is
	// refused where the job has another way out, or is not the job of the instance.
	Abandon(ctx context.Context, c model.Caller, instanceID, jobID string) (Abandoned, error)
}

// Loss lists the backups of an instance that this host knows and the store does not have.
type Loss struct {
	InstanceID string        `json:"instance_id"`
	Lost       []KnownBackup `json:"lost"`
	// Newest is the newest backup that the store has; nil: the store has no backup of the instance.
	Newest *KnownBackup `json:"newest,omitempty"`
	// Accepted says that the loss is accepted already, or now.
	Accepted bool `json:"accepted"`
	// AcceptedBy and AcceptedAt (UTC) tell who accepted the loss and when.
	AcceptedBy string    `json:"accepted_by,omitempty"`
	AcceptedAt time.Time `json:"accepted_at,omitzero"`
}

// KnownBackup names a backup of an instance.
type KnownBackup struct {
	BackupID string    `json:"backup_id"`
	Sequence uint64    `json:"sequence"`
	Created  time.Time `json:"created,omitzero"` // UTC
}

// LossConfirmed repeats the loss that was shown, so that nothing else is accepted.
type LossConfirmed struct {
	Lost     []string `json:"lost"`      // ids
	BackupID string   `json:"backup_id"` // of the newest; "" where the store has none
}

// Abandoned is the end of a job that was given up.
type Abandoned struct {
	JobID string `json:"job_id"`
	// Ended says that the job is over; else the job ends when the act under way comes back.
	Ended bool `json:"ended"`
	// Message says in what state the instance is left.
	Message string `json:"message"`
}

// wayOutRoutes are operators' alone.
var wayOutRoutes = []route{
	{http.MethodPost, "/v1/agent/prepare", toOperate, (*handler).prepareFrom},
	{http.MethodGet, "/v1/agent/instances/{instance_id}/loss", toOperate, (*handler).loss},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/accept-loss", toOperate, (*handler).acceptLoss},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/abandon", toOperate, (*handler).abandon},
	{http.MethodGet, "/v1/agent/claims", toOperate, (*handler).claims},
	{http.MethodPost, "/v1/agent/instances/{instance_id}/take-over-claim", toOperate, (*handler).takeOverClaim},
}

// backupPattern is the form of the ids of backups and jobs, as far as a caller may send them.
var backupPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

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

func decodeID(key string, raw json.RawMessage, id *string) error {
	if !text(raw, id) || !backupPattern.MatchString(*id) {
		return Refuse(CodeParameter, "%s: must be an id, got %s", key, Quote(string(raw)))
	}
	return nil
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

// instanceID gives the instance of the path.
func (q *request) instanceID() (string, error) {
	id := q.r.PathValue("instance_id")
	if !instancePattern.MatchString(id) {
		return "", badID("instance_id", id)
	}
	q.seen.Instances = []string{id}
	return id, nil
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
