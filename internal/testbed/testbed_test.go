package testbed_test

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// childVariable makes a run of this test program the victim of TestKilledProcessLeavesNothing.
const childVariable = "HOLDFAST_TESTBED_VICTIM"

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func TestFilesystems(t *testing.T) {
	for kind, mount := range map[string]func(testing.TB) string{
		"btrfs": testbed.Btrfs, "ext4": testbed.Ext4, "xfs": testbed.Xfs,
	} {
		var point string
		t.Run(kind, func(t *testing.T) {
			point = mount(t)
			if !mounted(t, point+" "+kind) {
				t.Fatalf("%s is no %s", point, kind)
			}
			if err := os.WriteFile(filepath.Join(point, "file"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		})
		if point != "" && mounted(t, point+" ") {
			t.Errorf("%s is still mounted after its test", point)
		}
	}
}

func TestMinIOKeepsDataOverRestart(t *testing.T) {
	m := testbed.StartMinIO(t)
	bucket := m.Bucket(t)
	object := filepath.Join(m.DataDir(), bucket)
	if _, err := os.Stat(object); err != nil {
		t.Fatal(err)
	}
	endpoint := m.Endpoint
	m.Stop()
	if _, err := http.Get(endpoint + "/minio/health/live"); err == nil {
		t.Fatal("it answers although it was stopped")
	}
	m.Start()
	if m.Endpoint != endpoint {
		t.Errorf("the address changed from %s to %s", endpoint, m.Endpoint)
	}
	if second := m.Bucket(t); second == bucket {
		t.Errorf("two buckets named %s", bucket)
	}
	if got, want := m.URL(bucket, "a/b"), "s3://"+bucket+"/a/b?endpoint="; !strings.HasPrefix(got, want) {
		t.Errorf("address %s does not begin with %s", got, want)
	}
}

func TestKilledProcessLeavesNothing(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		point := testbed.Btrfs(t)
		m := testbed.StartMinIO(t)
		d := testbed.StartDocker(t)
		id := d.Run(t, testbed.Container{Command: []string{"/bin/busybox", "sh", "-c", "/bin/busybox sleep 1000; echo " + point}})
		post(t, d, "/containers/"+id+"/pause")
		if err := os.WriteFile(os.Getenv(childVariable), []byte(point+"\n"+m.DataDir()), 0o600); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	testbed.Need(t, "btrfs", "minio", "docker")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	told := filepath.Join(t.TempDir(), "told")
	victim := exec.Command(self, "-test.run=^TestKilledProcessLeavesNothing$")
	victim.Env = append(os.Environ(), childVariable+"="+told)
	var said bytes.Buffer
	victim.Stdout, victim.Stderr = &said, &said
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = victim.Process.Kill()
		_ = victim.Wait()
		if t.Failed() {
			t.Logf("the victim said: %s", said.Bytes())
		}
	}()
	var point, data string
	waitFor(t, "the victim to be ready", func() bool {
		text, err := os.ReadFile(told)
		var ok bool
		point, data, ok = strings.Cut(string(text), "\n")
		return err == nil && ok
	})
	if !mounted(t, point+" btrfs") {
		t.Fatalf("%s is not mounted", point)
	}
	if err := victim.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	area := filepath.Dir(filepath.Dir(point))
	waitFor(t, "mounts, processes and folders to go", func() bool {
		_, err := os.Stat(area)
		return os.IsNotExist(err) && !mounted(t, area) && !running(area) && !running(data)
	})
}

// mounted reports whether /proc/mounts has a line with that text.
func mounted(t *testing.T, text string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(table, []byte(" "+text))
}

// running reports whether any command line holds that text.
func running(text string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && bytes.Contains(line, []byte(text)) {
			return true
		}
	}
	return false
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}
