package agent_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/agent/api"
	"holdfast/internal/testbed"
)

// hangs makes the file system answer none of the operations, or nothing at all when none is named,
// until the returned function is called.
func hangs(t *testing.T, f *testbed.FUSE, ops ...testbed.FUSEOp) (hung *atomic.Int32, free func()) {
	t.Helper()
	hung = new(atomic.Int32)
	gate := make(chan struct{})
	free = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(free)
	f.Set(testbed.Oddity{Fail: func(op testbed.FUSEOp, _ string) syscall.Errno {
		for _, o := range ops {
			if o != op {
				continue
			}
			hung.Add(1)
			<-gate
			hung.Add(-1)
		}
		return 0
	}})
	return hung, free
}

// everything are the operations of a look at a volume and of a read.
var everything = []testbed.FUSEOp{
	testbed.FUSELookup, testbed.FUSEStat, testbed.FUSEOpen, testbed.FUSERead, testbed.FUSEOpenFolder, testbed.FUSEReadFolder, testbed.FUSEStatfs, testbed.FUSEGetXattr,
	testbed.FUSEListXattr,
}

// onFUSE puts the volume of phone-1 on a FUSE.
func onFUSE(t *testing.T, h *host) *testbed.FUSE {
	t.Helper()
	f := testbed.StartFUSE(t)
	for name, content := range map[string]string{"data/file": "what phone-1 holds", "data/other": "more"} {
		path := filepath.Join(f.Folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.volumeAt(filepath.Join(f.Point, "data"), "frozen")
	// The process of the test serves the file system, and so can't be made to flush its open files.
	h.cfg = strings.Replace(h.cfg, "path: "+filepath.Join(f.Point, "data")+"}", "path: "+filepath.Join(f.Point, "data")+", accept_unflushed: true}", 1)
	h.cfg = strings.ReplaceAll(h.cfg, "snapshot: freeze}", "snapshot: freeze, accept_unflushed: true}")
	return f
}

// releases has an instance backed up and released, and tries again where
// a busy machine did not come that far before the deadline of the hold.
func (h *host) releases(request, id string) {
	h.t.Helper()
	failures := func() (n int) {
		for _, e := range h.plane.all() {
			if e.Type == "holdfast.backup.failed" && e.Instance == id {
				n++
			}
		}
		return n
	}
	released := func() bool { return h.plane.took("holdfast.instance.released", id) != nil }
	for i := 0; !released() && i < 5; i++ {
		before := failures()
		h.backup("acme", fmt.Sprint(request, i), id)
		h.eventually(id+" is released", func() bool { return released() || failures() > before })
	}
	if !released() {
		h.t.Errorf("%s is not released", id)
	}
}

// othersGoOn looks whether the agent answers, and backs up an instance whose storage is well.
func (h *host) othersGoOn(request string, hung *atomic.Int32) {
	h.t.Helper()
	for range 20 {
		a := h.call(http.MethodGet, "/v1/instances/batch-query-status?instance_ids=phone-1,phone-2", "acme", "r", "")
		if a.Status >= 500 {
			h.t.Errorf("status of both: %+v", a)
		}
	}
	h.call(http.MethodGet, "/v1/agent/instances", "", "r", "")
	h.releases(request, "phone-2")
	if n := hung.Load(); n > 12 {
		h.t.Errorf("%d calls hang", n)
	}
}

// TestHungVolumeAtTheStart: a volume that does not answer keeps neither the start nor others, and
// its instance is not touched.
func TestHungVolumeAtTheStart(t *testing.T) {
	h := newHost(t)
	f := onFUSE(t, h)
	hung, free := hangs(t, f, everything...)
	h.start()
	body, _ := json.Marshal(map[string][]string{"instance_ids": {"phone-1", "phone-2"}})
	if a := h.call(http.MethodPost, "/v1/instances/backup", "acme", "both", string(body)); a.Code != api.CodeNotRunning || !strings.Contains(a.Msg, "does not answer") {
		t.Errorf("a command for the hung volume: %+v", a)
	}
	h.othersGoOn("well", hung)
	if s := h.state("phone-1"); s != "running" {
		t.Errorf("the instance of the hung volume is %s", s)
	}
	free()
	f.Set()
	h.eventually("phone-1 is taken again", func() bool {
		body, _ := json.Marshal(map[string][]string{"instance_ids": {"phone-1"}})
		return h.call(http.MethodPost, "/v1/instances/backup", "acme", "again", string(body)).Code == api.CodeOK
	})
	h.eventually("phone-1 is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
}

// TestVolumeHangsInABackup: an instance whose volume hangs while it is read runs again when its
// time is over, although the engine hangs; so do the stop and the next start. The engine's run has
// no effect when the volume answers again.
func TestVolumeHangsInABackup(t *testing.T) {
	t.Cleanup(agent.SetEngineTime(time.Second)) // after the agent has ended
	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "limits: {drain_timeout: 5s}", "limits: {drain_timeout: 1s, frozen_deadline: 6s}", 1)
	f := onFUSE(t, h)
	hung, free := hangs(t, f, testbed.FUSERead)
	h.start()
	failed := func() bool { return h.plane.took("holdfast.backup.failed", "phone-1") != nil }
	for i := 0; hung.Load() == 0; i++ {
		h.backup("acme", fmt.Sprint("hangs-", i), "phone-1")
		h.eventually("the engine hangs", func() bool { return hung.Load() > 0 || failed() })
		if hung.Load() == 0 { // a busy machine did not come to the read before the deadline
			h.ended("holdfast.backup.failed")
		}
	}
	h.othersGoOn("well", hung)
	h.eventually("phone-1 runs again", func() bool {
		return failed() && h.state("phone-1") == "running"
	})
	free()
	f.Set()
	h.releases("again", "phone-1")
}
