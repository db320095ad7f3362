package agent

// ShowAtOnce has troubles shown at once that are shown after some time only.
func (a *Agent) ShowAtOnce() { a.hasty.Store(true) }

// TroubleNames are the names of all states in which a human must act.
func TroubleNames() []string { return troubleNames() }
