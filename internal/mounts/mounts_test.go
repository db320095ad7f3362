package mounts_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/mounts"
)

func TestRead(t *testing.T) {
	table := filepath.Join(t.TempDir(), "mountinfo")
	lines := `24 1 252:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
31 24 0:27 /a\040folder /mnt/with\040space\011tab\012line\134back rw - btrfs /dev/mapper/x\043y rw,subvol=/a\040folder
no line of a table
32 24 0:28 / /sys rw - sysfs
`
	if err := os.WriteFile(table, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := mounts.Read(table)
	if err != nil {
		t.Fatal(err)
	}
	want := []mounts.Mount{
		{ID: 24, Device: unix.Mkdev(252, 0), Root: "/", Point: "/", Kind: "ext4", Source: "/dev/vda", Super: "rw,discard"},
		{
			ID: 31, Device: unix.Mkdev(0, 27), Root: "/a folder", Point: "/mnt/with space\ttab\nline\\back",
			Kind: "btrfs", Source: "/dev/mapper/x#y", Super: "rw,subvol=/a folder",
		},
		{ID: 32, Device: unix.Mkdev(0, 28), Root: "/", Point: "/sys", Kind: "sysfs"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d mounts, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("mount %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	if err := os.WriteFile(table, []byte("x 1 a:b / / rw - ext4 /dev/vda rw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := mounts.Read(table); err == nil {
		t.Error("a table with numbers of no sense is read")
	}
	if own, err := mounts.Read(mounts.Own); err != nil || len(own) == 0 {
		t.Errorf("the own table has %d mounts, %v", len(own), err)
	}
}
