package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/config"
	"holdfast/systemd"
)

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	faulty := filepath.Join(dir, "faulty.yaml")
	if err := os.WriteFile(faulty, []byte("state_dir: relative\nlisten: nowhere\nnonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"help":              {[]string{"--help"}, exitDone, "Exit codes: 0 done", ""},
		"help of a command": {[]string{"status", "--help"}, exitDone, "Exit codes: 0 done", ""},
		"version":           {[]string{"version"}, exitDone, "holdfastd ", ""},
		"no such command":   {[]string{"dance"}, exitUsage, "", `no command "dance"`},
		"no such flag":      {[]string{"--dance"}, exitUsage, "", "-dance"},
		"two commands":      {[]string{"start", "stop"}, exitUsage, "", "one command at a time"},
		"empty config":      {[]string{"--config=", "check-config"}, exitUsage, "", "names no file"},
		"no config file":    {[]string{"--config", dir + "/none.yaml", "check-config"}, exitConfig, "", "none.yaml"},
		"flag after":        {[]string{"check-config", "--config", dir + "/none.yaml"}, exitConfig, "", "none.yaml"},
		"faults":            {[]string{"check-config", "--config", faulty}, exitConfig, "", "faulty.yaml:1:"},
		"serve with faults": {[]string{"--config", faulty}, exitConfig, "", "faulty.yaml:1:"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(c.args, &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for stream, got := range map[string]struct{ text, want string }{
				"stdout": {stdout.String(), c.stdout}, "stderr": {stderr.String(), c.stderr},
			} {
				if !strings.Contains(got.text, got.want) || got.want == "" && got.text != "" {
					t.Errorf("%s is %q, want %q in it", stream, got.text, got.want)
				}
			}
		})
	}
}

func TestUnitForNamesThisInstallation(t *testing.T) {
	unit, err := unitFor("/opt/holdfast/holdfastd", "/opt/holdfast/etc/h.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nExecStart=/opt/holdfast/holdfastd --config /opt/holdfast/etc/h.yaml\n",
		"\nConditionPathExists=|/opt/holdfast/etc/h.yaml\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %q", want)
		}
	}
	if same, err := unitFor(systemd.Program, config.DefaultPath); err != nil || same != systemd.Unit {
		t.Errorf("the unit of the usual paths is another than the packaged one (%v)", err)
	}
	for _, odd := range []string{"/opt/hold fast/holdfastd", "/opt/100%/holdfastd", "/opt/$HOME/holdfastd"} {
		if _, err := unitFor(odd, config.DefaultPath); err == nil {
			t.Errorf("a unit was made for %q", odd)
		}
	}
}

// TestUnitHasNoTemplate: the service library takes "{{" for a template of its own.
func TestUnitHasNoTemplate(t *testing.T) {
	if strings.Contains(systemd.Unit, "{{") {
		t.Error("the unit holds {{")
	}
}
