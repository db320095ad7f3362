package api

import (
	"context"
	"net/http"
	"time"

	"holdfast/agent/model"
)

// request is one call under way.
type request struct {
	w        *response
	r        *http.Request
	caller   model.Caller
	id       string // x-request-id
	streamed bool   // do has written the answer itself
	seen     *Exchange
}

// response notes whether an answer has begun.
type response struct {
	http.ResponseWriter
	begun bool
}

func (w *response) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// note brings the known facts about the call into its Exchange.
func (q *request) note() {
	q.seen.Duration = time.Since(q.seen.Start)
	q.seen.RequestID, q.seen.Caller = q.id, q.caller
}

// taskID gives the task of the path. An impossible id counts as a missing task.
func (q *request) taskID() (string, error) {
	id := q.r.PathValue("task_id")
	if len(id) > maxTaskIDBytes {
		return "", UnknownTask(id)
	}
	q.seen.Task = id
	return id, nil
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

func (h *handler) onInstance(q *request, do func(context.Context, model.Caller, string) error) (any, error) {
	id := q.r.PathValue("instance_id")
	if !instancePattern.MatchString(id) {
		return nil, badID("instance_id", id)
	}
	if err := noBody(q.w, q.r); err != nil {
		return nil, err
	}
	q.seen.Instances = []string{id}
	return nil, do(q.r.Context(), q.caller, id)
}

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
