package api

import "encoding/json"

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
