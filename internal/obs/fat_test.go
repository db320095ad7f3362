package obs_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// TestFileOnFAT runs the suite of the contract on FAT and exFAT. It
// takes a machine, since kernels of build hosts often lack them.
func TestFileOnFAT(t *testing.T) {
	if !testbed.InMachine() {
		testbed.RunInMachine(t, testbed.MachineSpec{
			Tools:   []string{"mkfs.vfat", "mkfs.exfat"},
			Modules: []string{"vfat", "exfat", "nls_cp437", "nls_ascii"}, Disks: []string{testbed.Disk(t, 128<<20), testbed.Disk(t, 128<<20)},
		}, 10*time.Minute)
		return
	}
	for kind, c := range map[string]struct{ disk, options string }{
		"vfat": {"/dev/vda", "iocharset=ascii"}, "exfat": {"/dev/vdb", ""},
	} {
		t.Run(kind, func(t *testing.T) {
			program, err := testbed.Program("mkfs." + kind)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(program, c.disk).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			mount := "/" + kind // which goes with the machine
			if err := os.Mkdir(mount, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(c.disk, mount, kind, 0, c.options); err != nil {
				t.Fatal(err)
			}
			obstest.Run(t, func(t *testing.T) obs.Store {
				dir := mount + "/" + strings.ReplaceAll(t.Name(), "/", "-")
				w := &warnings{}
				s := open(t, "file://"+dir, obs.Options{Create: true, Warn: w.add})
				t.Cleanup(func() {
					if !strings.Contains(strings.Join(w.all, ""), "no hard links") {
						t.Errorf("warnings %q", w.all)
					}
				})
				return s
			}, "ListMany", "Keys") // FAT drops dots at the end of a name; no key of a vault ends with one
		})
	}
}
