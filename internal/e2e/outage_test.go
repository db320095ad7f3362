package e2e_test

import (
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// packsIn counts the packs that MinIO keeps below its data folder, and their bytes.
func packsIn(t testing.TB, m *testbed.S3) (n int, bytes int64) {
	t.Helper()
	// A folder that goes away while it is walked is no fault: MinIO moves its new files.
	_ = filepath.WalkDir(m.DataDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, ".minio.sys") || !strings.Contains(path, "/packs/") {
			return nil
		}
		if d.Name() == "xl.meta" {
			n++
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return n, bytes
}

const bulk = 200 << 20

// outage starts a job with much to upload and takes the store away in the middle.
func outage(t *testing.T, extra string) (h *host, p *plane, m *testbed.S3, d *testbed.Docker, container, volume string) {
	t.Helper()
	needs(t)
	m, d = testbed.StartMinIO(t), testbed.StartDocker(t)
	volume = filepath.Join(testbed.Btrfs(t), "phone", "data")
	must(t, os.MkdirAll(volume, 0o755))
	content := make([]byte, bulk)
	_, _ = rand.Read(content)
	must(t, os.WriteFile(filepath.Join(volume, "bulk"), content, 0o600))
	container = startWriter(t, d, volume)
	p = startPlane(t)
	h = newHost(t, p, m.URL(m.Bucket(t), ""), m.Env()...)
	h.addDocker("phone-1", d.Host, container, volume)
	h.extra = extra
	h.start("")
	h.backup("request-1", "phone-1")
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		if n, _ := packsIn(t, m); n > 0 {
			break
		} else if time.Now().After(end) {
			t.Fatal("no pack arrives")
		}
	}
	m.Kill()
	if len(p.got(completed)) > 0 {
		t.Fatal("the backup was over before the store went away: the test shows nothing")
	}
	return h, p, m, d, container, volume
}

// TestStoreGoesAwayAndReturns: the job waits, goes on, and stores nothing a second time.
func TestStoreGoesAwayAndReturns(t *testing.T) {
	h, p, m, _, _, volume := outage(t, "")
	time.Sleep(3 * time.Second)
	m.Start()
	eventually(t, "the release is reported", func() bool { return len(p.got(released)) == 1 })
	if n, bytes := packsIn(t, m); bytes > bulk*103/100 {
		t.Errorf("%d packs have %d bytes for %d of content", n, bytes, bulk)
	}
	if d := differences(t, volume, h.restore("phone-1")); d != "" {
		t.Errorf("the backup differs:\n%s", d)
	}
	h.cli("verify", "--read-data", "100")
}

// TestKilledInMidUpload kills the agent after some packs: the next one sends the rest.
func TestKilledInMidUpload(t *testing.T) {
	h, p, m, _, _, volume := outage(t, "")
	h.kill()
	m.Start()
	before, _ := packsIn(t, m)
	h.start("")
	eventually(t, "the release is reported", func() bool { return len(p.got(released)) == 1 })
	if n, bytes := packsIn(t, m); bytes > bulk*103/100 {
		t.Errorf("%d packs, %d of them from before the kill, have %d bytes for %d of content", n, before, bytes, bulk)
	}
	if d := differences(t, volume, h.restore("phone-1")); d != "" {
		t.Errorf("the backup differs:\n%s", d)
	}
}

// TestStoreStaysAway: when the deadline passes, the instance runs again and the report says why.
func TestStoreStaysAway(t *testing.T) {
	h, p, _, d, container, volume := outage(t, "hold: frozen\nlimits: {frozen_deadline: 30s}")
	eventually(t, "the failure is reported", func() bool { return len(p.got(failed)) == 1 })
	if st := d.State(t, container); !st.Running || st.Paused {
		t.Errorf("the container is %+v", st)
	}
	why, _ := data(t, p.got(failed)[0].Event)["reason"].(string)
	t.Logf("the report says: %s", why)
	if !strings.Contains(why, "30s") || !strings.Contains(why, "store unavailable") {
		t.Errorf("the report does not say why: %s", p.got(failed)[0].Data)
	}
	n := len(lines(d.Output(t, container)))
	eventually(t, "the instance goes on writing", func() bool { return len(lines(d.Output(t, container))) > n+10 })
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(volume), ".*")); err != nil || len(left) != 0 {
		t.Errorf("left beside the volume: %v, %v", left, err)
	}
	if len(p.got(completed))+len(p.got(released)) != 0 {
		t.Errorf("reports: %v", p.got(""))
	}
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
