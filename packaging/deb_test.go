package packaging_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// buildPackage builds the .deb of a version from the source in a folder and returns its bytes.
func buildPackage(t *testing.T, source, version string) []byte {
	t.Helper()
	dir := testbed.Dir(t)
	cmd := exec.Command("packaging/ci/package.sh", dir, version)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the package: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "holdfast_"+version+"_*.deb"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the package is not there: %v, %v", files, err)
	}
	deb, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return deb
}

// copySource copies the module into a folder of its own.
func copySource(t *testing.T, from string) string {
	t.Helper()
	to := testbed.Dir(t)
	out, err := exec.Command("sh", "-c", `cd "$1" && tar -c --exclude=./.git --exclude=./build --exclude=./dist . | tar -x -C "$2"`,
		"sh", from, to).CombinedOutput()
	if err != nil {
		t.Fatalf("copy the source: %v\n%s", err, out)
	}
	return to
}

// TestPackageIsReproducible: everybody who builds the source gets the released bytes.
func TestPackageIsReproducible(t *testing.T) {
	testbed.Need(t, "dpkg-deb")
	here := copySource(t, "..")
	elsewhere := copySource(t, here)
	first := buildPackage(t, here, "0.1.0")
	if second := buildPackage(t, elsewhere, "0.1.0"); !bytes.Equal(first, second) {
		t.Errorf("two builds differ: %x and %x", sha256.Sum256(first), sha256.Sum256(second))
	}
}

