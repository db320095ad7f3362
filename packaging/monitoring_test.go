package packaging_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

var metricName = regexp.MustCompile(`\bholdfast_[a-z_]+\b`)

// TestMonitoringNamesRealMetrics holds the alert rules and the dashboard to the page that the agent serves.
func TestMonitoringNamesRealMetrics(t *testing.T) {
	page, err := os.ReadFile("../agent/metrics/testdata/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, name := range metricName.FindAllString(string(page), -1) {
		served[name] = true
	}
	for _, file := range []string{"monitoring/holdfast.rules.yml", "monitoring/dashboard.json"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(content) {
			t.Errorf("%s is no JSON", file)
		}
		for _, name := range metricName.FindAllString(string(content), -1) {
			if !served[name] {
				t.Errorf("%s names %s, which the agent does not serve", file, name)
			}
		}
	}
}
