package config

import (
	"maps"
	"net/url"
	"slices"
	"time"
)

// Bounds of requests to the services that the agent calls.
const (
	// minReportTimeout is the time of a receiver across a continent, and
	// maxReportTimeout is far above the time of a receiver that keeps
	// each report in several places: an instance stands still meanwhile.
	minReportTimeout = time.Second
	maxReportTimeout = 10 * time.Minute
	maxReportBatch   = 1000
	minProgress      = time.Second
	maxLookups       = 10_000
)

func (r *Report) check(f *faults) {
	u, err := url.Parse(r.URL)
	switch {
	case r.URL == "":
		f.add("report.url", "is required: a job ends when its report is acknowledged")
	case err != nil || u.Host == "":
		f.add("report.url", "must be a URL such as https://control.example.com/v1/reports, got %s", quote(redact(r.URL)))
	case u.User != nil:
		f.add("report.url", "must not hold credentials; use report.token_file")
	case u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		f.add("report.url", "must be https (http to a loopback address only), got %s", quote(r.URL))
	}
	absolute(f, "report.ca_file", &r.CAFile, false)
	secret(f, "report.token_file", &r.TokenFile, false)
	oneOf(f, "report.acknowledge", r.Acknowledge, AcknowledgeControlPlane, AcknowledgeAny2xx)
	if r.Timeout < minReportTimeout || r.Timeout > maxReportTimeout {
		f.add("report.timeout", "must be %v to %v, got %v", minReportTimeout, maxReportTimeout, r.Timeout)
	}
	if r.Progress != 0 && r.Progress < minProgress {
		f.add("report.progress", "must be 0 for none or %v or more, got %v", minProgress, r.Progress)
	}
	if r.Batch < 1 || r.Batch > maxReportBatch {
		f.add("report.batch", "must be 1 to %d, got %d", maxReportBatch, r.Batch)
	}
}

// notes say which answers acknowledge, and so which answers the receiver has to give.
func (r *Report) notes() []string {
	if r.Acknowledge == AcknowledgeAny2xx {
		return []string{"report.acknowledge is any-2xx: whoever answers at report.url with a status from 200 to 299 acknowledges a report, " +
			"and so releases an instance; a welcome page does"}
	}
	return []string{`report.acknowledge is control-plane: a report is acknowledged by status 204, or by 200 with {"error_code":"0"} or with a header ` +
		"that has the event's id as its value; a receiver that answers 200 or 202 without a body needs any-2xx"}
}

func checkIAM(f *faults, i *IAM) {
	absolute(f, "iam.ca_file", &i.CAFile, false)
	secret(f, "iam.account_file", &i.AccountFile, false)
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		checkIAMRole(f, "iam.roles."+name, i.Roles[name])
	}
	if i.Lookups < 1 || i.Lookups > maxLookups {
		f.add("iam.lookups", "must be 1 to %d, got %d", maxLookups, i.Lookups)
	}
	u, err := url.Parse(i.URL)
	switch {
	case i.URL == "":
		if i.CAFile != "" || i.AccountFile != "" || len(i.Roles) > 0 {
			f.add("iam.url", "is required with the other settings of iam")
		}
	case err != nil || u.Host == "":
		f.add("iam.url", "must be a URL such as https://iam.example.com/v3, got %s", quote(redact(i.URL)))
	case u.User != nil:
		f.add("iam.url", "must not hold credentials; use iam.account_file")
	case u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		f.add("iam.url", "must be https (http to a loopback address only), got %s", quote(i.URL))
	}
}
