package config

import "fmt"

// Notes lists the allowed settings that have a consequence which an
// operator should know before the first command, one sentence each.
func (c *Config) Notes() []string {
	notes := c.Report.notes()
	for i, in := range c.Instances {
		if e := in.Runtime.Exec; e != nil && len(e.State) == 0 && in.Release == ReleaseAgent && in.Hold != HoldLive {
			notes = append(notes, fmt.Sprintf("instances[%d] (%s): runtime.exec has no state command, so the agent can't tell whether the instance ran after its backup: "+
				"it stays held after each backup until release or resume is called for it; a state command that prints a generation lets the agent release it by itself", i, in.ID))
		}
	}
	return notes
}
