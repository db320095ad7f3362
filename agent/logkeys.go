package agent

import "holdfast/agent/observe"

// Keys of log lines.
const (
	keyInstance = observe.KeyInstance
	keyJob      = observe.KeyJob
	keyState    = observe.KeyState
	keyError    = observe.KeyError
	keyReason   = observe.KeyReason
)
