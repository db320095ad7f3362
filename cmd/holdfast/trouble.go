package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"holdfast/agent/api"
)

// printTrouble writes a trouble, its age, and its remedy.
func (a *app) printTrouble(t api.Trouble) error {
	of := t.Name
	if t.InstanceID != "" {
		of += " " + name(t.InstanceID)
	}
	if t.More > 0 {
		of += fmt.Sprintf(" (and %d more)", t.More)
	}
	line := fmt.Sprintf("trouble    %s, for %s: %s\n", of, clock(time.Duration(t.Seconds*float64(time.Second))), sentence(t.Error))
	if t.Hint != "" {
		line += fmt.Sprintf("hint       %s\n", oneLine(t.Hint))
	}
	_, err := fmt.Fprint(a.stdout, line)
	return err
}

// why is the reason why a job failed, or the thing for which it waits.
func why(j api.JobInfo) string {
	switch {
	case j.ErrorMsg != "":
		return j.ErrorMsg
	case j.Trouble != nil:
		return j.Trouble.Error
	}
	// A job that is held for a refused report, or a job that waits for the control plane.
	if _, reason, held := strings.Cut(j.Message, ": "); held {
		return reason
	}
	return ""
}

// volumeTable writes how each volume is read, and the consequences for its instance.
func (a *app) volumeTable(instances []api.InstanceInfo) error {
	rows := [][]string{{"INSTANCE", "VOLUME", "PROVIDER", "WHAT IT MEANS"}}
	for _, i := range instances {
		for _, v := range i.Volumes {
			rows = append(rows, []string{i.ID, v.Name, dash(v.Provider), cmp.Or(v.Means, "not looked at yet")})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return a.table(rows)
}
