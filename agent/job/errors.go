package job

import "errors"

// Errors by which a caller decides, beside the errors of agent/model.
var (
	// ErrDraining says that the agent takes no new commands.
	ErrDraining = errors.New("the agent is shutting down")
	// ErrEnded says that the job is over.
	ErrEnded = errors.New("the job has ended already")
	// ErrNoAnswer says that storage did not answer within the time of
	// a call on it, which may go on.
	ErrNoAnswer = errors.New("the storage does not answer")
)
