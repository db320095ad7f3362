package e2e_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// bulkFile writes a file of random bytes; mib is its size.
func bulkFile(t testing.TB, path string, mib int) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	_, err = io.CopyN(f, rand.Reader, int64(mib)<<20)
	must(t, err)
	must(t, f.Close())
}

// TestPrecopyUnderLoad backs up an instance that never stops writing, while it runs, and
// prints how long it stood still as it saw it itself: from the freeze to the resume
// after the report, several times over. MIB is the size of its volume, ROUNDS how often.
func TestPrecopyUnderLoad(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	mib := fromEnv(t, "MIB", 256)
	volume := filepath.Join(testbed.Filesystem(t, "btrfs", int64(mib)<<20*3+4<<30), "phone", "data")
	must(t, os.MkdirAll(volume, 0o755))
	bulkFile(t, filepath.Join(volume, "bulk"), mib)
	store := filepath.Join(t.TempDir(), "store")
	obstest.Folder(t, store)
	p := startPlane(t)
	h := newHost(t, p, "file://"+store)
	content, err := os.ReadFile(program(t, "burster"))
	must(t, err)
	docker.Import(t, "burster:test", map[string][]byte{"burster": content})
	container := docker.Run(t, testbed.Container{Image: "burster:test", Command: []string{"/burster"}, Binds: []string{volume + ":/data"}})
	h.addDocker("phone-1", docker.Host, container, volume)
	h.extra = "release: control-plane"
	h.allow(planeToken, "role=control-plane")
	h.start("")
	// The neighbour prints the gap in ms before each record.
	printed := func() (gaps []int) {
		for line := range strings.Lines(string(docker.Output(t, container))) {
			var n, gap int
			if _, err := fmt.Sscan(line, &n, &gap); err == nil {
				gaps = append(gaps, gap)
			}
		}
		return gaps
	}
	var gaps []int
	for round := range fromEnv(t, "ROUNDS", 3) {
		begin := len(printed())
		eventually(t, "the instance writes", func() bool { return len(printed()) > begin+20 })
		begin = len(printed())
		h.backup(fmt.Sprint("request-", round), "phone-1")
		eventually(t, "the backup is told", func() bool { return len(p.got(completed))+len(p.got(failed)) == round+1 })
		if len(p.got(failed)) > 0 {
			t.Fatalf("failed: %s", p.got(failed)[0].Data)
		}
		durable := len(printed())
		if st := docker.State(t, container); !st.Paused {
			t.Errorf("the container is %+v", st)
		}
		s := h.receipt(p.got(completed)[round].Event)
		a, raw, _ := h.send(http.MethodPost, "/v1/agent/instances/phone-1/resume", as(planeToken, "resume"), "")
		if a.Status != http.StatusOK {
			t.Fatalf("resume: %s", raw)
		}
		if in := len(lines(h.records("phone-1"))); in < durable {
			t.Errorf("%d records were durable before the report, and the backup has %d", durable, in)
		}
		eventually(t, "the instance goes on", func() bool { return len(printed()) > durable+2 })
		gap := slices.Max(printed()[begin:])
		gaps = append(gaps, gap)
		t.Logf("round %d: the longest gap is %d ms; the receipt says %.3f s from the freeze; sent in it %d MiB", round, gap, s.FreezeSeconds, s.BytesSent>>20)
	}
	slices.Sort(gaps)
	t.Logf("%d MiB, 20 MB/s: longest gaps between two writes, over backup, report and resume: %v ms", mib, gaps)
}

// records restores the newest backup of an instance and returns what its records are.
func (h *host) records(instance string) []byte {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.restore(instance), "records"))
	must(h.t, err)
	return b
}

// TestSameCommandFiftyTimes sends one command fifty times at once to an
// agent that is killed meanwhile, and fifty times to the next: one task.
func TestSameCommandFiftyTimes(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	obstest.Folder(t, store)
	p := startPlane(t)
	h := newHost(t, p, "file://"+store)
	h.addFolder("phone-1", tenant, false)
	h.extra = "limits: {requests: 1000, connections: 1000}"
	tasks := map[string]int{}
	var mu sync.Mutex
	send := func(all *sync.WaitGroup, first func()) {
		once := sync.OnceFunc(first)
		for range 50 {
			all.Go(func() {
				a, err := h.call(http.MethodPost, backupPath, "request-1", map[string]any{"instance_ids": []string{"phone-1"}})
				if err != nil {
					return // it is being killed
				}
				mu.Lock()
				defer mu.Unlock()
				if a.Status != http.StatusOK || a.Data.TaskID == "" {
					t.Errorf("the answer is %+v", a)
				}
				tasks[a.Data.TaskID]++
				once()
			})
		}
	}
	var senders sync.WaitGroup
	answered := make(chan struct{})
	h.start("")
	send(&senders, func() { close(answered) })
	<-answered
	h.kill()
	senders.Wait()
	t.Logf("answers before the kill: %v", tasks)
	h.start("")
	send(&senders, func() {})
	senders.Wait()
	eventually(t, "the backup is told", func() bool { return len(p.got(released)) > 0 })
	jobs := map[any]bool{}
	for _, e := range p.got("") {
		jobs[data(t, e.Event)["job_id"]] = true
	}
	if len(tasks) != 1 || len(jobs) != 1 {
		t.Errorf("tasks %v, jobs %v", tasks, jobs)
	}
	t.Logf("answers: %v", tasks)
}
