package agent

// ShowAtOnce has troubles shown at once that are shown after some time only.
func (a *Agent) ShowAtOnce() { a.hasty.Store(true) }
