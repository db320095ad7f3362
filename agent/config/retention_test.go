package config_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/agent/config"
	"holdfast/internal/retention"
)

const day = 24 * time.Hour

// TestRetentionRules: the first rule that fits an instance counts, and an instance that no rule
// fits keeps all backups.
func TestRetentionRules(t *testing.T) {
	c, err := config.Parse([]byte(minimal+`
retention:
  run: elected
  every: 2d
  grace: 36h
  rules:
    - {tenant: operations, keep_all: true}
    - {tenant: "10*", instance: "phone-*", keep_daily: 7, keep_weekly: 4, keep_within: 2d}
    - {instance: "vm-?", keep_last: 3}
`), "x")
	if err != nil {
		t.Fatal(err)
	}
	r := c.Retention
	if r.Run != config.RetentionElected || r.Every != config.Span(2*day) || r.Grace != config.Span(36*time.Hour) || r.MaxShare != 50 {
		t.Errorf("%+v", r)
	}
	for of, want := range map[[2]string]retention.Policy{
		{"operations", "phone-1"}: {},
		{"1008", "phone-1"}:       {Daily: 7, Weekly: 4, Within: 2 * day},
		{"acme", "phone-1"}:       {},
		{"acme", "vm-2"}:          {Last: 3},
		{"1008", "vm-22"}:         {},
	} {
		if got := r.Policy(of[0], of[1]); got != want {
			t.Errorf("%v: %+v, want %+v", of, got, want)
		}
	}
}

// TestSparseIsAPercentage: a pack can't be needed by more than all of its bytes.
func TestSparseIsAPercentage(t *testing.T) {
	_, err := config.Parse([]byte(minimal+"retention: {sparse: 101}\n"), "test.yaml")
	if want := "retention.sparse: must be 0 to 100 (percent), got 101"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestRetentionFaults: each fault of the section is told with its place.
func TestRetentionFaults(t *testing.T) {
	for section, want := range map[string]string{
		"run: sometimes":              `retention.run: must be one of command, elected, here; got "sometimes"`,
		"every: 10m":                  "retention.every: must be 1h0m0s or more, got 10m0s",
		"every: soon":                 "retention.every: must be a span of time up to 100 years, such as 36h, 30d, 8w or 2y; got \"soon\"",
		"grace: 1h":                   "retention.grace: must be 1d or more, got 1h0m0s",
		"max_share: 101":              "retention.max_share: must be 0 to 100 (percent), got 101",
		"max_garbage: -1":             "retention.max_garbage: must be 0 to 100 (percent), got -1",
		"wait: 0s":                    "retention.wait: must be longer than 0s",
		"requests: -1":                "retention.requests: must be 0 (no limit) to 100000, got -1",
		"tenants: ['a b']":            "retention.tenants[0]: must be the id of a tenant",
		"rules: [{}]":                 "retention.rules[0]: must have at least one keep_ setting",
		"rules: [{keep_last: 0}]":     "retention.rules[0].keep_last: must be 1 to 100000, got 0",
		"rules: [{keep_daily: -7}]":   "retention.rules[0].keep_daily: must be 1 to 100000, got -7",
		"rules: [{keep_within: -7d}]": "retention.rules[0].keep_within: must be a number of days",
		"rules: [{keep_forever: 1}]":  "retention.rules[0].keep_forever: unknown key",

		"rules: [{keep_all: true, keep_last: 3}]":                        "retention.rules[0].keep_all: keeps all backups",
		"rules: [{instance: '[a', keep_last: 1}]":                        "retention.rules[0].instance: must be a name, in which * stands for any text",
		"rules: [{keep_last: 1}, {instance: a, keep_last: 1}]":           "retention.rules[1]: is never used: rules[0] fits every instance",
		"rules: [{tenant: a, keep_last: 1}, {tenant: a, keep_daily: 1}]": "retention.rules[1]: fits the same instances as rules[0]",
	} {
		_, err := config.Parse([]byte(minimal+"retention: {"+section+"}\n"), "x")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", section, err, want)
		}
	}
}
