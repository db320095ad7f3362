package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/origin"
	"holdfast/internal/testbed"
)

// TestVolumeMark: an operator sees whose volume it is and that a copy is a copy, and takes the
// mark off.
func TestVolumeMark(t *testing.T) {
	at := testbed.Ext4(t)
	volume, duplicate := filepath.Join(at, "volume"), filepath.Join(at, "copy")
	if err := os.Mkdir(volume, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := origin.Write(volume, origin.Mark{Backup: "b7", Seq: 7, Vault: "v", Tenant: "acme", Instance: "phone-1", Volume: "data", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("cp", "-a", volume, duplicate).Run(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{volume: "on this very folder", duplicate: "this is a copy"} {
		code, out, stderr := runWith(t, nil, "volume-mark", path)
		if code != exitDone {
			t.Fatal(stderr)
		}
		for _, want := range []string{"b7, number 7", "phone-1", "acme", want} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is not in\n%s", path, want, out)
			}
		}
	}
	code, out, stderr := runWith(t, nil, "volume-mark", "--remove", "--json", volume)
	var got volumeMarkJSON
	if err := json.Unmarshal([]byte(out), &got); code != exitDone || err != nil || !got.Removed || !got.Own || got.Mark.Backup != "b7" {
		t.Errorf("exit code %d, %v: %s%s", code, err, out, stderr)
	}
	if _, out, _ := runWith(t, nil, "volume-mark", volume); !strings.Contains(out, "the volume has no mark") {
		t.Errorf("after its removal: %s", out)
	}
}
