package api

import "strings"

// backup is POST /v1/instances/backup.
func (h *handler) backup(q *request) (any, error) {
	cmd, err := h.command(q, decodeBackup)
	if err != nil {
		return nil, err
	}
	a, err := h.service.Backup(q.r.Context(), q.caller, q.id, cmd.digest(), cmd.ids, cmd.deadline)
	a.Jobs = notNil(a.Jobs)
	q.seen.Task = a.TaskID
	return a, err
}

// task is GET /v1/instances/tasks/{task_id}.
func (h *handler) task(q *request) (any, error) {
	id, err := q.taskID()
	if err != nil {
		return nil, err
	}
	st, err := h.service.Task(q.r.Context(), q.caller, id)
	if err != nil {
		return nil, err
	}
	jobs := make([]JobStatus, len(st.Jobs)) // never null in JSON, and not the Service's own slice
	for i, j := range st.Jobs {
		j.ExecuteMsg = cut(strings.ToValidUTF8(j.ExecuteMsg, "?"), MaxExecuteMsgBytes)
		jobs[i] = j
	}
	return TaskStatus{Jobs: jobs}, nil
}
