package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast/internal/testbed"
	"holdfast/systemd"
)

// exposure is the most that "systemd-analyze security" may rate the
// unit, in tenths. README.md has the reasons.
const exposure = "34"

func TestUnitIsValid(t *testing.T) {
	testbed.Need(t, "systemd-analyze")
	unit := strings.Replace(systemd.Unit, systemd.Program, "/bin/true", 1)
	path := filepath.Join(t.TempDir(), "holdfast.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "holdfast") { // units of other packages have faults too
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
}

func TestUnitExposure(t *testing.T) {
	testbed.Need(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+exposure,
		"./holdfast.service").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`\*\*([0-9.]+)\*\*`).FindSubmatch(readme)
	if said == nil || !strings.Contains(string(out), "holdfast.service: "+string(said[1])+" ") {
		t.Errorf("README.md says another exposure than\n%s", out[strings.LastIndex(strings.TrimSpace(string(out)), "\n"):])
	}
}

func TestEveryDirectiveHasItsReason(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(systemd.Unit) {
		key, _, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || key == "Description" || key == "Documentation" {
			continue
		}
		if !strings.Contains(string(readme), "`"+key+"=") {
			t.Errorf("README.md has no reason for %s", key)
		}
	}
}

func TestInstalledFolders(t *testing.T) {
	testbed.Need(t, "root", "systemd-sysusers", "systemd-tmpfiles")
	root := t.TempDir()
	for name, content := range map[string]string{
		"usr/lib/sysusers.d/holdfast.conf": systemd.Sysusers,
		"usr/lib/tmpfiles.d/holdfast.conf": systemd.Tmpfiles,
		"etc/passwd":                       "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":                        "root:x:0:\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"systemd-sysusers", "--root=" + root, "holdfast.conf"},
		{"systemd-tmpfiles", "--create", "--root=" + root, "holdfast.conf"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	fi, err := os.Stat(filepath.Join(root, "run/holdfast"))
	if err != nil {
		t.Fatal(err)
	}
	if want := os.ModeDir | os.ModeSetgid | 0o750; fi.Mode() != want {
		t.Errorf("/run/holdfast is %s, want %s", fi.Mode(), want)
	}
	if fi, err = os.Stat(filepath.Join(root, "etc/holdfast")); err != nil || fi.Mode() != os.ModeDir|0o750 {
		t.Errorf("/etc/holdfast: %v, %v", fi, err)
	}
}
