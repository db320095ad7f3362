package repotest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// headings are the parts of each page in docs/decisions, in their order.
var headings = []string{"Context", "Decision", "Alternatives", "Measurement", "Status"}

var (
	decisionName  = regexp.MustCompile(`^([0-9]{4})-[a-z0-9]+(?:-[a-z0-9]+)*\.md$`)
	decisionRow   = regexp.MustCompile(`(?m)^\| \[([0-9]{4})\]\(([^)]+)\) \| (.+) \| (20[0-9]{2}-[0-9]{2}-[0-9]{2}) \|$`)
	decisionTitle = regexp.MustCompile(`^# ([0-9]{4})\. (.+)\n`)
	partHeading   = regexp.MustCompile(`(?m)^## (.+)$`)
)

// TestDecisionPages holds docs/decisions to its form: the numbers have no gap, each page has the
// five parts, and the index has each page once, with its title and with a date that its status
// names.
func TestDecisionPages(t *testing.T) {
	index := read(t, "docs/decisions/README.md")
	rows := decisionRow.FindAllStringSubmatch(index, -1)
	entries, err := os.ReadDir(filepath.Join(root, "docs/decisions"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, e := range entries {
		if e.Name() == "README.md" {
			continue
		}
		count++
		name := decisionName.FindStringSubmatch(e.Name())
		if name == nil {
			t.Errorf("docs/decisions/%s has no name of the form NNNN-title.md", e.Name())
			continue
		}
		if n, _ := strconv.Atoi(name[1]); n != count {
			t.Errorf("docs/decisions/%s should have the number %04d", e.Name(), count)
		}
		page := read(t, "docs/decisions/"+e.Name())
		title := decisionTitle.FindStringSubmatch(page)
		if title == nil || title[1] != name[1] {
			t.Errorf("docs/decisions/%s does not begin with the title \"# %s. …\"", e.Name(), name[1])
			continue
		}
		for _, fault := range faultsOfParts(page) {
			t.Errorf("docs/decisions/%s %s", e.Name(), fault)
		}
		status := page[strings.LastIndex(page, "\n## ")+1:]
		at := slices.IndexFunc(rows, func(r []string) bool { return r[2] == e.Name() })
		switch {
		case at < 0:
			t.Errorf("docs/decisions/README.md has no row for %s", e.Name())
		case rows[at][1] != name[1] || rows[at][3] != title[2]:
			t.Errorf("docs/decisions/README.md calls %s %q, and its title is %q", e.Name(), rows[at][3], title[2])
		case !strings.Contains(status, rows[at][4]):
			t.Errorf("docs/decisions/README.md dates %s %s, and its status does not", e.Name(), rows[at][4])
		}
	}
	if len(rows) != count {
		t.Errorf("docs/decisions has %d pages, and its index %d rows", count, len(rows))
	}
}

// faultsOfParts says how the parts of a page of a decision differ from headings.
func faultsOfParts(page string) (faults []string) {
	at := partHeading.FindAllStringSubmatchIndex(page, -1)
	var found []string
	for i, m := range at {
		end := len(page)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		found = append(found, page[m[2]:m[3]])
		if strings.TrimSpace(page[m[1]:end]) == "" {
			faults = append(faults, fmt.Sprintf("has nothing below %q", page[m[2]:m[3]]))
		}
	}
	if !slices.Equal(found, headings) {
		faults = append(faults, fmt.Sprintf("has the parts %q, and should have %q", found, headings))
	}
	return faults
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestDecisionsNameTests finds tests and files that a page in docs/decisions names and that are not
// there.
func TestDecisionsNameTests(t *testing.T) {
	there := map[string]bool{}
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test {
				there[fn.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")
	file := regexp.MustCompile("`((?:agent|cmd|internal|packaging)/[A-Za-z0-9_/.-]+\\.(?:go|yaml|yml))`")
	count := 0
	for _, d := range documents(t) {
		if !strings.HasPrefix(d, "docs/decisions/") {
			continue
		}
		page := read(t, d)
		for _, m := range named.FindAllStringSubmatch(page, -1) {
			if count++; !there[m[1]] {
				t.Errorf("%s names %s, which is no test", d, m[1])
			}
		}
		for _, m := range file.FindAllStringSubmatch(page, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names %s: %v", d, m[1], err)
			}
		}
	}
	if count < 50 {
		t.Errorf("docs/decisions names only %d tests", count)
	}
}

var (
	anchored   = regexp.MustCompile(`\]\(([^)#\s]*)#([^)\s]+)\)`)
	anyHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notSlug    = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the anchors of the headings of a document, as forges make them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range anyHeading.FindAllStringSubmatch(text, -1) {
		all[strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// TestAnchorsLead finds links to headings that are not there.
func TestAnchorsLead(t *testing.T) {
	count := 0
	for _, d := range documents(t) {
		for _, m := range anchored.FindAllStringSubmatch(read(t, d), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := d
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(d), m[1])
			}
			if count++; !anchors(read(t, to))[m[2]] {
				t.Errorf("%s links to %s#%s, and no heading there has that anchor", d, to, m[2])
			}
		}
	}
	if count < 20 {
		t.Errorf("only %d links to headings found", count)
	}
}

// TestStateMachineDocument holds the table of docs/state-machine.md to nextStates in package model.
func TestStateMachineDocument(t *testing.T) {
	names, next := statesOfJob(t)
	rows := map[string][]string{}
	code := regexp.MustCompile("`([a-z]+)`")
	_, table, _ := strings.Cut(read(t, "docs/state-machine.md"), "## All states")
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.Contains(cells[1], "`") {
			continue
		}
		state := strings.Trim(cells[1], " `")
		for _, m := range code.FindAllStringSubmatch(cells[4], -1) {
			rows[state] = append(rows[state], m[1])
		}
	}
	for state, of := range next {
		var want []string
		for _, s := range of {
			want = append(want, names[s])
		}
		if got := rows[names[state]]; !slices.Equal(got, want) {
			t.Errorf("docs/state-machine.md says that %s is followed by %q, and the code says %q", names[state], got, want)
		}
		delete(rows, names[state])
	}
	for state := range rows {
		t.Errorf("docs/state-machine.md has a row for %s, which has no next state in the code", state)
	}
}

// statesOfJob reads the constants of type State of package model, and the value of nextStates.
func statesOfJob(t *testing.T) (names map[string]string, next map[string][]string) {
	t.Helper()
	names, next = map[string]string{}, map[string][]string{}
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "agent/model/job.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != 1 || len(spec.Values) != 1 {
			return true
		}
		switch value := spec.Values[0].(type) {
		case *ast.BasicLit:
			if of, ok := spec.Type.(*ast.Ident); ok && of.Name == "State" {
				names[spec.Names[0].Name], _ = strconv.Unquote(value.Value)
			}
		case *ast.CompositeLit:
			if spec.Names[0].Name == "nextStates" {
				for _, e := range value.Elts {
					next[nameOf(e.(*ast.KeyValueExpr).Key)] = namesIn(e.(*ast.KeyValueExpr).Value)
				}
			}
		}
		return true
	})
	if len(next) < 15 {
		t.Fatalf("nextStates has %d states", len(next))
	}
	return names, next
}

func nameOf(e ast.Expr) string {
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func namesIn(e ast.Expr) (all []string) {
	if list, ok := e.(*ast.CompositeLit); ok {
		for _, x := range list.Elts {
			all = append(all, nameOf(x))
		}
	}
	return all
}
