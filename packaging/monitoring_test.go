package packaging_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

var metricName = regexp.MustCompile(`\bholdfast_[a-z_]+\b`)

// TestMonitoringNamesRealMetrics holds the alert rules and the dashboard to the
// page that the agent serves, and wants each of its metrics to be in one of them.
func TestMonitoringNamesRealMetrics(t *testing.T) {
	page, err := os.ReadFile("../agent/metrics/testdata/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	served, shown := map[string]bool{}, map[string]bool{}
	part := regexp.MustCompile(`_(bucket|sum|count)$`) // of a histogram
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
			shown[part.ReplaceAllString(name, "")] = true
		}
	}
	for name := range served {
		if !shown[part.ReplaceAllString(name, "")] {
			t.Errorf("neither the rules nor the dashboard have %s", name)
		}
	}
}

// TestAlerts has Prometheus' own tool check the rules, and fire
// them for what testdata/alerts.yml says.
func TestAlerts(t *testing.T) {
	testbed.Need(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "--lint-fatal", "monitoring/holdfast.rules.yml"},
		{"test", "rules", "testdata/alerts.yml"},
	} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	// Each alert fires in some test.
	rules, err := os.ReadFile("monitoring/holdfast.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("testdata/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(rules), -1) {
		if !strings.Contains(string(tests), `alertname="`+name[1]+`"`) {
			t.Errorf("testdata/alerts.yml does not fire %s", name[1])
		}
	}
}

// TestDashboardAsks has Prometheus' own tool read the queries of the panels.
func TestDashboardAsks(t *testing.T) {
	testbed.Need(t, "promtool")
	content, err := os.ReadFile("monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	seen := map[int]bool{}
	for _, p := range dashboard.Panels {
		if seen[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q: its number is taken, or it has no title or asks for nothing", p.ID, p.Title)
		}
		seen[p.ID] = true
		for _, target := range p.Targets {
			rules = append(rules, rule{fmt.Sprintf("panel_%d:%s", p.ID, target.RefID), strings.ReplaceAll(target.Expr, "$instance", "h:9477")})
		}
	}
	// JSON is YAML
	text, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
