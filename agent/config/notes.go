package config

// Notes lists what is allowed and has a consequence that an operator should know before the first command, one sentence each.
func (c *Config) Notes() []string {
	var notes []string
	notes = append(notes, c.Report.notes()...)
	return notes
}
