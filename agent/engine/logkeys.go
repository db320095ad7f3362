package engine

import "holdfast/agent/observe"

// Keys of log lines.
const (
	keyInstance = observe.KeyInstance
	keyJob      = observe.KeyJob
	keyError    = observe.KeyError
	keyReason   = observe.KeyReason
)
