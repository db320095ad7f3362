package api

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"holdfast/agent/model"
)

// Keeper is the part of a Service about content that restores have replaced, and that is kept.
// job names the restore that has replaced it; "" is the only one of the instance.
type Keeper interface {
	// Kept lists the kept content, the oldest first.
	Kept(ctx context.Context, c model.Caller) ([]KeptContent, error)
	// PutBack accepts a task that exchanges the volumes of the instance with its kept content.
	// It is refused while the instance has a job; that the instance runs shows in the job.
	PutBack(ctx context.Context, c model.Caller, instanceID, job string) (TaskAnswer, error)
	// RemoveKept removes kept content. Trees that can't be removed yet are removed later.
	RemoveKept(ctx context.Context, c model.Caller, instanceID, job string) error
}

// KeptContent is the content that one restore has replaced of an instance, and that is kept. Times
// are UTC. The record of the content (model.Aside) counts by the journal's clock.
type KeptContent struct {
	InstanceID string    `json:"instance_id"`
	JobID      string    `json:"job_id"` // that has replaced it
	Since      time.Time `json:"since"`
	// Seconds is for how long it is kept, and Left until it is removed by itself. Only time in
	// which the host is up counts.
	Seconds float64   `json:"seconds"`
	Left    float64   `json:"seconds_left"`
	Files   uint64    `json:"files"`
	Bytes   uint64    `json:"bytes"`
	Newest  time.Time `json:"newest_mtime,omitzero"` // the latest time of modification
	AtLeast bool      `json:"at_least,omitempty"`    // the count stopped at a bound
	// KnownBackup is the backup from which this host knew the content to come; "": of none.
	KnownBackup string       `json:"known_backup,omitempty"`
	ReplacedBy  string       `json:"replaced_by,omitempty"` // a backup
	Volumes     []KeptVolume `json:"volumes"`
	Removing    bool         `json:"removing,omitempty"` // it is being removed
	// Adopted is when the agent found the content, of which its journal did not know; zero for
	// others. The time for which it is kept began then.
	Adopted time.Time `json:"adopted,omitzero"`
	// Partial says that a removal had begun, so that the content may not be
	// whole. It can't be put back.
	Partial bool   `json:"partial,omitempty"`
	Error   string `json:"error,omitempty"` // why it could not be removed or renamed yet
}

// KeptVolume is one volume of it.
type KeptVolume struct {
	Name string `json:"name"`
	Path string `json:"path"` // where it is kept
	From string `json:"from"` // where it was
}

type keptList struct {
	Kept []KeptContent `json:"kept"`
}

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
