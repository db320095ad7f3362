package api

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
)

// jobPattern is the form of a job's id.
var jobPattern = regexp.MustCompile(`^[0-9a-z-]{1,64}$`)

func (h *handler) kept(q *request) (any, error) {
	list, err := h.service.Kept(q.r.Context(), q.caller)
	return keptList{notNil(list)}, err
}

func (h *handler) putBack(q *request) (any, error) {
	id, job, err := q.keptOf()
	if err != nil {
		return nil, err
	}
	a, err := h.service.PutBack(q.r.Context(), q.caller, id, job)
	if err != nil {
		return nil, err
	}
	q.seen.Task = a.TaskID
	return a, nil
}

func (h *handler) removeKept(q *request) (any, error) {
	id, job, err := q.keptOf()
	if err != nil {
		return nil, err
	}
	return nil, h.service.RemoveKept(q.r.Context(), q.caller, id, job)
}

// keptOf reads whose content is meant, and of which job: ?job=ID may name that.
func (q *request) keptOf() (id, job string, err error) {
	id = q.r.PathValue("instance_id")
	if !instancePattern.MatchString(id) {
		return "", "", badID("instance_id", id)
	}
	for key, values := range q.r.URL.Query() {
		if key != "job" || len(values) != 1 || !jobPattern.MatchString(values[0]) {
			return "", "", Refuse(CodeParameter, "%s: must be job=ID, once", Quote(key))
		}
		job = values[0]
	}
	if err := noBody(q.w, q.r); err != nil {
		return "", "", err
	}
	q.seen.Instances = []string{id}
	return id, job, nil
}

// Kept lists the kept content; see Keeper.
func (c *Client) Kept(ctx context.Context) ([]KeptContent, error) {
	var v keptList
	err := c.call(ctx, http.MethodGet, "/v1/agent/kept", "", nil, &v)
	return v.Kept, err
}

// PutBack has the volumes of an instance exchanged with its kept content.
func (c *Client) PutBack(ctx context.Context, instanceID, job string) (TaskAnswer, error) {
	var v TaskAnswer
	err := c.call(ctx, http.MethodPost, keptPath(instanceID, "put-back", job), "", nil, &v)
	return v, err
}

// RemoveKept has the kept content of an instance removed.
func (c *Client) RemoveKept(ctx context.Context, instanceID, job string) error {
	return c.call(ctx, http.MethodPost, keptPath(instanceID, "remove", job), "", nil, nil)
}

func keptPath(instanceID, verb, job string) string {
	path := "/v1/agent/instances/" + url.PathEscape(instanceID) + "/kept/" + verb
	if job != "" {
		path += "?" + url.Values{"job": {job}}.Encode()
	}
	return path
}
