package packaging_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFewerPowers runs the shipped program, as the shipped unit and with all
// that README.md of the unit takes away, in a real systemd, on a host that makes
// no restores, no snapshots and has no containers: it has the capabilities left
// that it should have, in all threads, and its backups are whole.
func TestFewerPowers(t *testing.T) {
	m := bootMachine(t)
	m.write(t, "/root/holdfast.deb", buildPackage(t, "..", "0.1.0"), 0o644)
	m.run(t, "dpkg", "--install", "/root/holdfast.deb")
	p := newPlane(t)
	configure := func(runtime map[string]any, prepare map[string]any) {
		p.configure(t, m, func(cfg map[string]any) {
			cfg["prepare"] = prepare
			in := cfg["instances"].([]any)[0].(map[string]any)
			in["runtime"] = runtime
			in["volumes"].([]any)[0].(map[string]any)["snapshot"] = "freeze"
		})
	}
	prepare := func(id string) (status int, body string) {
		return p.call(t, http.MethodPost, "/v1/instances/prepare", id, `{"instance_ids":["`+testInstance+`"]}`)
	}
	none := map[string]any{"none": map[string]any{}}

	// As it comes, with commands of others.
	p.configure(t, m)
	// A file that root without capabilities can not read.
	m.write(t, "/srv/phone/data/private", []byte("what the phone keeps\n"), 0o600)
	m.run(t, "chown", "-R", "1000:1000", "/srv/phone/data")
	m.run(t, "systemctl", "start", "holdfast.service")
	const (
		readSearch, override, owner = 1 << 2, 1 << 1, 1 << 3
		admin                       = 1 << 21
		whole                       = 1<<0 | override | readSearch | owner | 1<<4 | 1<<5 | admin | 1<<27 | 1<<31
		kill                        = 1 << 5
	)
	m.hasPowers(t, whole)
	p.backUp(t, m, "commands")

	m.run(t, "systemctl", "stop", "holdfast.service")
	m.run(t, "rm", "-r", "/etc/holdfast/host.key", "/root/recovery.key", "/srv/store", "/var/lib/holdfast/journal.db")
	configure(none, map[string]any{})
	m.run(t, "systemctl", "start", "holdfast.service")
	m.hasPowers(t, whole&^kill)
	p.backUp(t, m, "restores")

	configured, err := os.ReadFile(filepath.Join(m.root, "etc/holdfast/holdfast.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	refuse := strings.Replace(string(configured), `"prepare": {}`, `"prepare": {"refuse": true}`, 1)
	m.write(t, "/etc/holdfast/holdfast.yaml", []byte(refuse), 0o600)
	m.run(t, "systemctl", "restart", "holdfast.service")
	m.hasPowers(t, readSearch|owner|admin|override) // the last for the store, a folder
	p.backUp(t, m, "no-restores")
	if status, body := prepare("p1"); status != http.StatusBadRequest || !strings.Contains(body, "KOOPHONE.API.1001") || !strings.Contains(body, "refuse restores") {
		t.Errorf("prepare is answered %d %s", status, body)
	}

	m.write(t, "/etc/systemd/system/holdfast.service.d/fewer.conf", []byte("[Service]\n"+strings.Join(fewer(t), "\n")+"\n"), 0o644)
	m.run(t, "systemctl", "daemon-reload")
	m.run(t, "systemctl", "restart", "holdfast.service")
	m.hasPowers(t, readSearch|owner|override)
	p.backUp(t, m, "fewer")
	backup := m.run(t, "sh", "-c", "holdfast list --store file:///srv/store --vault "+testTenant+
		" --key /etc/holdfast/host.key --name-key /etc/holdfast/name.key --json")
	ids := regexp.MustCompile(`"backup": "([^"]+)"`).FindAllStringSubmatch(backup, -1)
	if len(ids) != 3 { // since the store was made anew
		t.Fatalf("not three backups: %s", backup)
	}
	if got := m.run(t, "holdfast", "cat", "--store", "file:///srv/store", "--vault", testTenant, "--key", "/etc/holdfast/host.key",
		"--name-key", "/etc/holdfast/name.key", ids[2][1], "private"); got != "what the phone keeps" {
		t.Errorf("the backup has %q", got)
	}
}

// fewer are the directives of the section "Fewer powers" of the unit's README.md, as it gives them.
func fewer(t *testing.T) (lines []string) {
	t.Helper()
	readme, err := os.ReadFile("../systemd/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Fewer powers\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, d := range regexp.MustCompile("`([A-Z][A-Za-z]+=[^`]+)`").FindAllStringSubmatch(section, -1) {
		lines = append(lines, d[1])
	}
	if len(lines) < 6 {
		t.Fatalf("%q", lines)
	}
	return lines
}

// hasPowers wants all threads of the service to have just these capabilities.
func (m *machine) hasPowers(t *testing.T, want uint64) {
	t.Helper()
	out := m.run(t, "sh", "-c", "cat /proc/"+m.property(t, "MainPID")+"/task/*/status")
	threads := 0
	for _, set := range []string{"CapEff", "CapPrm"} {
		for _, got := range regexp.MustCompile(`(?m)^`+set+`:\s+(\S+)$`).FindAllStringSubmatch(out, -1) {
			threads++
			if got[1] != fmt.Sprintf("%016x", want) {
				t.Errorf("a thread has %s %s, want %016x\n%s", set, got[1], want, m.journal(t))
				return
			}
		}
	}
	if threads < 4 {
		t.Errorf("%d lines of\n%s", threads, out)
	}
}
