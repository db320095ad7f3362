package repotest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitectureNamesEachRoom holds docs/architecture.md to the packages that exist. A package
// below another one (a suite of laws, a generator of data) may go unnamed.
func TestArchitectureNamesEachRoom(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rooms, _ := strings.Cut(string(content), "## The rooms")
	rooms, _, _ = strings.Cut(rooms, "\n## ")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`((?:agent|cmd|internal)[a-z0-9/]*)`").FindAllStringSubmatch(rooms, -1) {
		named[m[1]] = true
	}
	exists := map[string]bool{}
	for _, f := range goFiles(t) {
		exists[f.pkg] = true
	}
	for pkg := range exists {
		parts := strings.Split(pkg, "/")
		if top := parts[0]; top != "agent" && top != "cmd" && top != "internal" || len(parts) > 2 {
			continue
		}
		if !named[pkg] {
			t.Errorf("docs/architecture.md does not say what %s does", pkg)
		}
	}
	for pkg := range named {
		if !exists[pkg] && pkg != "agent" {
			t.Errorf("docs/architecture.md names %s, which is no package", pkg)
		}
	}
}

// TestGlossaryDefinesEachTermOnce finds terms that the glossary defines twice.
func TestGlossaryDefinesEachTermOnce(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "docs/glossary.md"))
	if err != nil {
		t.Fatal(err)
	}
	defined := map[string]bool{}
	for _, line := range strings.Split(string(content), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || strings.Contains(cells[1], "---") || strings.TrimSpace(cells[1]) == "term" {
			continue
		}
		for _, term := range strings.Split(cells[1], ",") {
			if term = strings.TrimSpace(term); defined[term] {
				t.Errorf("docs/glossary.md defines %q twice", term)
			}
			defined[term] = true
		}
	}
	if len(defined) < 40 {
		t.Errorf("docs/glossary.md defines %d terms only", len(defined))
	}
}
