package agent

import (
	"strings"
	"testing"

	"holdfast/agent/config"
)

// TestCapabilities: which capabilities are kept for which configuration.
func TestCapabilities(t *testing.T) {
	const (
		docker  = "{docker: {}}"
		none    = "{none: {}}"
		command = `{exec: {freeze: ["/f"], thaw: ["/t"], power_down: ["/p"]}}`
		reads   = "DAC_READ_SEARCH FOWNER SYS_ADMIN SYS_PTRACE"
		writes  = " CHOWN DAC_OVERRIDE FSETID SETFCAP MKNOD LINUX_IMMUTABLE SYS_RESOURCE"
	)
	for _, c := range []struct {
		what, runtime, snapshot, prepare, store, want string
		left                                          leftWork
	}{
		{"as it comes", docker, "auto", "", "", reads + writes + " IPC_LOCK KILL", leftWork{}},
		{"no containers", none, "auto", "", "", reads + writes + " IPC_LOCK", leftWork{}},
		{"no logical volumes", none, "btrfs", "", "", reads + writes, leftWork{}},
		{"no restores", docker, "auto", "refuse: true", "", reads + " DAC_OVERRIDE CHOWN MKNOD IPC_LOCK KILL", leftWork{}},
		{"no restores, subvolumes", docker, "btrfs", "refuse: true", "", reads + " DAC_OVERRIDE KILL", leftWork{}},
		{"read in place alone", none, "freeze", "refuse: true", "", reads, leftWork{}},
		{"into a folder", none, "fsfreeze", "refuse: true", "file:///srv/store", reads + " DAC_OVERRIDE", leftWork{}},
		{"left snapshots", none, "freeze", "refuse: true", "", reads + " DAC_OVERRIDE CHOWN MKNOD IPC_LOCK", leftWork{snapshots: true}},
		{"left a restore", none, "freeze", "refuse: true", "", reads + writes + " IPC_LOCK", leftWork{snapshots: true, restore: true}},
		{
			"commands of an instance that left", none, "freeze", "refuse: true", "", "all",
			leftWork{instances: []config.Instance{{Runtime: config.Runtime{Exec: &config.Exec{}}}}},
		},
		{"commands", command, "freeze", "refuse: true", "", "all", leftWork{}},
	} {
		if c.store == "" {
			c.store = "s3://bucket?endpoint=https://store.test"
		}
		cfg, err := config.Parse([]byte(`
host_id: host-1
listen: ""
store: {url: "`+c.store+`"}
key_file: /k
report: {url: "https://plane.test"}
prepare: {`+c.prepare+`}
instances:
  - {id: phone-1, tenant: t, runtime: `+c.runtime+`, volumes: [{name: data, path: /srv/1, snapshot: `+c.snapshot+`}]}
`), "test.yaml")
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		need, all := capabilities(cfg, c.left)
		var names []string
		for _, p := range need {
			if p.Why == "" {
				t.Errorf("%s: no reason for %s", c.what, p.Name)
			}
			names = append(names, strings.TrimPrefix(p.Name, "CAP_"))
		}
		if all {
			names = append(names, "all")
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s:\n%s, want\n%s", c.what, got, c.want)
		}
	}
}
