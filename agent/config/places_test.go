package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/agent/config"
	"holdfast/internal/testbed"
)

// TestOwnFilesInVolumes: no file of the agent lies in a
// volume, and no volume in a folder of the agent, by name.
func TestOwnFilesInVolumes(t *testing.T) {
	const volume = "/srv/phone/data"
	for name, c := range map[string]struct{ was, is, want string }{
		"key":          {"key_file: /k/host", "key_file: " + volume + "/host.key", "key_file"},
		"state":        {"", "state_dir: " + volume + "/state", "state_dir"},
		"socket":       {"", "socket: " + volume + "/s", "socket"},
		"audit":        {"", "audit: {file: " + volume + "/audit}", "audit.file"},
		"signing key":  {"signing_key_file: /k/sign", "signing_key_file: " + volume + "/signing.pem", "signing_key_file"},
		"around state": {"", "state_dir: /srv/phone", "state_dir"},
	} {
		text := minimal
		if c.was != "" {
			text = strings.Replace(text, c.was, c.is, 1)
		} else {
			text += "\n" + c.is + "\n"
		}
		text += "\n" + fmt.Sprintf(instanceOf, volume)
		_, err := config.Parse([]byte(text), "test")
		if err == nil || !strings.Contains(err.Error(), "overlaps "+c.want) {
			t.Errorf("%s: %v, want an overlap with %s", name, err, c.want)
		}
	}
}

const instanceOf = "instances: [{id: i, tenant: t, runtime: {none: {}}, volumes: [{name: d, path: %s}]}]\n"

// TestCheckPlaces: what check-config says of volumes that lie elsewhere than their names say.
func TestCheckPlaces(t *testing.T) {
	testbed.Need(t, "root")
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"volume", "keys", "state", "link-to", "bound", "tenant/volume"} {
		if err := os.MkdirAll(in(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Symlink(in("link-to"), in("link")), os.WriteFile(in("keys/key"), nil, 0o600), os.Chown(in("tenant"), 1000, 1000),
		unix.Mount(in("keys"), in("bound"), "", unix.MS_BIND, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(in("bound"), 0); err != nil {
			t.Error(err)
		}
	})
	for path, want := range map[string]string{
		in("volume"):        "",
		in("not-there-yet"): "",
		in("link"):          "write the real path: " + in("link-to"),
		in("bound"):         "overlaps key_file",
		in("tenant/volume"): "can be written by its owner, user 1000",
	} {
		text := strings.Replace(minimal, "/k/host", in("keys/key"), 1) + fmt.Sprintf(instanceOf, path)
		cfg, err := config.Parse([]byte(text), "test")
		if err != nil {
			t.Fatal(err)
		}
		err = cfg.CheckPlaces()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "instances[0].volumes[0].path")) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
