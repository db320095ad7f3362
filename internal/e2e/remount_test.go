package e2e_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// cli is the command line with a vault and a cache of its own.
type cli struct {
	t   *testing.T
	dir string
	// boot is a file that is mounted over the boot id of the kernel; "" for none.
	boot string
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	c := &cli{t: t, dir: t.TempDir()}
	c.run("key", "new", "--out", filepath.Join(c.dir, "host.key"))
	c.run("vault", "create")
	return c
}

// try runs the command and returns its output, and its stderr with the error.
func (c *cli) try(args ...string) (stdout, stderr string, err error) {
	c.t.Helper()
	binary := program(c.t, "holdfast")
	cmd := exec.Command(binary, args...)
	if c.boot != "" {
		cmd = exec.Command("unshare", append([]string{
			"--mount", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, c.boot, binary,
		}, args...)...)
	}
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(c.dir, "cache"), "HOLDFAST_STORE=file://"+filepath.Join(c.dir, "store"),
		"HOLDFAST_KEY="+filepath.Join(c.dir, "host.key"))
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err = cmd.Run()
	return out.String(), complaint.String(), err
}

func (c *cli) run(args ...string) string {
	c.t.Helper()
	out, complaint, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("holdfast %s: %v: %s", strings.Join(args, " "), err, complaint)
	}
	return out
}

// backup returns how many files there are, and how many were not read.
func (c *cli) backup(dir string, flags ...string) (files, unchanged uint64) {
	c.t.Helper()
	var res struct{ Files, Unchanged uint64 }
	out := c.run(append([]string{"backup", "--json", "--quiet", "--instance", "phone", dir}, flags...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &res); err != nil {
		c.t.Fatal(err)
	}
	return res.Files, res.Unchanged
}

// TestPowerCutKeepsNoOldContent: the messages of the real program after
// a power cut, after a reboot, and about a volume that is not mounted.
func TestPowerCutKeepsNoOldContent(t *testing.T) {
	testbed.Need(t, "unshare")
	c, d := newCLI(t), testbed.NewPowerDisk(t, "ext4", 256<<20)
	dir := filepath.Join(d.Point, "volume")
	must(t, os.Mkdir(dir, 0o755))
	database := filepath.Join(dir, "database")
	for _, name := range []string{"database", "a", "b", "c"} {
		must(t, os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("old "), 4096), 0o600))
	}
	d.Sync()
	time.Sleep(3 * time.Second) // younger files are read in any case
	c.backup(dir)
	if files, unchanged := c.backup(dir); unchanged != files || files != 4 {
		t.Fatalf("%d of %d files are known", unchanged, files)
	}

	paid := bytes.Repeat([]byte("PAID"), 4096)
	f, err := os.OpenFile(database, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(paid, 0)
	must(t, err)
	must(t, unix.Fdatasync(int(f.Fd())))
	must(t, f.Close())
	d.PowerCut()
	if files, unchanged := c.backup(dir); unchanged != 0 {
		t.Errorf("after a power cut %d of %d files are taken as unchanged", unchanged, files)
	}
	out := filepath.Join(c.dir, "out")
	c.run("restore", "--instance", "phone", out)
	if got, err := os.ReadFile(filepath.Join(out, "database")); err != nil || !bytes.Equal(got, paid) {
		t.Errorf("the restored database is %.4q (%v)", got, err)
	}

	// Another boot of the host.
	c.boot = filepath.Join(testbed.Tmpfs(t, "size=1m"), "boot_id")
	must(t, os.WriteFile(c.boot, []byte("3d0c2a52-7d5f-4a0b-8c6a-6f1b1c9d2e10\n"), 0o600))
	for _, want := range []uint64{0, 4} {
		if files, unchanged := c.backup(dir); unchanged != want {
			t.Errorf("after a reboot %d of %d files are taken as unchanged, want %d", unchanged, files, want)
		}
	}

	d.Unmount()
	must(t, os.Mkdir(dir, 0o755)) // below the mount point
	_, complaint, err := c.try("backup", "--instance", "phone", dir)
	if err == nil || !strings.Contains(complaint, "4 files") || !strings.Contains(complaint, "--allow-empty") {
		t.Errorf("a volume that is not mounted: %v, %s", err, complaint)
	}
	if files, _ := c.backup(dir, "--allow-empty"); files != 0 {
		t.Errorf("%d files", files)
	}
}
