package hostid

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// machine has all facts, each with values that end with its name.
func machine(boot, name string) system {
	return host(boot, "machine-id", "m-"+name, "product-uuid", "p-"+name, "serial-number", "s-"+name, "root-file-system", "ext4 r-"+name,
		"network-cards", "n1-"+name, "network-cards", "n2-"+name, "disks", "d1-"+name, "disks", "d2-"+name)
}

// with replaces the values of one fact; without values the fact is not known.
func (s system) with(fact string, values ...string) system {
	s.facts = maps.Clone(s.facts)
	if delete(s.facts, fact); len(values) > 0 {
		s.facts[fact] = values
	}
	return s
}

var here = map[string]string{"file-system": "ext4 u", "handle": "1 aa"}

// TestOpenTellsCopies changes the facts of the folder in all ways that
// maintenance and copies do. It stands for the promise that maintenance
// is no copy, and that a copy is seen as far as the host tells.
func TestOpenTellsCopies(t *testing.T) {
	clone := machine("b2", "x").with("machine-id", "m-o").with("root-file-system", "ext4 r-o")
	for name, c := range map[string]struct {
		now    system
		place  map[string]string
		copied string // "" is the same host
	}{
		"the next boot":                        {machine("b2", "o"), here, ""},
		"the machine id was made anew":         {machine("b2", "o").with("machine-id", "m-new"), here, ""},
		"all network cards were replaced":      {machine("b2", "o").with("network-cards", "n9"), here, ""},
		"one network card was replaced":        {machine("b2", "o").with("network-cards", "n1-o", "n9"), here, ""},
		"one disk and one card were replaced":  {machine("b2", "o").with("network-cards", "n9", "n2-o").with("disks", "d2-o", "d9"), here, ""},
		"all disks but the state's":            {machine("b2", "o").with("disks", "d9"), here, ""},
		"firmware that tells no serial number": {machine("b2", "o").with("serial-number"), here, ""},
		"a container that sees nothing":        {host("b2"), map[string]string{}, ""},
		"the main board was replaced": {
			machine("b2", "o").with("product-uuid", "p9").with("serial-number", "s9").with("network-cards", "n9"), here, "network-cards, product-uuid, serial-number differ",
		},
		"a clone of a virtual machine":       {clone, here, "product-uuid, serial-number differ"},
		"a clone with a new machine id":      {clone.with("machine-id", "m-x"), here, "machine-id"},
		"the folder was sent to a machine":   {machine("b2", "x"), map[string]string{"file-system": "ext4 v", "handle": "1 bb"}, "another machine"},
		"one fact of two":                    {host("b2", "machine-id", "m-o", "product-uuid", "p9"), here, "product-uuid differs"},
		"the only fact":                      {host("b2", "machine-id", "m9"), here, "machine-id differs"},
		"cp -a beside":                       {machine("b1", "o"), map[string]string{"file-system": "ext4 u", "handle": "1 bb"}, "the handle of the folder differs"},
		"cp -a to another disk":              {machine("b1", "o"), map[string]string{"file-system": "ext4 v", "handle": "1 aa"}, "the file system of the folder differs"},
		"a file system that tells no handle": {machine("b1", "o"), map[string]string{"file-system": "ext4 u"}, ""},
	} {
		dir := t.TempDir()
		first, err := open(dir, Journal{}, machine("b1", "o"), here)
		must(t, err)
		must(t, first.Copied)
		before, err := os.ReadFile(filepath.Join(dir, File))
		must(t, err)
		s, err := open(dir, Journal{Owner: first.ID, Used: true}, c.now, c.place)
		must(t, err)
		if s.ID != first.ID || (s.Copied != nil) != (c.copied != "") || c.copied != "" && !strings.Contains(s.Copied.Error(), c.copied) {
			t.Errorf("%s: %v, identity %s after %s", name, s.Copied, s.ID, first.ID)
		}
		after, err := os.ReadFile(filepath.Join(dir, File))
		must(t, err)
		if s.Copied != nil && string(before) != string(after) {
			t.Errorf("%s: the file of a copy was written", name)
		}
		if s.Copied == nil && !slices.Contains(s.Boots, c.now.boot) {
			t.Errorf("%s: boots %q", name, s.Boots)
		}
	}
}

// TestMaintenanceAdds: facts that change one after the other,
// with a start between, never make a copy.
func TestMaintenanceAdds(t *testing.T) {
	dir, now := t.TempDir(), machine("b", "o")
	first, err := open(dir, Journal{}, now, here)
	must(t, err)
	for fact := range machine("b", "o").facts {
		now = now.with(fact, "new")
		s, err := open(dir, Journal{Owner: first.ID, Used: true}, now, here)
		must(t, err)
		must(t, s.Copied)
	}
	s, err := open(dir, Journal{Owner: first.ID, Used: true}, machine("b", "o"), here)
	must(t, err)
	if s.Copied == nil {
		t.Error("the machine of the beginning is this one still")
	}
}

