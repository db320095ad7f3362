package agent_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// TestStoreAway: with the store away, an instance on a volume without snapshots
// runs. An instance that stands still when the store goes away runs again after
// limits.store_patience, and is backed up and released when the store is back.
func TestStoreAway(t *testing.T) {
	minio := testbed.StartMinIO(t)
	for _, v := range minio.Env() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	toxic := testbed.StartToxic(t, minio.Endpoint)
	bucket := minio.Bucket(t)
	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "file://"+h.in("store"), minio.URLVia(toxic.Endpoint, bucket, "p"), 1)
	h.cfg = strings.Replace(h.cfg, "limits: {drain_timeout: 5s}", "limits: {drain_timeout: 5s, store_patience: 2s}", 1)
	h.cfg += "\nhold: frozen\nrelease: control-plane\n"
	h.start()
	h.backup("acme", "first", "phone-1")
	h.eventually("held with a backup", func() bool { return h.plane.took("holdfast.backup.completed", "phone-1") != nil })
	h.call("POST", "/v1/agent/instances/phone-1/resume", "acme", "resume-1", "")
	h.ended("holdfast.instance.resumed")
	before, err := os.Stat(h.in("phone-1.state"))
	if err != nil {
		t.Fatal(err)
	}

	minio.Stop() // the vault is open, and its header is confirmed before each job
	h.backup("acme", "second", "phone-1")
	h.eventually("the job waits for the store", func() bool { return strings.Contains(h.logs.String(), "store request failed, trying again") })
	time.Sleep(3 * time.Second) // longer than the patience
	if after, err := os.Stat(h.in("phone-1.state")); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the instance was touched (%v), it is %s", err, h.state("phone-1"))
	}
	minio.Start()
	h.eventually("held with a backup", func() bool { return h.plane.took("holdfast.backup.completed", "phone-1") != nil })
	h.call("POST", "/v1/agent/instances/phone-1/resume", "acme", "resume-2", "")
	h.ended("holdfast.instance.resumed")

	// From here on all that is sent is slow, so that the store can go away in the middle.
	content := strings.Repeat("what phone-1 holds now ", 4096)
	h.write("volumes/phone-1/data/more", content, 0o640)
	toxic.Add("latency", "upstream", map[string]int{"latency": 500})
	h.backup("acme", "third", "phone-1")
	h.eventually("it stands still", func() bool { return h.state("phone-1") == "frozen" })
	minio.Stop()
	h.eventually("it runs again", func() bool { return h.state("phone-1") == "running" })
	if h.plane.took("holdfast.backup.failed", "phone-1") != nil {
		t.Error("the job failed")
	}
	toxic.Heal()
	minio.Start()
	if !strings.Contains(h.logs.String(), "is held anew when the store answers") {
		t.Error("nothing says why the instance runs again")
	}
}
