package main

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestEndedEarly: a reader that goes away and a terminal that does end the
// demonstration as Ctrl-C would, with nothing left behind. It runs this test's
// own program as holdfast, for SIGPIPE is a matter of the real standard output.
func TestEndedEarly(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Under nohup this process ignores the signal, and so would its
	// children; a signal that the process catches, its children get back.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for name, c := range map[string]struct {
		end    func(out *os.File, p *os.Process) error
		stderr string
	}{
		"reader": {func(out *os.File, _ *os.Process) error { return out.Close() }, ""},
		"terminal": {
			func(_ *os.File, p *os.Process) error { return p.Signal(syscall.SIGHUP) },
			"holdfast: interrupted, stopping; once more ends at once\nholdfast: demo: interrupted\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			// The name by which testscript knows the program.
			program := filepath.Join(dir, "holdfast")
			if err := os.Symlink(self, program); err != nil {
				t.Fatal(err)
			}
			tmp := filepath.Join(dir, "tmp")
			if err := os.Mkdir(tmp, 0o700); err != nil {
				t.Fatal(err)
			}
			out, in, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			var stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), program, "demo")
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp, asProgram+"=1")
			cmd.Stdout, cmd.Stderr = in, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if err := out.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := c.end(out, cmd.Process); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its state is looked at
			if code := cmd.ProcessState.ExitCode(); code != exitInterrupted || stderr.String() != c.stderr {
				t.Errorf("%v, %q", cmd.ProcessState, stderr.String())
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
