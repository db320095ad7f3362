package snapshot_test

import (
	"strings"
	"testing"

	"holdfast/internal/snapshot"
)

// TestProgramsGetNoKeys: the store's keys are in the agent's environment, and stay there.
func TestProgramsGetNoKeys(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	t.Setenv("LC_MESSAGES", "de_DE.UTF-8")
	t.Setenv("DM_DISABLE_UDEV", "1")
	out, err := snapshot.RunProgram(t.Context(), "env")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"SECRET", "NOTIFY", "de_DE"} {
		if strings.Contains(string(out), bad) {
			t.Errorf("%s is in\n%s", bad, out)
		}
	}
	for _, want := range []string{"PATH=", "LC_ALL=C\n", "DM_DISABLE_UDEV=1\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}
