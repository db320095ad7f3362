package agent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/origin"
	"holdfast/internal/testbed"
)

// onDisk is a host whose phone-1 has two volumes on a file system, one of them with files and
// one empty, a backup of both, and a prepare after which they are as in the backup.
type onDisk struct {
	*host
	mount       string
	data, media string
	requests    int
}

func newOnDisk(t *testing.T, mount string) *onDisk {
	d := &onDisk{host: newHost(t), mount: mount, data: filepath.Join(mount, "data"), media: filepath.Join(mount, "media")}
	d.cfg = strings.Replace(d.cfg, "volumes: [{name: data, path: "+d.in("volumes/phone-1")+", snapshot: freeze}]",
		"volumes: [{name: data, path: "+d.data+", snapshot: freeze}, {name: media, path: "+d.media+", snapshot: freeze}]\n    hold: frozen", 1)
	if !strings.Contains(d.cfg, d.media) {
		t.Fatal("the configuration is not as expected")
	}
	d.must(os.Mkdir(d.media, 0o755))
	d.fill("backed up")
	d.start()
	d.back("holdfast.instance.released")
	return d
}

func (d *onDisk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// fill writes twenty files into data.
func (d *onDisk) fill(content string) {
	d.t.Helper()
	d.must(os.MkdirAll(d.data, 0o755))
	for i := range 20 {
		d.must(os.WriteFile(filepath.Join(d.data, fmt.Sprint("file-", i)), fmt.Appendf(nil, "%s %d", content, i), 0o600))
	}
}

func (d *onDisk) request() string { d.requests++; return fmt.Sprint("request-", d.requests) }

// back makes a backup and waits for that event.
func (d *onDisk) back(until string) map[string]any {
	d.t.Helper()
	d.backup("acme", d.request(), "phone-1")
	return d.ended(until)
}

// fresh brings the volumes back to the content of the newest backup.
func (d *onDisk) fresh() {
	d.t.Helper()
	d.write("phone-1.state", "stopped\n", 0o600)
	d.must(errors.Join(os.RemoveAll(d.data), os.RemoveAll(d.media)))
	if why := d.prepare("acme"); why != "" {
		d.t.Fatalf("a fresh restore fails: %s", why)
	}
	d.holds("backed up")
}

// prepare prepares phone-1 and returns why that failed; "" when it did not.
func (d *onDisk) prepare(tenant string) string {
	d.t.Helper()
	d.plane.mu.Lock()
	d.plane.events = nil
	d.plane.mu.Unlock()
	a := d.call(http.MethodPost, "/v1/instances/prepare", tenant, d.request(), `{"instance_ids":["phone-1"]}`)
	if a.Status != http.StatusOK {
		d.t.Fatalf("prepare: %d %s %s", a.Status, a.Code, a.Msg)
	}
	const completed, failed = "holdfast.restore.completed", "holdfast.restore.failed"
	d.eventually("prepared", func() bool {
		return d.plane.took(completed, "phone-1") != nil || d.plane.took(failed, "phone-1") != nil
	})
	if d.plane.took(completed, "phone-1") != nil {
		d.ended(completed)
		return ""
	}
	data, err := json.Marshal(d.ended(failed))
	d.must(err)
	return string(data)
}

// holds looks at the first file of data.
func (d *onDisk) holds(content string) {
	d.t.Helper()
	got, err := os.ReadFile(filepath.Join(d.data, "file-0"))
	if err != nil || !strings.HasPrefix(string(got), content) {
		d.t.Errorf("the volume holds %q, want %q (%v)", got, content, err)
	}
}

// unsaved writes what no backup has.
func (d *onDisk) unsaved() {
	d.t.Helper()
	d.must(os.WriteFile(filepath.Join(d.data, "file-0"), []byte("unsaved"), 0o600))
}

// TestPrepareByWhatIsOnTheDisk: a real agent on real file systems is ready where the journal and
// the marks know the volumes, whatever changed on them since; it restores other volumes; and where
// a restore may harm, it refuses and touches nothing.
func TestPrepareByWhatIsOnTheDisk(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	for fs, place := range map[string]func(testing.TB) string{"btrfs": testbed.Btrfs, "xfs": testbed.Xfs, "ext4": testbed.Ext4} {
		t.Run(fs, func(t *testing.T) {
			d := newOnDisk(t, place(t))
			for _, c := range onDiskCases {
				if fs != "ext4" && !c.everywhere {
					continue
				}
				d.fresh()
				c.do(d)
				if c.runs {
					d.write("phone-1.state", "running\n", 0o600)
				}
				why := d.prepare("acme")
				if (why == "") != (c.refused == "") || !strings.Contains(why, c.refused) {
					t.Errorf("%s: refused with %q, want %q", c.name, why, c.refused)
				}
				if c.holds != "" {
					d.holds(c.holds)
				}
			}
		})
	}
}

var onDiskCases = []struct {
	name       string
	do         func(d *onDisk)
	everywhere bool // else on ext4 alone, since nothing of it depends on the file system
	runs       bool
	refused    string // part of why; "": it is ready or restored
	holds      string // the volume's content afterwards; "": it is not there
}{
	{name: "as it was restored", everywhere: true, do: func(*onDisk) {}, holds: "backed up"},
	{name: "unsaved bytes beside an empty volume", everywhere: true, do: (*onDisk).unsaved, holds: "unsaved"},
	{name: "the same while it runs", do: (*onDisk).unsaved, runs: true, holds: "unsaved"},
	{name: "unsaved bytes, and the other volume was filled", holds: "unsaved", do: func(d *onDisk) {
		d.unsaved()
		d.must(os.WriteFile(filepath.Join(d.media, "new"), []byte("x"), 0o600))
	}},
	{name: "unsaved bytes, and the other volume is missing", refused: "is missing", holds: "unsaved", do: func(d *onDisk) {
		d.unsaved()
		d.must(os.Remove(d.media))
	}},
	{name: "the same while it runs", runs: true, refused: "is missing", holds: "unsaved", do: func(d *onDisk) {
		d.unsaved()
		d.must(os.Remove(d.media))
	}},
	{name: "the slot was filled anew", everywhere: true, do: (*onDisk).refill, holds: "backed up"},
	{name: "the slot was filled anew, and runs", do: (*onDisk).refill, runs: true, refused: "filled anew", holds: "template"},
	{name: "the folder was filled anew", everywhere: true, do: (*onDisk).refillInPlace, holds: "backed up"},
	{name: "the folder was filled anew, and runs", do: (*onDisk).refillInPlace, runs: true, refused: "filled anew", holds: "template"},
	{name: "a copy", everywhere: true, do: (*onDisk).duplicate, holds: "backed up"},
	{name: "a copy that runs", do: (*onDisk).duplicate, runs: true, refused: "a copy", holds: "unsaved"},
	{name: "half of the files are gone", do: (*onDisk).halve, holds: "backed up"},
	{name: "half of the files are gone, and it runs", do: (*onDisk).halve, runs: true, refused: "is gone"},
	{name: "an old disk came back", holds: "backed up", do: func(d *onDisk) {
		d.unsaved()
		d.setMark(func(m *origin.Mark) { m.Backup, m.Seq = "an earlier one", m.Seq-1 })
	}},
	{name: "an old disk came back, and runs", runs: true, refused: "old disk", holds: "unsaved", do: func(d *onDisk) {
		d.unsaved()
		d.setMark(func(m *origin.Mark) { m.Backup, m.Seq = "an earlier one", m.Seq-1 })
	}},
	{name: "the volume of another instance", holds: "backed up", do: func(d *onDisk) { d.setMark(func(m *origin.Mark) { m.Instance = "phone-2" }) }},
	{name: "the journal was lost", everywhere: true, holds: "unsaved", do: func(d *onDisk) {
		d.unsaved()
		d.loseJournal()
	}},
	{name: "the journal was lost, and it runs", runs: true, holds: "unsaved", do: func(d *onDisk) {
		d.unsaved()
		d.loseJournal()
	}},
	{name: "the journal was lost, and so was the mark", runs: true, refused: "nothing tells", holds: "unsaved", do: func(d *onDisk) {
		d.unsaved()
		d.must(errors.Join(origin.Remove(d.data), origin.Remove(d.media)))
		d.loseJournal()
	}},
	{name: "an image in the place of the folder", refused: "of the kind", do: func(d *onDisk) {
		d.must(os.RemoveAll(d.data))
		d.must(os.WriteFile(d.data, []byte("a disk"), 0o600))
	}},
}

func (d *onDisk) refill() {
	d.t.Helper()
	d.must(os.RemoveAll(d.data))
	d.fill("template")
}

func (d *onDisk) refillInPlace() {
	d.t.Helper()
	for i := range 20 {
		d.must(os.Remove(filepath.Join(d.data, fmt.Sprint("file-", i))))
		d.must(os.WriteFile(filepath.Join(d.mount, "taken"), nil, 0o600)) // else an inode may be given again
		d.must(os.Rename(filepath.Join(d.mount, "taken"), filepath.Join(d.mount, fmt.Sprint("taken-", i))))
	}
	d.fill("template")
	for i := range 20 {
		d.must(os.Remove(filepath.Join(d.mount, fmt.Sprint("taken-", i))))
	}
}

func (d *onDisk) duplicate() {
	d.t.Helper()
	d.unsaved()
	other := filepath.Join(d.mount, "other")
	d.must(exec.Command("cp", "-a", d.data, other).Run())
	d.must(os.RemoveAll(d.data))
	d.must(os.Rename(other, d.data))
}

func (d *onDisk) halve() {
	d.t.Helper()
	for i := range 10 {
		d.must(os.Remove(filepath.Join(d.data, fmt.Sprint("file-", i))))
	}
}

func (d *onDisk) setMark(edit func(*origin.Mark)) {
	d.t.Helper()
	m, err := origin.Read(d.data)
	d.must(err)
	edit(&m)
	_, err = origin.Write(d.data, m)
	d.must(err)
}

func (d *onDisk) loseJournal() {
	d.t.Helper()
	d.stop()
	d.must(os.Remove(d.in("state/journal.db")))
	d.start()
}

// TestJournalThatWasSetBack: a state folder of an earlier time does not make
// a host replace what its volumes have since.
func TestJournalThatWasSetBack(t *testing.T) {
	d := newOnDisk(t, testbed.Ext4(t))
	d.fresh()
	d.stop()
	old, err := os.ReadFile(d.in("state/journal.db"))
	d.must(err)
	d.start()
	d.must(os.WriteFile(filepath.Join(d.data, "file-0"), []byte("second backup"), 0o600))
	d.write("phone-1.state", "running\n", 0o600)
	d.back("holdfast.instance.released")
	d.write("phone-1.state", "stopped\n", 0o600)
	d.unsaved()
	d.stop()
	d.must(os.WriteFile(d.in("state/journal.db"), old, 0o600))
	d.start()
	if why := d.prepare("acme"); why != "" {
		t.Errorf("refused: %s", why)
	}
	d.holds("unsaved")
}

// TestSlotOfAnotherTenant: one tenant's volume in a slot that was configured for another tenant is
// neither ready nor backed up, until an operator takes the mark off.
func TestSlotOfAnotherTenant(t *testing.T) {
	d := newOnDisk(t, testbed.Ext4(t))
	d.fresh()
	d.stop()
	d.cfg = strings.Replace(d.cfg, "- id: phone-1\n    tenant: acme", "- id: phone-1\n    tenant: other", 1)
	d.start()
	if why := d.prepare("other"); why == "" || strings.Contains(why, "acme") {
		t.Errorf("a prepare for the other tenant: %q", why)
	}
	d.holds("backed up")
	d.write("phone-1.state", "running\n", 0o600)
	d.backup("other", d.request(), "phone-1")
	if data, err := json.Marshal(d.ended("holdfast.backup.failed")); err != nil || strings.Contains(string(data), "acme") {
		t.Errorf("the other tenant is told %s, %v", data, err)
	}
	if !strings.Contains(d.logs.String(), "holdfast volume-mark --remove") {
		t.Error("the log has no remedy")
	}
	if state := d.state("phone-1"); state != "running" {
		t.Errorf("the instance is %s", state)
	}
	d.must(errors.Join(origin.Remove(d.data), origin.Remove(d.media)))
	d.backup("other", d.request(), "phone-1")
	d.ended("holdfast.instance.released")
	if m, err := origin.Read(d.data); err != nil || m.Tenant != "other" {
		t.Errorf("after the backup the mark is %+v, %v", m, err)
	}
}
