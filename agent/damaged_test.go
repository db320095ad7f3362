package agent_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/report"
)

// TestDamagedPackRaisesTheAlarm: the agent stores the content of a cut-off pack
// anew, says so in log and metrics, and the receipt of the backup states how
// many chunks were read back, and that all packs of the backup can be restored.
func TestDamagedPackRaisesTheAlarm(t *testing.T) {
	h := newHost(t)
	h.cfg += "hold: frozen\n" // a round of pre-copy stores packs of its own
	h.start()
	run := func(request string, n int) report.Statement {
		t.Helper()
		h.write("phone-1.state", "running\n", 0o600)
		h.backup("acme", request, "phone-1")
		h.eventually("released", func() bool {
			released := 0
			for _, e := range h.plane.all() {
				if e.Type == "holdfast.instance.released" {
					released++
				}
			}
			return released == n
		})
		public, err := h.agent.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		key, err := report.ParsePublic(public)
		if err != nil {
			t.Fatal(err)
		}
		var data struct {
			Receipt json.RawMessage `json:"receipt"`
		}
		if err := json.Unmarshal(h.plane.took("holdfast.backup.completed", "phone-1").Data, &data); err != nil {
			t.Fatal(err)
		}
		s, err := report.Verify(t.Context(), data.Receipt, key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := run("r1", 1)
	if first.ChunksReadBack == 0 || first.ChunksReadBackReused != 0 {
		t.Errorf("the first receipt states %+v", first)
	}
	h.metrics("holdfast_damaged_packs_total 0")
	packs, err := filepath.Glob(h.in("store/*/packs/*/*"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %v, %v", packs, err)
	}
	info, err := os.Stat(packs[0])
	if err == nil {
		err = os.Truncate(packs[0], info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.restoresTo(run("r2", 2), "what phone-1 holds")
	h.metrics("holdfast_damaged_packs_total 1")
	if log := h.logs.String(); !strings.Contains(log, "run holdfast verify") || !strings.Contains(log, filepath.Base(packs[0])) {
		t.Errorf("the log does not name the pack and what to do: %s", log)
	}
	third := run("r3", 3)
	if third.ChunksReadBackReused == 0 || !strings.Contains(third.Verification, "reused") {
		t.Errorf("the third receipt states %+v", third)
	}
	h.metrics("holdfast_damaged_packs_total 1")
}
