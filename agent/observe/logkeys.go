package observe

// Keys of log lines.
const (
	KeyInstance = "instance"
	KeyJob      = "job"
	KeyTask     = "task"
	KeyState    = "state"
	KeyError    = "error"
	KeyReason   = "reason"
	KeyDuration = "duration_seconds"
	KeyBytes    = "bytes"
)
