package config_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"holdfast/agent/config"
)

// TestFilesTable: the table of files has each setting that names
// a file, and tells how the agent reacts when the file changes.
func TestFilesTable(t *testing.T) {
	text, err := os.ReadFile("FILES.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var walk func(of reflect.Type, path string)
	walk = func(of reflect.Type, path string) {
		for i := range of.NumField() {
			f := of.Field(i)
			name := path + f.Tag.Get("yaml")
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type, name+".")
			}
			if last := f.Tag.Get("yaml"); f.Type.Kind() == reflect.String && (last == "file" || strings.HasSuffix(last, "_file")) {
				names = append(names, name)
			}
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	if len(names) < 12 {
		t.Errorf("only %v", names)
	}
	for _, name := range names {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("FILES.md lacks %s", name)
		}
	}
}
