package config_test

import (
	"slices"
	"strings"
	"testing"

	"holdfast/agent/config"
)

// Where the agent can't tell whether an instance ran, it does not
// release it by itself, and the operator is told.
func TestNotesOfInstancesThatAreNotReleased(t *testing.T) {
	c, err := config.Parse(config.Example, "example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if notes := aboutInstances(c); len(notes) != 0 {
		t.Errorf("notes of the example: %q", notes)
	}
	i := 1
	exec := c.Instances[i].Runtime.Exec
	exec.State = nil
	for release, hold := range map[string]string{config.ReleaseControlPlane: config.HoldFrozen, config.ReleaseAgent: config.HoldLive} {
		c.Instances[i].Release, c.Instances[i].Hold = release, hold
		if notes := aboutInstances(c); len(notes) != 0 {
			t.Errorf("release %s, hold %s: %q", release, hold, notes)
		}
	}
	c.Instances[i].Release, c.Instances[i].Hold = config.ReleaseAgent, config.HoldStop
	notes := aboutInstances(c)
	if len(notes) != 1 || !strings.Contains(notes[0], "instances[1] (vm-0002): runtime.exec has no state command") {
		t.Errorf("notes: %q", notes)
	}
}

// aboutInstances are the notes that name an instance.
func aboutInstances(c *config.Config) []string {
	return slices.DeleteFunc(c.Notes(), func(note string) bool { return !strings.HasPrefix(note, "instances[") })
}
