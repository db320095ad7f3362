package testbed_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// A saved machine goes on with a disk and with variables that it did not have before,
// as often as one likes. In a cut the disk loses writes that were not flushed, and
// keeps flushed ones; also when the cut comes during the flush.
func TestSavedMachineLosesWhatItDidNotFlush(t *testing.T) {
	testbed.Need(t, "machine")
	saved := testbed.SaveMachine(t, script(
		`date +%s`,
		`[ -n "$ENTROPY" ] || exit 1`,
		`write() { dd if=/bin/busybox of=/dev/vda bs=4k count=1 seek=$1 oflag=direct conv=notrunc$2 2>/dev/null || exit 1; }`,
		`write 0 ,fsync`,
		`write 1`,
		`cmp -n 4096 -s /bin/busybox /dev/vda || exit 2`,
		`dd if=/dev/vda bs=4k skip=1 count=1 iflag=direct 2>/dev/null | cmp -n 4096 -s - /bin/busybox || exit 3`,
		`echo "$TEXT"`,
		`[ -n "$FLUSH" ] && write 2 ,fsync`,
		`echo over; sleep 1000`,
	))
	busybox, err := testbed.Program("busybox")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	block := content[:4096]
	disk := testbed.NewVolatileDisk(t, 1<<20)
	holds := func(i int) bool {
		b, err := os.ReadFile(disk.Path())
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(b[i<<12:][:4096], block)
	}
	var last int64
	for round, c := range []struct {
		env       []string
		dieAt     int
		stays     float64
		unflushed int // sectors
		kept      []bool
	}{
		{[]string{"TEXT=it's one"}, 0, 0, 1, []bool{true, false, false}},
		{[]string{"TEXT=two"}, 0, 1, 1, []bool{true, true, false}},
		{[]string{"TEXT=three", "FLUSH=1"}, 2, 0, 2, []bool{true, true, false}},
		{[]string{"TEXT=four", "FLUSH=1"}, 0, 0, 0, []bool{true, true, true}},
	} {
		died := disk.DieAt(c.dieAt)
		m := saved.Start(t, disk.Drive(), c.env...)
		waitFor(t, "the machine", func() bool {
			select {
			case <-died:
				return true
			default:
				return bytes.HasSuffix(m.Output(), []byte("over\n"))
			}
		})
		if worked, err := m.Worked(); err != nil || worked == 0 {
			t.Errorf("worked %v, %v", worked, err)
		}
		m.Cut()
		if worked, err := m.Worked(); err != nil || worked == 0 {
			t.Errorf("worked %v in all, %v", worked, err)
		}
		unflushed, lost, err := disk.PowerLost(rand.New(rand.NewPCG(1, 1)), c.stays)
		if want := int(float64(c.unflushed) * (1 - c.stays)); err != nil || unflushed != c.unflushed || lost != want {
			t.Errorf("round %d: %d sectors unflushed, %d lost, %v", round, unflushed, lost, err)
		}
		for i, kept := range c.kept {
			if holds(i) != kept {
				t.Errorf("round %d: block %d is kept: %v", round, i, !kept)
			}
		}
		var now int64
		if _, err := fmt.Sscan(string(m.Output()), &now); err != nil || now <= last {
			t.Errorf("round %d: the clock says %d, and said %d, %v", round, now, last, err)
		}
		last = now
		text := strings.TrimPrefix(c.env[0], "TEXT=")
		if !strings.Contains(string(m.Output()), "\n"+text+"\n") {
			t.Errorf("round %d: output %q", round, m.Output())
		}
	}
}

// Each sector that was not flushed is kept or lost by itself, after one write or two.
func TestVolatileDiskLosesAPart(t *testing.T) {
	testbed.Need(t, "machine")
	spec := script(`for i in 1 2; do head -c 1048576 /dev/zero | tr '\0' $i | dd of=/dev/vda bs=64k iflag=fullblock oflag=direct conv=notrunc || exit 1; done`, `echo over; sleep 1000`)
	disk := testbed.NewVolatileDisk(t, 1<<20)
	spec.Disks = []string{disk.Drive()}
	m := testbed.StartMachine(t, spec)
	waitFor(t, "the machine", func() bool { return bytes.HasSuffix(m.Output(), []byte("over\n")) })
	m.Cut()
	unflushed, lost, err := disk.PowerLost(rand.New(rand.NewPCG(1, 1)), 0.5)
	if err != nil || unflushed != 512 || lost < 200 || lost > 310 {
		t.Errorf("%d unflushed, %d lost, %v", unflushed, lost, err)
	}
	b, err := os.ReadFile(disk.Path())
	if err != nil {
		t.Fatal(err)
	}
	sectors := map[string]int{}
	for len(b) > 0 {
		sectors[string(b[:4096])]++
		b = b[4096:]
	}
	for i, about := range []int{64, 64, 128} {
		s := strings.Repeat([]string{"\x00", "1", "2"}[i], 4096)
		if n := sectors[s]; n < about*6/10 || n > about*14/10 {
			t.Errorf("%d sectors of 256 have %q in them, not about %d", n, s[0], about)
		}
		delete(sectors, s)
	}
	if len(sectors) > 0 {
		t.Errorf("%d sectors are neither old nor new", len(sectors))
	}
}
