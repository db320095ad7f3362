package agent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// otherHost makes a backup of phone-1 with that content as a host
// would whose clock differs by that much.
func (h *host) otherHost(content string, offset time.Duration) string {
	h.t.Helper()
	root := h.t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "data"), 0o750); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "data/file"), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	identity, err := vault.LoadIdentity(h.in("host.key"))
	if err != nil {
		h.t.Fatal(err)
	}
	st, err := obs.Open(h.t.Context(), "file://"+h.in("store"), obs.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer st.Close()
	v, err := vault.Open(h.t.Context(), st, "acme", []byte("a secret of the fleet"), identity)
	if err != nil {
		h.t.Fatal(err)
	}
	defer v.Close()
	res, err := backup.Run(h.t.Context(), backup.Options{
		Vault: v, Instance: "phone-1", Host: "host-2", Sources: []backup.Source{{Volume: "data", Root: root}},
		Now: func() time.Time { return time.Now().Add(offset) },
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return res.BackupID
}

// TestPrepareTakesTheNewestWhateverClocksSay: an instance moves between
// hosts whose clocks differ by years. Each prepare brings the state of the
// last release, and a host whose volumes have that state touches nothing.
func TestPrepareTakesTheNewestWhateverClocksSay(t *testing.T) {
	h := newHost(t)
	h.start()
	over := func() bool {
		a := h.call(http.MethodGet, "/v1/agent/jobs?instance=phone-1&active=true", "", "r", "")
		return string(a.Data) == `{"jobs":[]}`
	}
	release := func(request, content string) {
		t.Helper()
		h.write("phone-1.state", "running\n", 0o600)
		h.write("volumes/phone-1/data/file", content, 0o640)
		h.backup("acme", request, "phone-1")
		h.eventually("it is released", func() bool { return over() && h.state("phone-1") == "stopped" })
	}
	prepared := func(request, want string) {
		t.Helper()
		a := h.call(http.MethodPost, "/v1/instances/prepare", "acme", request, `{"instance_ids":["phone-1"]}`)
		if a.Code != api.CodeOK {
			t.Fatalf("prepare: %+v", a)
		}
		h.eventually("the restore is over", over)
		got, err := os.ReadFile(h.in("volumes/phone-1/data/file"))
		if err != nil || string(got) != want {
			t.Errorf("%s: the volume holds %q (%v), want %q\n%s", request, got, err, want, h.logs)
		}
	}
	release("r1", "the first state")
	h.otherHost("what host-2 did", 5*365*24*time.Hour)
	prepared("p1", "what host-2 did")
	release("r2", "what this host did later")
	prepared("p2", "what this host did later") // ready as it is
	if err := os.RemoveAll(h.in("volumes/phone-1")); err != nil {
		t.Fatal(err)
	}
	prepared("p3", "what this host did later")
	h.otherHost("what host-2 did last", -3*24*time.Hour)
	prepared("p4", "what host-2 did last")
}
