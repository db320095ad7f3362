package snapshot_test

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// A volume that is a mount of its own is read in place, and Advice names the setting
// that makes snapshots possible. The test follows the advice, and snapshots are made.
func TestAdviceForAVolumeMountedByItself(t *testing.T) {
	testbed.Need(t, "btrfs")
	top := testbed.Btrfs(t)
	subvolume(t, filepath.Join(top, "vol"))
	device := strings.TrimSpace(command(t, "findmnt", "-n", "-o", "SOURCE", top))
	volume := mountAt(t, device, "btrfs", "subvol=vol")
	req := snapshot.Request{Volume: volume, Host: "h", Job: "j", Name: "v"}
	if p, reason, err := snapshot.Detect(t.Context(), req, "auto"); err != nil || !p.InPlace() {
		t.Fatalf("%v, %s, %v", p, reason, err)
	}
	says := snapshot.Advice(t.Context(), req)
	if !strings.HasPrefix(says, "set snapshot_dir to "+top+",") {
		t.Errorf("advice: %q", says)
	}
	better := req
	better.Dir = top
	p, snap, err := snapshot.Take(t.Context(), better, nil)
	if err != nil || p.Name() != snapshot.NameBtrfs {
		t.Fatalf("%v, %v", p, err)
	}
	must(t, p.Remove(t.Context(), snap.Ref))
	if says := snapshot.Advice(t.Context(), better); says != "" {
		t.Errorf("advice where all is well: %q", says)
	}
	// Without another mount of the file system.
	must(t, unix.Unmount(top, 0))
	if says := snapshot.Advice(t.Context(), req); !strings.Contains(says, "subvolid=5 "+device) || !strings.Contains(says, "snapshot_dir") {
		t.Errorf("advice without another mount: %q", says)
	}
	must(t, unix.Unmount(volume, 0)) // the image goes with the test
}
