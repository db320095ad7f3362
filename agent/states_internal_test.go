package agent

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"holdfast/agent/observe"
)

var update = flag.Bool("update", false, "rewrite STATES.md")

const statesHead = `# States in which a human must act

The agent heals by itself what it can: a store that is away, a control plane that does not answer, a crash at any instant. What is listed
here does not heal without a human, or may not. Each state shows in three places under the same name:

- ` + "`holdfast status`" + ` has a line ` + "`trouble NAME INSTANCE, for TIME: REASON`" + ` and a line ` + "`hint`" + ` with what is to be done. A job of which an act
  fails has the reason under WHY in ` + "`holdfast jobs`" + ` too, and ` + "`holdfast watch`" + ` prints it;
- the metrics ` + "`holdfast_troubles{name=\"NAME\"}`" + ` (how many) and ` + "`holdfast_trouble_seconds{name=\"NAME\"}`" + ` (for how long the oldest lasts, by a clock
  that nobody can set; 0 while there is none);
- an alert of ` + "`packaging/monitoring/holdfast.rules.yml`" + `, whose annotation ` + "`state`" + ` is the name.

The table is made of the program (` + "`go test ./agent -run TestStatesDocument -update`" + `). ` + "`TestStates`" + ` brings a real agent into each state and looks
at all three places.

| State | What it is, and what goes on meanwhile | Alert | What to do |
|---|---|---|---|
`

// TestStatesDocument holds STATES.md to the program and to the alert rules: each
// state has an alert, and each alert that names a state names an existing state.
func TestStatesDocument(t *testing.T) {
	rules, err := os.ReadFile("../packaging/monitoring/holdfast.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := map[string][]string{}
	for _, rule := range strings.Split(string(rules), "- alert: ")[1:] {
		alert, _, _ := strings.Cut(rule, "\n")
		if m := regexp.MustCompile(`(?m)^ +state: (\w+)$`).FindStringSubmatch(rule); m != nil {
			alerts[m[1]] = append(alerts[m[1]], alert)
		}
	}
	doc := statesHead
	for _, k := range observe.Troubles {
		if len(alerts[k.Name]) == 0 {
			t.Errorf("the state %s has no alert", k.Name)
		}
		if k.Means == "" || k.Hint == "" || strings.Contains(k.Means+k.Hint, "|") {
			t.Errorf("the state %s has no meaning, no hint, or a bar in it", k.Name)
		}
		doc += fmt.Sprintf("| `%s` | %s | %s | %s |\n", k.Name, k.Means, strings.Join(alerts[k.Name], ", "), k.Hint)
		delete(alerts, k.Name)
	}
	for name, of := range alerts {
		t.Errorf("%v name the state %s, which there is not", of, name)
	}
	if *update {
		if err := os.WriteFile("STATES.md", []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile("STATES.md"); err != nil || string(got) != doc {
		t.Errorf("STATES.md is not what the program makes of it (-update rewrites it): %v", err)
	}
}
