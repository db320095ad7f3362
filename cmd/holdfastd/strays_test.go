package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckConfigWarnsOfStrays: an instance that is held and that the configuration lacks is told
// of, and the configuration is valid all the same.
func TestCheckConfigWarnsOfStrays(t *testing.T) {
	s := newSite(t)
	if err := os.MkdirAll(filepath.Join(s.dir, "state/held"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.put("state/held/phone-1", `{"id":"job-1","instance":"phone-1","hold":true}`)
	var stdout, stderr bytes.Buffer
	code := run([]string{"--config", s.path(), "check-config"}, &stdout, &stderr)
	warning, valid, _ := strings.Cut(stdout.String(), "is valid")
	if code != exitDone || !strings.Contains(warning, "\n"+`warning: instance "phone-1" is held by an unfinished job (job-1)`) || valid == "" {
		t.Errorf("exit code %d, %s%s", code, stdout.String(), stderr.String())
	}
}
