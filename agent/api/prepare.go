package api

import (
	"context"
	"encoding/json"
	"net/http"

	"holdfast/agent/model"
)

// Preparer is the part of a Service that brings instances back to this host.
type Preparer interface {
	// Prepare accepts one command to restore all of instanceIDs or none, by the
	// rules of Service.Backup. The statuses are of the moment: the same request,
	// sent again, gives the same task with the statuses of its own moment.
	Prepare(ctx context.Context, c model.Caller, requestID string, digest [32]byte, instanceIDs []string) (PrepareAnswer, error)
	// PrepareProgress tells how far an instance is from being ready.
	PrepareProgress(ctx context.Context, c model.Caller, instanceID string) (PrepareProgress, error)
	// Status tells for each of instanceIDs, in their order, one of the
	// Instance constants. An instance that the caller may not see refuses all.
	Status(ctx context.Context, c model.Caller, instanceIDs []string) ([]InstanceStatus, error)
}

// What prepare says of an instance, as far as this agent has it: the contract
// has more values (2 to be assigned, 3 backing up, 4 resetting, 5 restarting, 6
// offline, 7 replacing, 8 restoring from an expiry backup, 10 maintenance), of
// which the agent knows nothing, or which it refuses with a code of their own.
const (
	PrepareReady    = 0 // its volumes are in their places
	PrepareRestore  = 1 // to be restored: its job waits, or is at work
	PrepareAbnormal = 9 // the restore failed
)

// What prepare-progress says.
const (
	ProgressNormal = 0 // ready
	ProgressQueued = 1 // its job waits; waitingCount says behind how many others
	// being restored; or offline: its data is not on this host, and no job brings it
	ProgressRestoring = 2
	ProgressFailed    = -1 // the last restore failed
	ProgressBackup    = 3  // being backed up, or held with a backup
)

// What batch-query-status says. The contract's 3, streaming, is of instances
// that run before all of their data is there, which this agent has none of.
const (
	InstanceIdle      = 0 // its data is not on this host, or it was released from it
	InstanceRestoring = 1 // also while that waits for its turn
	InstanceLoaded    = 2 // its data is on this host
	InstanceBackup    = 4 // from the command to the release
	// the last backup failed, its report was refused, or the storage does not answer
	InstanceBackupAbnormal  = 5
	InstanceRestoreAbnormal = 6 // the last restore failed
)

// PrepareAnswer is the answer to an accepted prepare. StatusList stands beside the data, not in it.
type PrepareAnswer struct {
	TaskAnswer
	StatusList []InstanceStatus `json:"-"`
}

// InstanceStatus is the state of one instance, in the words of the call that asks for it.
type InstanceStatus struct {
	InstanceID string `json:"instance_id"`
	Status     int    `json:"status"`
}

// PrepareProgress is how far an instance is from being ready.
type PrepareProgress struct {
	Status       int `json:"status"`       // one of the Progress constants
	WaitingCount int `json:"waitingCount"` // jobs before it, where it is queued
}

// besides are the parts of an answer that the contract has beside its data.
type besides struct {
	StatusList    []InstanceStatus `json:"status_list,omitempty"`
	StatusResults []InstanceStatus `json:"status_results,omitempty"`
}

// split takes the parts that go beside the data from the result of a call.
func split(data any) (any, besides) {
	switch v := data.(type) {
	case PrepareAnswer:
		return v.TaskAnswer, besides{StatusList: v.StatusList}
	case statusResults:
		return nil, besides{StatusResults: v}
	}
	return data, besides{}
}

type statusResults []InstanceStatus

// command reads the body of a call on instances, and checks its user.
func (h *handler) command(q *request, decode func([]byte) (command, error)) (command, error) {
	body, err := readBody(q.w, q.r)
	if err != nil {
		return command{}, err
	}
	cmd, err := decode(body)
	if err != nil {
		return command{}, err
	}
	if cmd.userID != nil && q.caller.User != "" && *cmd.userID != q.caller.User {
		return command{}, Refuse(CodeParameter, "user_id: %s is not the user of the token", Quote(*cmd.userID))
	}
	q.seen.Instances = cmd.ids
	return cmd, nil
}

// prepare is POST /v1/instances/prepare. The verb is in the digest, so that a
// request id that was used for a backup of the same instances is not taken for it.
func (h *handler) prepare(q *request) (any, error) {
	cmd, err := h.command(q, decodeBatch)
	if err != nil {
		return nil, err
	}
	cmd.verb = "prepare"
	a, err := h.service.Prepare(q.r.Context(), q.caller, q.id, cmd.digest(), cmd.ids)
	if err != nil {
		return nil, err
	}
	a.Jobs = notNil(a.Jobs)
	q.seen.Task = a.TaskID
	return a, nil
}

// prepareProgress is POST /v1/instances/prepare-progress.
func (h *handler) prepareProgress(q *request) (any, error) {
	cmd, err := h.command(q, decodeOne)
	if err != nil {
		return nil, err
	}
	return h.service.PrepareProgress(q.r.Context(), q.caller, cmd.ids[0])
}

// queryStatus is POST /v1/instances/batch-query-status.
func (h *handler) queryStatus(q *request) (any, error) {
	cmd, err := h.command(q, decodeBatch)
	if err != nil {
		return nil, err
	}
	list, err := h.service.Status(q.r.Context(), q.caller, cmd.ids)
	if err != nil {
		return nil, err
	}
	return statusResults(list), nil
}

// decodeOne is decodeBackup for a call on one instance, which takes no list.
func decodeOne(body []byte) (command, error) {
	if err := eachField(body, func(key string, _ json.RawMessage) error {
		if key == "instance_ids" {
			return unknownField(key)
		}
		return nil
	}); err != nil {
		return command{}, err
	}
	c, err := decodeBatch(body)
	if err == nil {
		return c, nil
	}
	if e, ok := err.(*Error); ok && e.Msg == missingIDs { //nolint:errorlint // decodeBatch returns it bare
		return command{}, Refuse(CodeParameter, "instance_id: missing")
	}
	return command{}, err
}

// prepareRoutes bring instances back, and tell how they are.
var prepareRoutes = []route{
	{http.MethodPost, "/v1/instances/prepare", toCommand, (*handler).prepare},
	{http.MethodPost, "/v1/instances/prepare-progress", toSee, (*handler).prepareProgress},
	{http.MethodPost, "/v1/instances/batch-query-status", toSee, (*handler).queryStatus},
}
