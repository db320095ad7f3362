package main

import (
	"fmt"
	"io"
	"strings"

	"holdfast/agent"
)

// adopt decides whose the state folder is, after the agent found that it may be a copy.
func adopt(path string, renew, takeOver bool, stdout io.Writer) error {
	if renew == takeOver {
		return &usageError{"adopt needs one of --new (this machine is another host) and --take-over (this machine goes on as the host)"}
	}
	cfg, err := load(path)
	if cfg == nil {
		return err // faults of files that the configuration names are nothing to this command
	}
	done, err := agent.Adopt(cfg.StateDir, renew)
	if err != nil {
		return err
	}
	var text strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	if renew {
		line("%s is a new host now, with the identity %s; it never held an instance", cfg.StateDir, done.Now)
		for _, aside := range done.Aside {
			line("set aside: %s", aside)
		}
		if len(done.Instances) > 0 {
			line("unfinished or held by what the folder said, and left as they are on this machine: %s", strings.Join(done.Instances, ", "))
			line("where one of them is frozen here, let it run or remove it by hand")
		}
		if done.Reports > 0 {
			line("%d reports of the host before are not sent from here", done.Reports)
		}
		line("give this machine its own host_id, keys and certificate before you start it")
	} else {
		line("%s goes on on this machine as the host with the identity %s", cfg.StateDir, done.Now)
		line("another machine with a copy of it stands still at its next look at the store; see that none works")
		if len(done.Instances) > 0 {
			line("unfinished or held, and compared with this machine at the next start: %s", strings.Join(done.Instances, ", "))
		}
		if done.Reports > 0 {
			line("%d reports wait, and are sent from here", done.Reports)
		}
		line("sessions of backups that another machine was killed in stay in the vaults until `holdfast vault sessions --forget`")
	}
	line("start the daemon: holdfastd start")
	_, err = io.WriteString(stdout, text.String())
	return err
}
