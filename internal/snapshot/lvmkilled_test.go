package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
)

// victimVariable makes this test program run as a victim, which makes and removes
// snapshots of that volume until it is killed.
const victimVariable = "HOLDFAST_LVM_VICTIM"

func victim(t *testing.T, volume string) {
	p, _, err := snapshot.Detect(t.Context(), snapshot.Request{Volume: volume}, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		snap, err := p.Create(t.Context(), lvmRequest(volume, fmt.Sprintf("job-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Remove(t.Context(), snap.Ref); err != nil {
			t.Fatal(err)
		}
	}
}

// An agent dies while a program of LVM is at work for it, in every other round with
// that program. The next one finds all that is left, and the volume can be written.
func lvmKilled(t *testing.T) {
	volumes := []string{lvmMounted(t, "ext4", lvmThin(t, "kill-t", "64m")), lvmMounted(t, "ext4", lvmClassic(t, "kill-c", "64m"))}
	before := lvmState(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	found := 0
	for round := range 8 {
		volume, program := volumes[round%2], []string{"lvcreate", "lvremove"}[round/2%2]
		with := round/4%2 == 0
		lvmKill(t, volume, program, with, time.Duration(rnd.Int64N(int64(400*time.Millisecond))))
		refs, err := snapshot.Leftovers(t.Context(), lvmRequest(volume, "x"))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, ref := range refs {
			found++
			if err := provider(t, ref.Provider).Remove(t.Context(), ref); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if after := lvmState(t); after != before {
			t.Fatalf("round %d, %s killed as well: %v, with %v, left:\n%s\nbefore it was:\n%s", round, program, with, refs, after, before)
		}
		f, err := os.Create(filepath.Join(volume, "file"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("no round left anything, so none showed anything")
	}
}

// lvmKill starts a victim, waits until it runs the program, and a moment longer, and kills it.
func lvmKill(t *testing.T, volume, program string, with bool, moment time.Duration) {
	t.Helper()
	v := exec.Command("/proc/self/exe", "-test.run=^TestLVM$")
	v.Env = append(os.Environ(), victimVariable+"="+volume)
	if err := v.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Wait() }()
	var child int
	for end := time.Now().Add(5 * time.Minute); child == 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			_ = v.Process.Kill()
			t.Fatalf("the victim never ran %s", program)
		}
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", v.Process.Pid))
		for _, list := range lists {
			pids, _ := os.ReadFile(list)
			for _, pid := range strings.Fields(string(pids)) {
				if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.Contains(line, []byte(program)) {
					child, _ = strconv.Atoi(pid)
				}
			}
		}
	}
	time.Sleep(moment)
	if err := v.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if with {
		_ = unix.Kill(child, unix.SIGKILL) // it may have ended by itself
	}
}

// A program that was killed at its worst moments leaves a suspended volume and mappings that
// LVM forgets. Where no work of ours was begun, somebody suspended the volume on purpose.
func lvmHalfDone(t *testing.T) {
	thin, classic := lvmThin(t, "half-t", "16m"), lvmClassic(t, "half-c", "16m")
	suspended := func(mapping string) bool {
		return strings.Contains(command(t, "dmsetup", "info", "-c", "--noheadings", "-o", "suspended", mapping), "Suspended")
	}
	p, snap := lvmTake(t, snapshot.NameLVMThin, thin, "job")
	for _, mapping := range []string{"data--1-half--t", "data--1-pool--1-tpool"} {
		command(t, "dmsetup", "suspend", mapping)
		if _, err := p.Leftovers(t.Context(), lvmRequest(thin, "x")); err != nil {
			t.Error(err)
		}
		if suspended(mapping) {
			t.Errorf("%s is still suspended", mapping)
		}
	}
	if err := p.Remove(t.Context(), snap.Ref); err != nil {
		t.Fatal(err)
	}
	command(t, "dmsetup", "suspend", "data--1-half--t")
	if _, err := p.Leftovers(t.Context(), lvmRequest(thin, "x")); err != nil {
		t.Error(err)
	}
	if !suspended("data--1-half--t") {
		t.Error("a volume was let run that is none of our business")
	}
	command(t, "dmsetup", "resume", "data--1-half--t")

	p, snap = lvmTake(t, snapshot.NameLVMClassic, classic, "job")
	if err := p.Remove(t.Context(), snap.Ref); err != nil {
		t.Fatal(err)
	}
	own := filepath.Base(snap.Image)
	for _, mapping := range []string{own + "-cow", own, "data--1-half--c-real"} {
		command(t, "dmsetup", "create", mapping, "--table", "0 8 error")
	}
	if err := p.Remove(t.Context(), snap.Ref); err != nil { // lvmState sees remnants
		t.Error(err)
	}
}
