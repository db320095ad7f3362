package repotest_test

import (
	"os"
	"os/exec"
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

// documents are the Markdown files of the repository, by their paths from its root.
func documents(t *testing.T) []string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md")
	command.Dir = root
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

var links = regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`)

// linked are the files to which a document links, by their paths from the repository's root.
func linked(t *testing.T, document string) (files []string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range links.FindAllStringSubmatch(string(content), -1) {
		if !strings.Contains(m[1], "://") {
			files = append(files, filepath.Join(filepath.Dir(document), m[1]))
		}
	}
	return files
}

// TestLinksLead finds links between documents that lead nowhere.
func TestLinksLead(t *testing.T) {
	count := 0
	for _, d := range documents(t) {
		for _, file := range linked(t, d) {
			count++
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("%s links to %s: %v", d, file, err)
			}
		}
	}
	if count < 30 {
		t.Errorf("%d links found in all documents", count)
	}
}

// TestPackageShipsEachDocument holds the package to the documents: each one lies in the package
// as in the repository, so that the links of the shipped README lead somewhere.
func TestPackageShipsEachDocument(t *testing.T) {
	recipe, err := os.ReadFile(filepath.Join(root, "packaging/nfpm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents(t) {
		if strings.Contains(d, "testdata/") {
			continue
		}
		if line := "{src: " + d + ", dst: /usr/share/doc/holdfast/" + d + ","; !strings.Contains(string(recipe), line) {
			t.Errorf("packaging/nfpm.yaml does not ship %s: it lacks %q", d, line)
		}
	}
}

// TestReadmeIsShort holds the front page to two screens.
func TestReadmeIsShort(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(content), "\n"); n > 90 {
		t.Errorf("README.md has %d lines; the manual belongs to docs/operations.md and docs/command-line.md", n)
	}
}