// TestOpenWithoutIdentity: a folder that tells of work and has no identity is nobody's.
func TestOpenWithoutIdentity(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"none":    os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, []byte(`{"id":"00112233`), 0o600) },
		"no file": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"of others": func(path string) error {
			return os.WriteFile(path, []byte(`{"id":"00112233445566778899aabbccddeeff"}`), 0o600)
		},
	} {
		dir := t.TempDir()
		first, err := open(dir, Journal{}, machine("b1", "o"), here)
		must(t, err)
		must(t, spoil(filepath.Join(dir, File)))
		s, err := open(dir, Journal{Owner: first.ID}, machine("b1", "o"), here)
		if err != nil || s.Copied == nil {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		if name == "no file" || name == "of others" {
			continue
		}
		s, err = open(dir, Journal{Used: true}, machine("b1", "o"), here)
		if err != nil || s.Copied == nil {
			t.Errorf("%s, and the journal names none: %+v, %v", name, s, err)
		}
		s, err = open(dir, Journal{}, machine("b1", "o"), here)
		if err != nil || s.Copied != nil || s.ID == first.ID || len(s.ID) != 32 {
			t.Errorf("%s, and there was no work: %+v, %v", name, s, err)
		}
	}
}

// TestOpenOnAFullDisk: the first identity has to be written, later boots need not.
func TestOpenOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	at := filepath.Join(dir, "state")
	must(t, os.Mkdir(at, 0o700))
	first, err := open(at, Journal{}, machine("b1", "o"), here)
	must(t, err)
	empty := filepath.Join(dir, "empty")
	must(t, os.Mkdir(empty, 0o700))
	for _, d := range []string{at, empty} {
		must(t, unix.Mount(d, d, "", unix.MS_BIND, ""))
		defer func() { must(t, unix.Unmount(d, 0)) }()
		must(t, unix.Mount("", d, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	}
	if s, err := open(empty, Journal{}, machine("b1", "o"), here); !errors.Is(err, unix.EROFS) || s.ID != "" {
		t.Errorf("the first: %+v, %v", s, err)
	}
	if s, err := open(at, Journal{Owner: first.ID, Used: true}, machine("b2", "o"), here); !errors.Is(err, unix.EROFS) || s.ID != first.ID || s.Copied != nil {
		t.Errorf("a later one: %+v, %v", s, err)
	}
}

// TestAdopt goes on as the old host, or as a new one, also over a crash at each step.
func TestAdopt(t *testing.T) {
	made := func(t *testing.T) (dir, id string) {
		dir = t.TempDir()
		first, err := open(dir, Journal{}, machine("b1", "o"), here)
		must(t, err)
		return dir, first.ID
	}
	other, there := machine("b2", "x"), map[string]string{"file-system": "ext4 v", "handle": "1 bb"}
	t.Run("take over", func(t *testing.T) {
		dir, id := made(t)
		before, now, err := adopt(dir, Claim{Owner: id}, other, there)
		must(t, err)
		s, err := open(dir, Journal{Owner: id, Used: true}, other, there)
		must(t, err)
		if before != id || now != id || s.Copied != nil || s.ID != id || !slices.Equal(s.Boots, []string{"b2"}) {
			t.Errorf("%s, %s, %+v", before, now, s)
		}
		if s, err = open(dir, Journal{Owner: id, Used: true}, machine("b1", "o"), here); err != nil || s.Copied == nil {
			t.Errorf("the machine before: %+v, %v", s, err)
		}
	})
	t.Run("take over without a file", func(t *testing.T) {
		dir, id := made(t)
		must(t, os.Remove(filepath.Join(dir, File)))
		_, now, err := adopt(dir, Claim{Owner: id}, other, there)
		must(t, err)
		if s, err := open(dir, Journal{Owner: id, Used: true}, other, there); err != nil || now != id || s.Copied != nil {
			t.Errorf("%s, %+v, %v", now, s, err)
		}
	})
	t.Run("new", func(t *testing.T) {
		for name, c := range map[string]struct {
			now    system
			shared bool
		}{"another machine": {other, false}, "the same machine": {machine("b1", "o"), true}} {
			dir, id := made(t)
			crash := errors.New("a power cut")
			_, _, err := adopt(dir, Claim{New: true, Owner: id, Between: func(string) error { return crash }}, c.now, there)
			if !errors.Is(err, crash) {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := open(dir, Journal{Owner: id, Used: true}, c.now, there); err == nil {
				t.Errorf("%s: a folder whose adoption was cut off is opened", name)
			}
			var asked []string
			between := func(before string) error { asked = append(asked, before); return nil }
			must(t, Settle(dir, between))
			must(t, Settle(dir, between))
			s, err := open(dir, Journal{}, c.now, there)
			must(t, err)
			if s.Copied != nil || s.ID == id || s.Shared != c.shared || !slices.Equal(s.Boots, []string{c.now.boot}) || !slices.Equal(asked, []string{id}) {
				t.Errorf("%s: %+v, set aside %q", name, s, asked)
			}
		}
	})
	t.Run("new again after a crash", func(t *testing.T) {
		dir, id := made(t)
		crash := errors.New("a power cut")
		_, _, err := adopt(dir, Claim{New: true, Between: func(string) error { return crash }}, other, there)
		if !errors.Is(err, crash) {
			t.Fatal(err)
		}
		var asked []string
		before, now, err := adopt(dir, Claim{New: true, Between: func(b string) error { asked = append(asked, b); return nil }}, other, there)
		must(t, err)
		if before == id || now == before || len(asked) != 2 || asked[0] != id || asked[1] != before {
			t.Errorf("%s, %s, set aside %q", before, now, asked)
		}
	})
}

// TestFactsOfTheKernel reads a tree as sysfs has it: entries that are no
// hardware of the machine, move between machines, or say nothing, are no facts.
func TestFactsOfTheKernel(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{
		"etc/machine-id": "abc\n", "sys/class/dmi/id/product_uuid": "4c4c\n", "sys/class/dmi/id/product_serial": "To Be Filled By O.E.M.\n",
		"sys/class/dmi/id/board_serial": "B7\n",
		"sys/devices/pci/eth0/address":  "02:00:00:00:00:01", "sys/devices/pci/eth0/addr_assign_type": "0", "sys/devices/pci/eth0/type": "1",
		"sys/devices/pci/eth1/address": "02:00:00:00:00:02", "sys/devices/pci/eth1/addr_assign_type": "3", "sys/devices/pci/eth1/type": "1",
		"sys/devices/usb1/eth2/address": "02:00:00:00:00:03", "sys/devices/usb1/eth2/addr_assign_type": "0", "sys/devices/usb1/eth2/type": "1",
		"sys/devices/virtual/br0/address": "02:00:00:00:00:04", "sys/devices/virtual/br0/addr_assign_type": "0", "sys/devices/virtual/br0/type": "1",
		"sys/devices/pci/sda/wwid": "naa.5000", "sys/devices/pci/sda/removable": "0",
		"sys/devices/pci/sdb/device/wwid": "t10.ATA QEMU HARDDISK QM00001", "sys/devices/pci/sdb/removable": "0",
		"sys/devices/pci/sr0/wwid": "naa.6000", "sys/devices/pci/sr0/removable": "1",
		"sys/devices/pci/nvme0n1/serial": "0000000", "sys/devices/pci/nvme0n1/removable": "0",
		"sys/firmware/devicetree/base/something": "",
	} {
		must(t, os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755))
		must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
	}
	for _, class := range []string{"net", "block"} {
		at := filepath.Join(root, map[string]string{"net": "sys/class/net", "block": "sys/block"}[class])
		must(t, os.MkdirAll(at, 0o755))
		for _, bus := range []string{"pci", "usb1", "virtual"} {
			found, err := os.ReadDir(filepath.Join(root, "sys/devices", bus))
			must(t, err)
			for _, e := range found {
				if (class == "net") != (strings.HasPrefix(e.Name(), "eth") || e.Name() == "br0") {
					continue
				}
				device := filepath.Join(root, "sys/devices", bus, e.Name())
				must(t, os.Symlink(device, filepath.Join(at, e.Name())))
				if _, err := os.Lstat(filepath.Join(device, "device")); err != nil {
					must(t, os.Symlink(device, filepath.Join(device, "device")))
				}
			}
		}
	}
	got := lookAt(root).facts
	want := host("", "machine-id", "abc", "product-uuid", "4c4c", "serial-number", "B7", "network-cards", "02:00:00:00:00:01", "disks", "naa.5000").facts
	if len(got) != len(want) {
		t.Errorf("facts %v", got)
	}
	for name, values := range want {
		if !slices.Equal(got[name], values) {
			t.Errorf("%s: %q, want %q", name, got[name], values)
		}
	}
}

// TestPlaceOfThisFolder: a copy lies elsewhere, and a rename keeps the place.
func TestPlaceOfThisFolder(t *testing.T) {
	dir := t.TempDir()
	one, moved, two := filepath.Join(dir, "one"), filepath.Join(dir, "moved"), filepath.Join(dir, "two")
	must(t, errors.Join(os.Mkdir(one, 0o700), os.Mkdir(two, 0o700)))
	place := placeOf(one)
	if place["handle"] == "" {
		t.Skip("this file system gives no handles")
	}
	must(t, os.Rename(one, moved))
	if got := placeOf(moved); got["handle"] != place["handle"] {
		t.Errorf("after a rename %v, before %v", got, place)
	}
	if got := placeOf(two); got["handle"] == place["handle"] {
		t.Errorf("two folders have the place %v", got)
	}
}
