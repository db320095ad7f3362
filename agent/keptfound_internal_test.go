package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/agent/model"
	"holdfast/internal/origin"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
)

// TestOneNameHidesNoOther: a link that an operator has left in the place of kept content, a socket,
// and a tree that can't be identified keep the other trees of the folder from nothing.
func TestOneNameHidesNoOther(t *testing.T) {
	testbed.Need(t, "root", "ext4")
	folder := testbed.Ext4(t)
	const by = "0123456789abcdef0123"
	target := filepath.Join(folder, "phone")
	noted := restore.AsideOf(target, by, "data")
	link, socket := restore.AsideOf(target, by, "alink"), restore.AsideOf(target, by, "socket")
	unknown := restore.AsideOf(target, by, "unknown")
	note, err := json.Marshal(model.KeptNote{Instance: "phone", Tenant: "acme", Job: by, Volume: "data", Target: target})
	err = errors.Join(err, os.Mkdir(noted, 0o700), origin.WriteNote(noted, note), os.Mkdir(unknown, 0o700), os.Symlink(unknown, link), unix.Mknod(socket, unix.S_IFSOCK|0o600, 0))
	if err != nil {
		t.Fatal(err)
	}
	found, err := keptIn(folder)
	if err != nil {
		t.Error(err)
	}
	with := map[string]bool{}
	for _, f := range found {
		with[f.Path] = f.Note != nil
	}
	if len(with) != 4 || !with[noted] || with[link] || with[socket] || with[unknown] {
		t.Errorf("found %v", with)
	}
}
