package agent_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// stateRow is a row of STATES.md.
type stateRow struct {
	alerts []string
	hint   string
}

type stateRows map[string]stateRow

// alerts are the alerts of some states, one for each: it has to fire.
func (r stateRows) alerts(states []string) (all [][]string) {
	for _, s := range states {
		all = append(all, r[s].alerts)
	}
	return all
}

// documented reads STATES.md.
func documented(t *testing.T) stateRows {
	t.Helper()
	text, err := os.ReadFile("STATES.md")
	must(t, err)
	rows := stateRows{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 4 || !strings.HasPrefix(line, "| `") {
			continue
		}
		rows[strings.Trim(cells[0], " `")] = stateRow{strings.Fields(strings.ReplaceAll(cells[2], ",", " ")), strings.TrimSpace(cells[3])}
	}
	if len(rows) < 20 {
		t.Fatalf("only %d states in STATES.md", len(rows))
	}
	return rows
}

// alertTest is a test of the alert rules by Prometheus' own tool: hosts on which all is
// well for ten minutes, and that are for two hours then as a real agent said that it is.
type alertTest struct {
	before map[string]float64
	tests  []string
}

// growing are the figures that grow by the second for as long as nothing changes.
var growing = regexp.MustCompile(`^holdfast_(oldest_\w+|trouble)_seconds`)

// add adds a host. Of each list of alerts one has to fire; with none, nothing may.
func (a *alertTest) add(name string, after map[string]float64, alerts [][]string) {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n    interval: 5m\n    input_series:\n      - {series: 'up{instance=\"h\",job=\"holdfast\"}', values: '1x26'}\n", name)
	for _, series := range slices.Sorted(maps.Keys(after)) {
		was, is, step := a.before[series], after[series], 0
		if growing.MatchString(series) && is > 0 {
			step = 300
		}
		metric, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		fmt.Fprintf(&b, "      - {series: '%s{%s}', values: '%fx2 %f+%dx24'}\n", metric, strings.Trim(labels+`,instance="h",job="holdfast"`, ","), was, is, step)
	}
	b.WriteString("    promql_expr_test:\n")
	for _, any := range alerts {
		fmt.Fprintf(&b, "      - {eval_time: 130m, expr: 'count(max_over_time(ALERTS{alertname=~\"%s\",alertstate=\"firing\"}[119m])) > bool 0', exp_samples: [{value: 1, labels: '{}'}]}\n",
			strings.Join(any, "|"))
	}
	if len(alerts) == 0 {
		b.WriteString("      - {eval_time: 130m, expr: 'max_over_time(ALERTS{alertstate=\"firing\"}[130m])'}\n")
	}
	a.tests = append(a.tests, b.String())
}

func (a *alertTest) run(t *testing.T) {
	t.Helper()
	rules, err := filepath.Abs("../packaging/monitoring/holdfast.rules.yml")
	must(t, err)
	file := filepath.Join(t.TempDir(), "states.yml")
	must(t, os.WriteFile(file, []byte("rule_files: ["+rules+"]\nevaluation_interval: 5m\ntests:\n"+strings.Join(a.tests, "")), 0o600))
	if out, err := exec.Command("promtool", "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
