package agent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/api"
)

// TestRolledBackStoreIsNoticed: a bucket whose owner sets it back to the state of an earlier
// backup is not restored from on command, as the host knows that it made a newer one.
func TestRolledBackStoreIsNoticed(t *testing.T) {
	h := newHost(t)
	h.start()
	manifests := func() (list []string) {
		found, err := filepath.Glob(h.in("store/*/backups/phone-1/*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	release := func(request string) {
		h.backup("acme", request, "phone-1")
		h.eventually("the job ended", func() bool {
			a := h.call(http.MethodGet, "/v1/agent/jobs?instance=phone-1&active=true", "", "r", "")
			return string(a.Data) == `{"jobs":[]}` && h.state("phone-1") == "stopped"
		})
	}
	release("r1")
	old := manifests()
	h.write("phone-1.state", "running\n", 0o600)
	h.write("volumes/phone-1/data/file", "what phone-1 holds later", 0o640)
	release("r2")
	for _, m := range manifests() {
		if m != old[0] {
			if err := os.Remove(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(h.in("volumes/phone-1")); err != nil {
		t.Fatal(err)
	}
	if a := h.call(http.MethodPost, "/v1/instances/prepare", "acme", "r3", `{"instance_ids":["phone-1"]}`); a.Code == api.CodeOK {
		t.Logf("the command was taken: %s", a.Data)
	}
	h.eventually("said in the log", func() bool { return strings.Contains(h.logs.String(), "the store lacks a backup that it confirmed") })
	if _, err := os.Stat(h.in("volumes/phone-1/data/file")); err == nil {
		t.Error("the old state was restored")
	}
}
