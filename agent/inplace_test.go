package agent_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/internal/testbed"
)

// TestInPlaceOrder: on a disk with room for one copy the old volume, which a backup holds for
// certain, goes before the new one is fetched. A store that loses the backup half-way leaves the
// instance without a volume; the report says so and names the backup, nothing of either copy is
// left, the host still knows the backup, and the next prepare restores it.
func TestInPlaceOrder(t *testing.T) {
	testbed.Need(t, "root", "ext4")
	h, mount := newHost(t), testbed.Filesystem(t, "ext4", 40<<20)
	volume := filepath.Join(mount, "volume")
	file := filepath.Join(volume, "data", "file")
	random := func(seed byte) string {
		b := make([]byte, 18<<20)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
		return string(b)
	}
	older, newer := random(1), random(2)
	must(t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(older), 0o600)))
	h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-1"), "path: "+volume, 1) + "prepare: {min_free: 1MiB, in_place_order: true}\n"
	h.start()
	idle := func() bool {
		jobs, err := h.operator().Jobs(t.Context(), api.JobFilter{InstanceID: "phone-1", Active: true})
		return err == nil && len(jobs) == 0
	}
	h.backup("acme", "the-older", "phone-1")
	h.eventually("it is released", func() bool { return h.state("phone-1") == "stopped" && idle() })
	backup := h.otherHost(newer, 0)

	prepare := func(request string) {
		t.Helper()
		h.forgetEvents()
		if a := h.call(http.MethodPost, "/v1/instances/prepare", "acme", request, `{"instance_ids":["phone-1"]}`); a.Code != api.CodeOK {
			t.Fatalf("prepare: %+v", a)
		}
	}
	packs := h.inStore("*/packs")
	must(t, os.Rename(packs, packs+".away"))
	prepare("without-packs")
	h.eventually("it failed", func() bool { return h.plane.took("holdfast.restore.failed", "phone-1") != nil && idle() })
	for _, want := range []string{"the old volumes were removed first (prepare.in_place_order)", "the next prepare restores backup " + backup} {
		if e := h.plane.took("holdfast.restore.failed", "phone-1"); !strings.Contains(string(e.Data), want) {
			t.Errorf("no %q in %s", want, e.Data)
		}
	}
	left, err := filepath.Glob(filepath.Join(mount, ".holdfast-*"))
	if _, statErr := os.Lstat(volume); !errors.Is(statErr, os.ErrNotExist) || err != nil || len(left) > 0 {
		t.Errorf("the volume: %v; left: %q, %v", statErr, left, err)
	}

	must(t, os.Rename(packs+".away", packs))
	h.stop()
	h.start()
	prepare("with-packs")
	h.restored("phone-1")
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, []byte(newer)) {
		t.Errorf("the volume has %d bytes, %v", len(b), err)
	}
	if kept, err := h.operator().Kept(t.Context()); err != nil || len(kept) > 0 {
		t.Errorf("kept: %+v, %v", kept, err)
	}
}
