package agent_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/internal/obs"
	"holdfast/internal/obs/proxytest"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// misbehaving are the rows of the catalogue that a job meets here.
// The rest is left to internal/restore, whose trials need no agent.
var misbehaving = []string{
	"list: 200 with an error document", "list: 200 with nothing", "list: 200 with half of a list", "list: page 1 again and again",
	"list: the same token on every page", "list: a key outside of the prefix", "list: a key shorter than the prefix", "list: a row without key",
	"list: every page says that another follows", "list: full pages say that they are the last",
	"get: an archive class", "get: a flipped bit", "get: a key that is disabled", "get: Range is ignored",
	"get: 404 once for what was just put", "head: 404 once for what was just put", "head: 404 with the page of an ingress",
	"put: 200 with an error document", "put: 200 with the page of a gateway", "put: stored, and the answers are lost",
	"put: a quota is used up", "put: the condition is ignored",
}

// TestNoReleaseOnAMisbehavingStore: for each wrong answer of the store, an
// instance goes down only when the sound server restores its backup exactly;
// otherwise the job fails and the instance runs. The agent outlives all of it.
func TestNoReleaseOnAMisbehavingStore(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "y")
	met := 0
	for _, m := range proxytest.Misbehaviours() {
		if !slices.Contains(misbehaving, m.Name()) {
			continue
		}
		met++
		// Paths of the test's folder stand in the configuration, where a comma ends a value.
		t.Run(strings.ReplaceAll(m.Name(), ",", ""), func(t *testing.T) {
			t.Parallel()
			meetStore(t, &m)
		})
	}
	if met != len(misbehaving) {
		t.Errorf("the catalogue has %d of %d rows", met, len(misbehaving))
	}
}

func meetStore(t *testing.T, m *proxytest.Misbehaviour) {
	b := proxytest.NewBucket()
	b.PageSize = 2
	var handler atomic.Pointer[http.Handler]
	behave := func(h http.Handler) { handler.Store(&h) }
	behave(b)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*handler.Load()).ServeHTTP(w, r) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	url := "s3://" + proxytest.BucketName + "/v?region=r&endpoint=" + server.URL

	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "file://"+h.in("store"), url, 1)
	// Both instances have the same content beside some of their own,
	// so that the second backup rests on the packs of the first one.
	shared := strings.Repeat("what both hold. ", 10_000)
	for _, id := range []string{"phone-1", "phone-2"} {
		h.write(filepath.Join("volumes", id, "data", "shared"), shared, 0o640)
	}
	h.start()
	h.backup("acme", "r1", "phone-2")
	h.eventually("the first is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-2") != nil })

	behave(m.Handler(b))
	task := h.backup("acme", "r2", "phone-1")
	// a store that says that it is unavailable may come back for hours: an operator loses patience
	if !m.Works {
		impatient := time.AfterFunc(3*time.Second, func() {
			if err := api.NewClient(h.in("s")).Cancel(t.Context(), task); err != nil {
				t.Logf("cancel: %v", err) // the job had ended
			}
		})
		defer impatient.Stop()
	}
	h.eventually("the job ends", func() bool {
		return h.plane.took("holdfast.instance.released", "phone-1") != nil || h.plane.took("holdfast.backup.failed", "phone-1") != nil
	})
	h.eventually("the instance runs or is down", func() bool { return h.state("phone-1") != "frozen" })
	behave(b)
	state, failed := h.state("phone-1"), h.plane.took("holdfast.backup.failed", "phone-1")
	switch {
	case state == "running" && failed != nil:
		if m.Works {
			t.Errorf("the job failed: %s", failed.Data)
		}
	case state == "stopped" && failed == nil:
		h.newestHolds(url, "phone-1", map[string]string{"file": "what phone-1 holds", "shared": shared})
	default:
		t.Errorf("the instance is %s, and the job failed: %v", state, failed != nil)
	}
	// The agent goes on, and the first instance's backup is unharmed.
	h.newestHolds(url, "phone-2", map[string]string{"file": "what phone-2 holds", "shared": shared})
	h.backup("other", "r3", "phone-3")
	h.eventually("the next is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-3") != nil })
	if strings.Contains(h.logs.String(), "panic") {
		t.Error("something panicked")
	}
}

// newestHolds restores the newest backup of an instance of acme
// from a store, and compares its files.
func (h *host) newestHolds(url, instance string, want map[string]string) {
	h.t.Helper()
	ctx := h.t.Context()
	store, err := obs.Open(ctx, url, obs.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer store.Close()
	identity, err := vault.LoadIdentity(h.in("host.key"))
	if err != nil {
		h.t.Fatal(err)
	}
	v, err := vault.Open(ctx, store, "acme", []byte("a secret of the fleet"), identity)
	if err != nil {
		h.t.Fatal(err)
	}
	defer v.Close()
	ref, err := v.Newest(ctx, instance)
	if err != nil {
		h.t.Fatal(err)
	}
	dest := h.in("restored-" + instance)
	if _, err := restore.Run(ctx, restore.Options{Vault: v, Ref: ref, Dest: dest}); err != nil {
		h.t.Fatal(err)
	}
	for name, content := range want {
		if got, err := os.ReadFile(filepath.Join(dest, "data", name)); err != nil || string(got) != content {
			h.t.Errorf("%s of %s was restored to %d bytes, want %d: %v", name, instance, len(got), len(content), err)
		}
	}
}
