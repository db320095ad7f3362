package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

const (
	started   = "holdfast.backup.started"
	completed = "holdfast.backup.completed"
	failed    = "holdfast.backup.failed"
	released  = "holdfast.instance.released"
)

// fill gives a volume what phones have beside their records.
func fill(t testing.TB, dir string, files int) {
	t.Helper()
	for i := range files {
		p := filepath.Join(dir, fmt.Sprintf("app%d/cache/%d", i%9, i))
		must(t, os.MkdirAll(filepath.Dir(p), 0o751))
		must(t, os.WriteFile(p, []byte(strings.Repeat(fmt.Sprintf("%d,", i), i%3000)), 0o640))
		must(t, os.Chown(p, 10000+i%50, 10000+i%50))
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("end"), 10<<20)
	must(t, err)
	must(t, sparse.Close())
	must(t, os.Link(filepath.Join(dir, "sparse"), filepath.Join(dir, "app0/hard")))
	must(t, os.Symlink("../sparse", filepath.Join(dir, "app0/soft")))
	for _, c := range [][]string{
		{"setfattr", "-n", "trusted.overlay.opaque", "-v", "y", filepath.Join(dir, "app1")},
		{"setfacl", "-m", "u:1234:rx,d:g:77:r", filepath.Join(dir, "app2")},
		{"mknod", filepath.Join(dir, "whiteout"), "c", "0", "0"},
		{"mkfifo", filepath.Join(dir, "fifo")},
		{"touch", "-d", "1969-12-31 23:59:58.123456789", filepath.Join(dir, "app3")},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", c, err, out)
		}
	}
}

// startWriter runs a container that appends records to the volume, and waits until it does.
func startWriter(t testing.TB, d *testbed.Docker, volume string) string {
	t.Helper()
	content, err := os.ReadFile(program(t, "writer"))
	must(t, err)
	d.Import(t, "writer:test", map[string][]byte{"writer": content})
	id := d.Run(t, testbed.Container{Image: "writer:test", Command: []string{"/writer"}, Binds: []string{volume + ":/data"}})
	eventually(t, "instance writes", func() bool { return len(lines(d.Output(t, id))) > 20 })
	return id
}

func needs(t testing.TB) {
	testbed.Need(t, "root", "btrfs", "docker", "rsync", "setfattr", "setfacl")
}

// TestMainJob is the job that the product is for: command in, backup in object storage, report out,
// instance down, and back again. Every part is real.
func TestMainJob(t *testing.T) {
	needs(t)
	minio := testbed.StartMinIO(t)
	docker := testbed.StartDocker(t)
	mount := testbed.Btrfs(t)
	volume := filepath.Join(mount, "phone-1", "data")
	must(t, os.Mkdir(filepath.Dir(volume), 0o755))
	if out, err := exec.Command("btrfs", "subvolume", "create", volume).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fill(t, volume, 500)
	container := startWriter(t, docker, volume)

	p := startPlane(t)
	acknowledge := make(chan struct{})
	reached := make(chan model.Event, 1)
	p.setAnswer(func(e model.Event) int {
		if e.Type == completed {
			select {
			case reached <- e:
			default:
			}
			<-acknowledge
		}
		return http.StatusOK
	})
	held := true
	defer func() {
		if held {
			close(acknowledge)
		}
	}()
	h := newHost(t, p, minio.URL(minio.Bucket(t), "prod"), minio.Env()...)
	h.addDocker("phone-1", docker.Host, container, volume)
	h.start("")
	task := h.backup("request-1", "phone-1")

	var report model.Event
	select {
	case report = <-reached:
	case <-time.After(patience):
		t.Fatal("no report")
	}
	// The acknowledgement is held back: the instance must be held, and not be down, for as long.
	snapshots, err := filepath.Glob(filepath.Join(filepath.Dir(volume), ".holdfast-snapshots", "*"))
	must(t, err)
	// The snapshot of the backup, and its base, which is the snapshot of the round before.
	if len(snapshots) != 2 {
		t.Fatalf("snapshots beside the volume: %v", snapshots)
	}
	for range 20 {
		if s := docker.State(t, container); !s.Paused {
			t.Fatalf("before the acknowledgement the container is %+v", s)
		}
		time.Sleep(50 * time.Millisecond)
	}
	a, err := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "request-2", nil)
	must(t, err)
	if len(a.Data.Jobs) != 1 || a.Data.Jobs[0].Status != 1 {
		t.Errorf("task before the acknowledgement: %+v", a)
	}
	restored := h.restore("phone-1")
	last := slices.MinFunc(snapshots, func(a, b string) int { return len(differences(t, a, restored)) - len(differences(t, b, restored)) })
	if d := differences(t, last, restored); d != "" {
		t.Errorf("the restored tree differs from the final snapshot:\n%s", d)
	}
	s := h.receipt(report)
	if s.Instance != "phone-1" || s.Tenant != tenant || s.Task != task || len(s.ManifestSHA256) != 64 || s.Files == 0 || s.Host != "test-host" || s.Hold != "precopy" {
		t.Errorf("receipt %+v", s)
	}

	before := time.Now()
	held = false
	close(acknowledge)
	eventually(t, "the release is reported", func() bool { return len(p.got(released)) == 1 })
	if st := docker.State(t, container); st.Running || st.Paused {
		t.Errorf("after the release the container is %+v", st)
	}
	var order []string
	for _, e := range p.got("") {
		order = append(order, e.Type)
	}
	if got := strings.Join(order, " "); !strings.HasPrefix(got, started) || !strings.HasSuffix(got, completed+" "+released) {
		t.Errorf("order of reports: %s", got)
	}
	if e := p.got(released)[0]; e.Time.Before(before.Add(-time.Second)) {
		t.Errorf("released at %s, acknowledged at %s", e.Time, before)
	}

	// Invariant nothing-lost: the records that the instance saw become durable are in
	// the backup, and the backup equals the instance's storage now that it is down.
	in := map[string]bool{}
	b, err := os.ReadFile(filepath.Join(restored, "records"))
	must(t, err)
	for _, n := range lines(b) {
		in[n] = true
	}
	printed := lines(docker.Output(t, container))
	for _, n := range printed {
		if !in[n] {
			t.Errorf("record %s was durable before the release and is not in the backup", n)
		}
	}
	t.Logf("%d records printed, %d in the backup; frozen for %.3f s before the report", len(printed), len(in), s.FreezeSeconds)
	if d := differences(t, volume, restored); d != "" {
		t.Errorf("the backup differs from the storage of the instance that is down:\n%s", d)
	}
	eventually(t, "the task is done", func() bool {
		a, err := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "request-3", nil)
		return err == nil && len(a.Data.Jobs) == 1 && a.Data.Jobs[0].Status == 2
	})
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(volume), ".*")); err != nil || len(left) != 0 {
		t.Errorf("left beside the volume: %v, %v", left, err)
	}
	res, err := http.Get("http://" + h.metrics + "/metrics")
	must(t, err)
	page, err := io.ReadAll(res.Body)
	must(t, err)
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	for _, line := range []string{`holdfast_jobs_total{kind="backup",result="success"} 1`, "holdfast_build_info{"} {
		if !strings.Contains(string(page), line) {
			t.Errorf("metrics do not have %s", line)
		}
	}
	h.cli("verify", "--read-data", "100")
	if code := h.stop(); code != 0 {
		t.Errorf("agent's exit code after SIGTERM is %d", code)
	}
}
