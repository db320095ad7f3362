package config

// Notes are what is no fault and yet of use to whoever checks a configuration: what a setting asks of others, or what it gives up.
func (c *Config) Notes() []string {
	if c.Report.Acknowledge == AcknowledgeAny2xx {
		return []string{"report.acknowledge is any-2xx: whoever answers at report.url with a status from 200 to 299 acknowledges a report, " +
			"and so releases an instance; a welcome page does"}
	}
	return []string{`report.acknowledge is control-plane: a report is acknowledged by status 204, or by 200 with {"error_code":"0"} or with a header ` +
		"that has the event's id as its value; a receiver that answers 200 or 202 without a body needs any-2xx"}
}
