package hostid

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/evidence"
)

// system holds the host's own facts.
type system struct {
	facts map[string][]string // the known facts by name; any value in common agrees
	boot  string              // id of this boot; "" where it is not known
}

// enoughFacts is how many facts have to agree so that one fact may differ: a disk, a network card
// or the machine id is replaced now and then, and seldom two of them between two starts. A clone
// of a virtual machine has another product UUID and other network cards.
const enoughFacts = 2

// sources are the facts of one file each. Some can be read by root only, and containers lack some.
var sources = map[string][]string{
	"machine-id":    {"etc/machine-id"},
	"product-uuid":  {"sys/class/dmi/id/product_uuid"},
	"serial-number": {"sys/class/dmi/id/product_serial", "sys/class/dmi/id/board_serial", "sys/firmware/devicetree/base/serial-number"},
}

// nothings are what makers write where they write no number.
var nothings = []string{
	"", "none", "0", "n/a", "not specified", "not available", "not applicable", "unknown", "default string", "system serial number",
	"to be filled by o.e.m.", "to be filled by o.e.m", "empty", "invalid", "uninitialized",
}

func look() system {
	s := lookAt("/")
	if root := evidence.FileSystemOf("/"); strings.Contains(root, " ") { // else it has no UUID
		s.facts["root-file-system"] = []string{root}
	}
	s.boot = Boot()
	return s
}

// lookAt reads the facts below root, which is / but for tests.
func lookAt(root string) system {
	s := system{facts: map[string][]string{}}
	for name, files := range sources {
		for _, file := range files {
			s.add(name, text(filepath.Join(root, file)))
		}
	}
	for _, card := range physical(filepath.Join(root, "sys/class/net"), "device") {
		// Type 1 is Ethernet, and an address of type 0 is the card's own.
		if text(filepath.Join(card, "addr_assign_type")) == "0" && text(filepath.Join(card, "type")) == "1" {
			s.add("network-cards", text(filepath.Join(card, "address")))
		}
	}
	for _, disk := range physical(filepath.Join(root, "sys/block"), "device") {
		if text(filepath.Join(disk, "removable")) == "1" {
			continue
		}
		for _, file := range []string{"wwid", "device/wwid", "serial", "device/serial"} {
			// QEMU gives the first disks of all machines one number.
			if id := text(filepath.Join(disk, file)); !strings.Contains(id, "QM0000") {
				s.add("disks", id)
			}
		}
	}
	return s
}

// add notes one value of a fact, unless it says nothing.
func (s system) add(name, value string) {
	if slices.Contains(nothings, strings.ToLower(value)) || strings.Trim(value, "0-:. ") == "" || slices.Contains(s.facts[name], value) {
		return
	}
	s.facts[name] = append(s.facts[name], value)
}

// physical lists the entries of a class of the kernel that are hardware of this machine: those
// with a device, and not those at a USB port, which move between machines.
func physical(class, device string) (paths []string) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		at, err := filepath.EvalSymlinks(filepath.Join(class, e.Name(), device))
		if err == nil && !strings.Contains(at, "/usb") && !strings.Contains(at, "/virtual/") {
			paths = append(paths, filepath.Join(class, e.Name()))
		}
	}
	return paths
}

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(bytes.Trim(b, " \t\n\x00"))
}

// placeOf says where a folder lies: on which file system, and which file
// of it the folder is. A copy of the folder is another file, and a rename
// keeps the place. Facts that the kernel does not tell are missing.
func placeOf(dir string) map[string]string {
	place := map[string]string{}
	// A file system without a UUID may have another number after a reboot.
	if fs := evidence.FileSystemOf(dir); strings.Contains(fs, " ") {
		place["file-system"] = fs
	}
	if handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, unix.AT_SYMLINK_FOLLOW); err == nil {
		place["handle"] = string(hex.AppendEncode([]byte{byte('0' + handle.Type()%10), ' '}, handle.Bytes()))
	}
	return place
}
