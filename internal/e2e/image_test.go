package e2e_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/testbed"
)

// TestImage: an instance whose storage is an image on xfs is backed up
// and released while it writes to it, comes back on the same host, and
// its next backup reads only the later writes. Every part is real.
func TestImage(t *testing.T) {
	testbed.Need(t, "root", "xfs", "docker")
	minio := testbed.StartMinIO(t)
	docker := testbed.StartDocker(t)
	dir := filepath.Join(testbed.Xfs(t), "phone-1")
	must(t, os.Mkdir(dir, 0o755))
	image := filepath.Join(dir, "disk.img")
	const size, filled = 96 << 20, 64 << 20 // the rest is a hole
	content := make([]byte, filled)
	_, _ = rand.NewChaCha8([32]byte{8}).Read(content)
	must(t, os.WriteFile(image, content, 0o600))
	must(t, os.Truncate(image, size))
	// Blocks all over the first MiB of the hole, and some in the
	// filled part; a number each time, so that the progress is seen.
	const writer = `i=0; while true; do
		dd if=/dev/urandom of=/disk bs=4096 count=1 conv=notrunc seek=$((16384 + i % 256)) 2>/dev/null
		dd if=/dev/urandom of=/disk bs=4096 count=1 conv=notrunc seek=$((2048 + i % 64)) 2>/dev/null
		echo $i; i=$((i + 1)); done`
	container := docker.Run(t, testbed.Container{Command: []string{"/bin/busybox", "sh", "-c", writer}, Binds: []string{image + ":/disk"}})
	written := func() int { return len(lines(docker.Output(t, container))) }
	eventually(t, "the instance writes", func() bool { return written() > 20 })

	p := startPlane(t)
	h := newHost(t, p, minio.URL(minio.Bucket(t), "prod"), minio.Env()...)
	h.addDocker("phone-1", docker.Host, container, image)
	h.extra = "prepare: {start: true}"
	h.start("")
	// release backs the instance up and compares the backup with what
	// it had written when it went down.
	release := func(request string) (read, all float64) {
		t.Helper()
		if status, why := h.ended(h.backup(request, "phone-1")); status != 2 {
			t.Fatal(why)
		}
		if st := docker.State(t, container); st.Running {
			t.Errorf("after the release the container is %+v", st)
		}
		if left := snapshotsIn(t, dir); len(left) != 0 {
			t.Errorf("left after the release: %v", left)
		}
		sameImage(t, image, h.restore("phone-1"))
		reports := p.got(completed)
		d := data(t, reports[len(reports)-1].Event)
		return d["bytes_read"].(float64), d["bytes"].(float64)
	}
	// Most of it was read in a round of pre-copy.
	if read, all := release("backup-1"); all < filled || read > filled/16 {
		t.Errorf("the first backup read %.0f of %.0f bytes while the instance stood still", read, all)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	copyFile(t, image, kept)
	must(t, os.Remove(image))

	before := written()
	got, raw := h.prepare("prepare-1", "phone-1")
	if got.Code != "0" {
		t.Fatal(raw)
	}
	if status, why := h.ended(got.Data.TaskID); status != 2 {
		t.Fatal(why)
	}
	eventually(t, "the instance writes again", func() bool { return written() > before+20 })
	bases := snapshotsIn(t, dir)
	if len(bases) != 1 {
		t.Fatalf("bases: %v", bases)
	}
	sameImage(t, kept, bases[0])

	read, all := release("backup-2")
	if all < filled || read == 0 || read > filled/16 {
		t.Errorf("the next backup read %.0f of %.0f bytes", read, all)
	}
	t.Logf("the next backup read %.0f of %.0f bytes, after %d writes", read, all, 2*(written()-before))
	h.cli("verify", "--read-data", "100")
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// sameImage compares two files byte by byte.
func sameImage(t *testing.T, a, b string) {
	t.Helper()
	was, err := os.ReadFile(a)
	must(t, err)
	is, err := os.ReadFile(b)
	must(t, err)
	if !bytes.Equal(was, is) {
		t.Errorf("%s (%d bytes) and %s (%d bytes) differ", a, len(was), b, len(is))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
}
