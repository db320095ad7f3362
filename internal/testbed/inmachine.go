package testbed

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// machineVariable is set for a test program that runs in a machine.
const machineVariable = "HOLDFAST_TESTBED_MACHINE"

// InMachine reports whether this test program runs in a machine of RunInMachine.
func InMachine() bool { return os.Getenv(machineVariable) != "" }

// RunInMachine runs the calling top-level test, which does the work when InMachine and
// calls this when not, in a machine: it builds the test program of the package in the
// working folder, boots it with spec (whose Program, Args and Env it fills) and passes
// on the outcome of every subtest. A machine that is not done after patience is cut.
func RunInMachine(t *testing.T, spec MachineSpec, patience time.Duration) {
	t.Helper()
	Need(t, append([]string{"machine"}, spec.Tools...)...)
	spec.Program = filepath.Join(Dir(t), "test")
	// Static: another libc is not worth its room, and without it nothing depends on the host's.
	build := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", spec.Program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	pattern := "^" + t.Name() + "$"
	if _, sub, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		pattern += "/" + sub // "-run TestX/this" is for the machine too
	}
	spec.Args = []string{"-test.run=" + pattern, "-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + patience.String()}
	spec.Env = append(spec.Env, machineVariable+"=1", "HOLDFAST_MUST_RUN=1")
	m := StartMachine(t, spec)
	begin := time.Now()
	code, err := m.Wait(patience)
	if err != nil {
		t.Error(err)
	}
	t.Logf("the machine ran for %.1f s", time.Since(begin).Seconds())
	outcome, err := readOutcome(m.Output())
	if err != nil {
		t.Fatal(err)
	}
	top := outcome[t.Name()]
	if top == nil {
		t.Fatalf("the test did not run in the machine:\n%s", tail(m.Output()))
	}
	if code != 0 && !top.failed() {
		t.Errorf("the test program in the machine ended with %d after its tests:\n%s", code, tail(m.Output()))
	}
	top.pass(t)
}

// testOutcome is the result of a test in a machine.
type testOutcome struct {
	name     string
	action   string // pass, fail, skip; "" when it did not end
	output   strings.Builder
	subtests []*testOutcome
}

func (o *testOutcome) failed() bool { return o.action != "pass" && o.action != "skip" }

// pass makes t end as o did.
func (o *testOutcome) pass(t *testing.T) {
	for _, sub := range o.subtests {
		t.Run(strings.TrimPrefix(sub.name, o.name+"/"), sub.pass)
	}
	if text := strings.TrimSpace(o.output.String()); text != "" {
		t.Log("in the machine:\n" + text)
	}
	switch {
	case o.action == "" && len(o.subtests) == 0:
		t.Error("did not end in the machine")
	case o.failed():
		t.Error("failed in the machine")
	case o.action == "skip" && MustRun():
		t.Error("was skipped in the machine")
	case o.action == "skip":
		t.Skip("was skipped in the machine")
	}
}

// readOutcome reads the output of a test program with -test.v=test2json: name of the
// test -> outcome.
func readOutcome(output []byte) (map[string]*testOutcome, error) {
	convert := exec.Command("go", "tool", "test2json")
	convert.Stdin = bytes.NewReader(output)
	events, err := convert.Output()
	if err != nil {
		return nil, fmt.Errorf("read what the tests printed: %w", err)
	}
	all := map[string]*testOutcome{}
	lines := bufio.NewScanner(bytes.NewReader(events))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read what the tests printed: %w", err)
		}
		if e.Test == "" {
			continue
		}
		o := all[e.Test]
		if o == nil {
			o = &testOutcome{name: e.Test}
			all[e.Test] = o
			if parent := all[e.Test[:max(0, strings.LastIndexByte(e.Test, '/'))]]; parent != nil {
				parent.subtests = append(parent.subtests, o)
			}
		}
		switch e.Action {
		case "output":
			if !strings.HasPrefix(e.Output, "=== ") && !strings.HasPrefix(strings.TrimSpace(e.Output), "--- ") {
				o.output.WriteString(e.Output)
			}
		case "pass", "fail", "skip":
			o.action = e.Action
		}
	}
	return all, lines.Err()
}
