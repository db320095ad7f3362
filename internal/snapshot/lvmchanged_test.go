package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/snapshot"
)

// The ranges hold all that differs, and nothing that was not written, in whole blocks of the pool.
func lvmChanged(t *testing.T) {
	const size, block = 32 << 20, 64 << 10
	device := lvmThin(t, "delta", "32m")
	lvmFill(t, device, 0, 12)
	p, base := lvmTake(t, snapshot.NameLVMThin, device, "job-0")
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range 2 {
		touched := make([]bool, size/block)
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			at, n := rnd.Int64N(size-300_000), 1+rnd.Int64N(300_000)
			if rnd.IntN(4) == 0 {
				at, n = at/block*block, (n+block-1)/block*block
				command(t, "blkdiscard", "-o", strconv.FormatInt(at, 10), "-l", strconv.FormatInt(n, 10), device)
			} else if _, err := io.CopyN(io.NewOffsetWriter(f, at), rand.NewChaCha8([32]byte{byte(at), byte(n)}), n); err != nil {
				t.Fatal(err)
			}
			for b := at / block; b <= (at+n-1)/block; b++ {
				touched[b] = true
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		_, now := lvmTake(t, snapshot.NameLVMThin, device, fmt.Sprintf("job-%d", round+1))
		changes, err := p.Changed(t.Context(), base.Base(), now)
		if err != nil {
			t.Fatal(err)
		}
		ranges, exact := changes.Image()
		if !exact {
			t.Error("not exact")
		}
		older, newer := lvmContent(t, base.Image), lvmContent(t, now.Image)
		end := int64(0)
		for _, r := range ranges {
			if r.Offset < end || r.Length <= 0 || r.End() > size {
				t.Fatalf("ranges out of order: %v", ranges)
			}
			end = r.End()
			for b := r.Offset / block; b < r.End()/block; b++ {
				if !touched[b] {
					t.Errorf("round %d: block %d is told as changed and was not written", round, b)
				}
			}
			copy(older[r.Offset:r.End()], newer[r.Offset:r.End()])
		}
		if !bytes.Equal(older, newer) {
			t.Errorf("round %d: something differs outside of the ranges", round)
		}
		base = now
	}
	_, now := lvmTake(t, snapshot.NameLVMThin, device, "job-9")
	pool := strings.ReplaceAll(lvmGroup, "-", "--") + "-pool--1-tpool"
	message := func(text string) { command(t, "dmsetup", "message", pool, "0", text) }
	held := func() bool { return strings.Fields(command(t, "dmsetup", "status", pool))[6] != "-" }

	message("reserve_metadata_snap")
	if _, err := p.Changed(t.Context(), base.Base(), now); !errors.Is(err, snapshot.ErrBase) {
		t.Errorf("another program's snapshot of the metadata: %v", err)
	}
	if !held() {
		t.Error("another program's snapshot of the metadata is gone")
	}
	// The same snapshot with the tag is a remnant of our own crash.
	lvm(t, "lvchange", "--addtag", "hf.host-1.metadata", lvmGroup+"/pool-1")
	if _, err := p.Changed(t.Context(), base.Base(), now); err != nil {
		t.Error(err)
	}
	if held() {
		t.Error("our snapshot of the metadata stays")
	}
	lvm(t, "lvchange", "--addtag", "hf.host-1.metadata", lvmGroup+"/pool-1")
	message("reserve_metadata_snap")
	if _, err := p.Leftovers(t.Context(), lvmRequest(device, "x")); err != nil || held() {
		t.Errorf("leftovers: %v; still held: %v", err, held())
	}

	gone := base.Ref
	gone.Path += "-gone"
	for what, ref := range map[string]snapshot.Ref{"gone": gone, "of another volume": {Provider: p.Name(), Path: base.Ref.Path, Volume: "/x"}} {
		if _, err := p.Changed(t.Context(), snapshot.Base{Ref: ref}, now); !errors.Is(err, snapshot.ErrBase) {
			t.Errorf("base that is %s: %v", what, err)
		}
	}

	// Only such devices have snapshots that are worth keeping.
	other := lvmClassic(t, "no-delta", "8m")
	for _, c := range []struct {
		provider, volume string
		want             bool
	}{
		{snapshot.NameLVMThin, device, true}, {snapshot.NameLVMClassic, other, false}, {snapshot.NameLVMThin, t.TempDir(), false},
	} {
		if got, err := provider(t, c.provider).Comparable(c.volume); err != nil || got != c.want {
			t.Errorf("%s of %s can be compared with: %v, %v", c.provider, c.volume, got, err)
		}
	}
}

func lvmContent(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
