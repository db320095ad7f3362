package api

import (
	"context"
	"net/http"
	"net/url"

	"holdfast/agent/model"
)

// maxBackupID bounds the id of a backup in a request, bytes.
const maxBackupID = 128

// acceptFork takes ?backup=ID and ?again=true.
func (h *handler) acceptFork(q *request) (any, error) {
	backup, again := "", false
	for key, values := range q.r.URL.Query() {
		switch {
		case key == "again" && len(values) == 1 && values[0] == "true":
			again = true
			continue
		case key == "again":
			return nil, Refuse(CodeParameter, "again: must be given once, and be true")
		case key != "backup":
			return nil, Refuse(CodeParameter, "%s: unknown query parameter", Quote(key))
		case len(values) != 1 || values[0] == "" || len(values[0]) > maxBackupID:
			return nil, Refuse(CodeParameter, "backup: must be given once, with the id of a backup")
		}
		backup = values[0]
	}
	return h.onInstance(q, func(ctx context.Context, c model.Caller, id string) error {
		return h.service.AcceptFork(ctx, c, id, backup, again)
	})
}

// AcceptFork decides that a backup is the newest one of a forked instance; "" is the last that the
// host of the agent made. again decides a fork that is decided.
func (c *Client) AcceptFork(ctx context.Context, instanceID, backup string, again bool) error {
	path := "/v1/agent/instances/" + url.PathEscape(instanceID) + "/accept-fork"
	query := url.Values{}
	if backup != "" {
		query.Set("backup", backup)
	}
	if again {
		query.Set("again", "true")
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.call(ctx, http.MethodPost, path, "", nil, nil)
}
