package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeCommands runs the example of README.md as it is written there, in an empty folder that
// has a folder "docs". Only its first line, which builds the programs, is left out.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?m)^    make build && (export PATH=\S+)\n((?:    .*\n)+)`).FindStringSubmatch(string(readme))
	if block == nil {
		t.Fatal("README.md has no example that begins with make build")
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "build/bin")+"/", "holdfast/cmd/holdfast")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.CopyFS(filepath.Join(dir, "docs"), os.DirFS("../../docs")); err != nil {
		t.Fatal(err)
	}
	script := exec.CommandContext(t.Context(), "bash", "-eux", "-c", block[1]+"\n"+strings.ReplaceAll(block[2], "    ", ""))
	script.Dir = dir
	script.Env = append(os.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+dir+"/.cache", "XDG_STATE_HOME="+dir+"/.state")
	out, err := script.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"architecture.md", "glossary.md"} {
		want, err := os.ReadFile(filepath.Join("../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "docs-restored", name)); err != nil || string(got) != string(want) {
			t.Errorf("%s was not restored as it was (%v); the commands said: %s", name, err, out)
		}
	}
}
