package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// TestVolumesOfOthers: an instance whose volume's path was made to lead to another tenant's
// volume is neither backed up nor restored, in each way to do that; the log says so at the
// start, and the other instances go on. Once the path is right again, no restart is needed.
func TestVolumesOfOthers(t *testing.T) {
	testbed.Need(t, "root")
	victim := "what phone-3 holds" // of the tenant "other"
	for name, c := range map[string]struct {
		spoil, mend func(volume, other string) error
		want        string
	}{
		"a link": {
			func(volume, other string) error {
				return errors.Join(os.Rename(volume, volume+".aside"), os.Symlink(other, volume))
			},
			func(volume, _ string) error {
				return errors.Join(os.Remove(volume), os.Rename(volume+".aside", volume))
			},
			"is a symbolic link",
		},
		"a bind mount": {
			func(volume, other string) error { return unix.Mount(other, volume, "", unix.MS_BIND, "") },
			func(volume, _ string) error { return unix.Unmount(volume, 0) },
			"overlaps instances[",
		},
		"a bind mount of a part": {
			func(volume, other string) error {
				return unix.Mount(filepath.Join(other, "data"), volume, "", unix.MS_BIND, "")
			},
			func(volume, _ string) error { return unix.Unmount(volume, 0) },
			"overlaps instances[",
		},
		"the tenant's own parent": {
			func(volume, _ string) error { return os.Chown(filepath.Dir(volume), 1000, 1000) },
			func(volume, _ string) error { return os.Chown(filepath.Dir(volume), 0, 0) },
			"can be written by its owner, user 1000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			volume, other := h.in("own/phone-1"), h.in("volumes/phone-3")
			h.write("own/phone-1/data/file", "what phone-1 holds", 0o640)
			h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-1"), "path: "+volume, 1)
			mended := false
			mend := func() {
				if !mended {
					mended = true
					if err := c.mend(volume, other); err != nil {
						t.Error(err)
					}
				}
			}
			if err := c.spoil(volume, other); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(mend) // before the test's folder is removed
			h.start()
			if !strings.Contains(h.logs.String(), "an instance is refused until its volumes are configured otherwise") {
				t.Error("the log says nothing at the start")
			}
			h.backup("acme", "backup-1", "phone-1")
			if why := h.told("holdfast.backup.failed", "phone-1"); !strings.Contains(why, c.want) {
				t.Errorf("the backup fails with %q, want %q", why, c.want)
			}
			if s := h.state("phone-1"); s != "running" {
				t.Errorf("the instance is %s", s)
			}
			h.write("phone-1.state", "stopped\n", 0o600)
			h.call("POST", "/v1/instances/prepare", "acme", "prepare-1", `{"instance_ids": ["phone-1"]}`)
			h.told("holdfast.restore.failed", "phone-1")
			if got, err := os.ReadFile(filepath.Join(other, "data", "file")); err != nil || string(got) != victim {
				t.Errorf("the other's volume holds %q, %v", got, err)
			}
			h.backup("acme", "backup-2", "phone-2") // the others go on
			h.told("holdfast.backup.completed", "phone-2")
			mend()
			h.write("phone-1.state", "running\n", 0o600)
			h.backup("acme", "backup-3", "phone-1")
			h.told("holdfast.backup.completed", "phone-1")
		})
	}
}