// TestPackageInSystemd takes the package through its life in a real systemd:
// installed, configured, started, at work, killed, upgraded, stopped, removed, purged.
func TestPackageInSystemd(t *testing.T) {
	m := bootMachine(t)
	m.write(t, "/root/holdfast.deb", buildPackage(t, "..", "0.1.0"), 0o644)
	before := m.named(t)

	m.run(t, "dpkg", "--install", "/root/holdfast.deb")
	if got := m.run(t, "systemctl", "is-enabled", "holdfast.service"); got != "enabled" {
		t.Errorf("installed, the service is %s", got)
	}
	if got := m.property(t, "ActiveState"); got != "inactive" {
		t.Errorf("installed but not configured, the service is %s", got)
	}
	if out, code := m.exitCode(t, "holdfastd", "install"); code != 1 || !strings.Contains(out, "/lib/systemd/system/holdfast.service") {
		t.Errorf("install beside the package: exit code %d, %s", code, out)
	}

	p := newPlane(t)
	p.configure(t, m)
	m.run(t, "holdfastd", "check-config")
	m.run(t, "systemctl", "start", "holdfast.service")
	// systemctl returns at READY=1, and by then everything serves: no second try here.
	p.mustServe(t, m)
	if got := m.property(t, "ActiveState"); got != "active" {
		t.Errorf("started, the service is %s", got)
	}
	p.backUp(t, m, "first")
	m.run(t, "holdfast", "status")

	pid := m.property(t, "MainPID")
	m.run(t, "systemctl", "reload", "holdfast.service")
	m.run(t, "sh", "-c", "kill -KILL "+pid)
	if !waitFor(5*time.Minute, func() bool {
		now := m.property(t, "MainPID")
		return now != pid && now != "0" && m.property(t, "ActiveState") == "active"
	}) {
		t.Fatalf("killed, the service did not come back\n%s", m.journal(t))
	}
	p.mustServe(t, m)

	pid = m.property(t, "MainPID")
	m.write(t, "/root/holdfast.deb", buildPackage(t, "..", "0.1.1"), 0o644)
	m.run(t, "dpkg", "--install", "/root/holdfast.deb")
	if got := m.property(t, "MainPID"); got == pid || m.property(t, "ActiveState") != "active" {
		t.Errorf("upgraded, the service runs as %s, before as %s", got, pid)
	}
	if got := m.run(t, "holdfastd", "version"); !strings.Contains(got, "0.1.1") {
		t.Errorf("upgraded, it says %s", got)
	}
	p.mustServe(t, m)
	p.backUp(t, m, "second")

	m.run(t, "systemctl", "stop", "holdfast.service")
	if got, result := m.property(t, "ActiveState"), m.property(t, "Result"); got != "inactive" || result != "success" {
		t.Errorf("stopped, the service is %s with result %s\n%s", got, result, m.journal(t))
	}
	m.run(t, "dpkg", "--install", "/root/holdfast.deb")
	if got := m.property(t, "ActiveState"); got != "inactive" {
		t.Errorf("installed again while stopped, the service is %s", got)
	}
	m.run(t, "systemctl", "start", "holdfast.service")
	if !m.isRunning(t) {
		t.Error("started, no process has its name")
	}

	m.run(t, "dpkg", "--remove", "holdfast")
	if m.isRunning(t) {
		t.Error("removed, it still runs")
	}
	if _, err := os.Stat(filepath.Join(m.root, "var/lib/holdfast")); err != nil {
		t.Errorf("removed and not purged, the journal is gone: %v", err)
	}
	m.run(t, "dpkg", "--purge", "holdfast")
	if _, err := os.Stat(filepath.Join(m.root, "etc/holdfast/host.key")); err != nil {
		t.Errorf("purged, the key of the backups is gone: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(m.root, "etc/holdfast")); err != nil {
		t.Fatal(err)
	}
	if left := m.named(t); strings.Join(left, " ") != strings.Join(before, " ") {
		t.Errorf("purged, there is left %v, before the installation there was %v", left, before)
	}
	if got := m.run(t, "systemctl", "list-units", "--failed", "--plain", "--no-legend"); got != "" {
		t.Errorf("units that failed: %s", got)
	}
}

// TestInstallWithoutPackage takes "holdfastd install" through its life in a real systemd.
func TestInstallWithoutPackage(t *testing.T) {
	m := bootMachine(t)
	before := m.named(t)
	build := exec.Command("packaging/ci/build.sh", filepath.Join(m.root, "opt/backup"), "0.1.0")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.Symlink("/opt/backup/holdfast", filepath.Join(m.root, "usr/bin/holdfast")); err != nil {
		t.Fatal(err)
	}
	const program = "/opt/backup/holdfastd"
	if out, code := m.exitCode(t, program, "status"); code != 1 || !strings.Contains(out, "not installed") {
		t.Errorf("status before the installation: exit code %d, %s", code, out)
	}
	m.run(t, program, "install")
	if out, code := m.exitCode(t, program, "install"); code != 1 || !strings.Contains(out, "is there already") {
		t.Errorf("install twice: exit code %d, %s", code, out)
	}
	p := newPlane(t)
	p.configure(t, m)
	m.run(t, program, "start")
	p.mustServe(t, m)
	if got := m.run(t, program, "status"); got != "running" {
		t.Errorf("started, status says %s", got)
	}
	p.backUp(t, m, "only")
	m.run(t, program, "restart")
	p.mustServe(t, m)
	m.run(t, program, "stop")
	if out, code := m.exitCode(t, program, "status"); code != 1 {
		t.Errorf("stopped, status says %s, exit code %d", out, code)
	}
	m.run(t, program, "start")
	m.run(t, program, "uninstall")
	if m.isRunning(t) {
		t.Error("uninstalled, it still runs")
	}
	if out, code := m.exitCode(t, program, "uninstall"); code != 1 {
		t.Errorf("uninstall twice: exit code %d, %s", code, out)
	}
	m.run(t, "rm", "-r", "/opt/backup", "/usr/bin/holdfast", "/etc/holdfast", "/var/lib/holdfast")
	left := strings.Join(m.named(t), " ")
	if left = strings.TrimSpace(strings.ReplaceAll(left, "/run/holdfast", "")); left != strings.Join(before, " ") {
		t.Errorf("uninstalled, there is left %s, before the installation there was %v", left, before)
	}
}

// isRunning tells whether a process of the machine is the daemon.
func (m *machine) isRunning(t *testing.T) bool {
	t.Helper()
	return slices.Contains(strings.Fields(m.run(t, "sh", "-c", "cat /proc/[0-9]*/comm")), "holdfastd")
}

// journal is the service's log.
func (m *machine) journal(t *testing.T) string {
	t.Helper()
	out, _ := m.try("journalctl", "--no-pager", "--lines=60", "--unit=holdfast.service")
	return out
}
