// Package testbed gives tests the real parts they need: loop file systems, an object
// store, a container engine, a virtual machine. Only tests import it.
//
// All its files lie in one folder per test process (the area), named after the process, and are
// removed when the test that asked for them ends. A second process, started with the first area,
// waits for the test process to end and then removes the rest: a panic on another goroutine, a
// time-out of "go test" and SIGKILL leave no mount, loop device, container or process either. If
// that process is killed too, the next test run sweeps the areas whose owner is dead.
//
// Goroutines: one per running program, which ends with its Stop or Cleanup, and the
// goroutines that serve a FUSE or a VolatileDisk, which end with its test.
package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// debianPackage names the package that brings a program, for the message of a failed Need.
var debianPackage = map[string]string{
	"attr":                 "attr",
	"borg":                 "borgbackup",
	"busybox":              "busybox-static",
	"containerd":           "containerd",
	"debootstrap":          "debootstrap",
	"dockerd":              "docker.io",
	"getfacl":              "acl",
	"getfattr":             "attr",
	"ip":                   "iproute2",
	"keystone-manage":      "keystone",
	"keystone-wsgi-public": "keystone",
	"lvm":                  "lvm2",
	"mkfs.btrfs":           "btrfs-progs",
	"mkfs.exfat":           "exfatprogs",
	"mkfs.ext4":            "e2fsprogs",
	"mkfs.vfat":            "dosfstools",
	"mkfs.xfs":             "xfsprogs",
	"restic":               "restic",
	"podman":               "podman",
	"promtool":             "prometheus",
	"qemu-system-x86_64":   "qemu-system-x86",
	"rsync":                "rsync",
	"runc":                 "runc",
	"setfacl":              "acl",
	"setfattr":             "attr",
	"systemd-nspawn":       "systemd-container",
	"thin_check":           "thin-provisioning-tools",
	"thin_delta":           "thin-provisioning-tools",
}

// programPath is searched for programs after PATH: an ordinary user's PATH lacks the sbin folders.
const programPath = "/usr/sbin:/sbin:/usr/bin:/bin"

// MustRun reports whether a test that lacks something has to fail instead
// of being skipped: in CI (CI=true) and where HOLDFAST_MUST_RUN=1.
func MustRun() bool {
	return os.Getenv("CI") == "true" || os.Getenv("HOLDFAST_MUST_RUN") == "1"
}

// Need skips the test unless everything named is there; where MustRun, it fails instead. With
// "go test -short" (make check) it skips the test in any case. Names are programs ("rsync",
// "mkfs.btrfs") and the words root, btrfs, ext4, xfs, fuse, minio, docker and machine, which
// stand for all that the function of that name needs.
func Need(t testing.TB, what ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test needs " + strings.Join(what, ", "))
	}
	var lacking []string
	for _, w := range what {
		lacking = append(lacking, lack(w)...)
	}
	if len(lacking) == 0 {
		return
	}
	msg := "this test needs " + strings.Join(lacking, ", ")
	if MustRun() {
		t.Fatal(msg + " (\"make test\" as root installs what it needs)")
	}
	t.Skip(msg)
}

// lack returns the missing parts of w, in words.
func lack(w string) []string {
	var all []string
	switch w {
	case "root":
		if os.Geteuid() != 0 {
			return []string{"root"}
		}
		return nil
	case "btrfs", "ext4", "xfs":
		all = append(lack("root"), lack("mkfs."+w)...)
		if _, err := os.Stat("/dev/loop-control"); err != nil {
			all = append(all, "loop devices (/dev/loop-control)")
		}
		return all
	case "fuse":
		all = lack("root")
		if _, err := os.Stat("/dev/fuse"); err != nil {
			all = append(all, "file systems in user space (/dev/fuse)")
		}
		return all
	case "docker":
		all = lack("root")
		for _, p := range []string{"dockerd", "containerd", "runc", "busybox"} {
			all = append(all, lack(p)...)
		}
		return all
	case "machine":
		if InMachine() {
			return []string{"a host that is no machine of a test itself"}
		}
		all = append(lack("qemu-system-x86_64"), lack("busybox")...)
		if _, err := findKernel(); err != nil {
			all = append(all, err.Error())
		}
		return all
	case "minio":
		if _, err := GoProgram("minio"); err != nil {
			return []string{err.Error()}
		}
		return nil
	}
	if _, err := Program(w); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// Program finds a program on PATH or in the usual folders of the system.
func Program(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for dir := range strings.SplitSeq(programPath, ":") {
		if isProgram(dir + "/" + name) {
			return dir + "/" + name, nil
		}
	}
	if pkg := debianPackage[name]; pkg != "" {
		return "", fmt.Errorf("%s (Debian package %s)", name, pkg)
	}
	return "", fmt.Errorf("the program %s", name)
}

func isProgram(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// run executes a program of the system; the error carries its output.
func run(name string, args ...string) error {
	path, err := Program(name)
	if err != nil {
		return err
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
