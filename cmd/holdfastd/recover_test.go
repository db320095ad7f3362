package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

// heldHost is a host whose agent was killed while its only instance
// was held with a report that nobody takes.
type heldHost struct {
	dir, config, metrics string
	client               *api.Client
}

func newHeldHost(t *testing.T) *heldHost {
	t.Helper()
	h := &heldHost{dir: testbed.Dir(t), metrics: testbed.FreeAddress(t)}
	h.config, h.client = writeConfig(t, h.dir, h.metrics), api.NewClient(filepath.Join(h.dir, "s"))
	verb := h.in("verb")
	if err := os.WriteFile(verb, []byte(`#!/bin/sh
case "$HOLDFAST_ACTION" in
state) cat "$1/state-of-one" ;;
freeze) echo frozen >"$1/state-of-one" ;;
thaw) echo running >"$1/state-of-one" ;;
*) echo stopped >"$1/state-of-one" ;;
esac
`), 0o700); err != nil {
		t.Fatal(err)
	}
	command := `["` + verb + `","` + h.dir + `"]`
	h.edit(t, h.config, `{"none":{}}`, `{"exec":{"state":`+command+`,"freeze":`+command+`,"thaw":`+command+`,"power_down":`+command+`}}`)
	h.edit(t, h.config, `"host_id"`, `"hold":"frozen","vault":{"auto_create":true},"recipients":["`+recipient+`"],"host_id"`)
	for name, content := range map[string]string{"state-of-one": "running\n", "data/file": "what it holds"} {
		if err := os.WriteFile(h.in(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := startDaemon(t, h.config, h.metrics)
	if _, err := h.client.Backup(t.Context(), "r", []string{"one"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the report waits", func() bool {
		jobs, err := h.client.Jobs(t.Context(), api.JobFilter{Active: true})
		return err == nil && len(jobs) == 1 && jobs[0].Stage == string(model.Reported)
	})
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	return h
}

// recipient is a recovery key of nobody.
const recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

func (h *heldHost) in(name string) string { return filepath.Join(h.dir, name) }

func (h *heldHost) edit(t *testing.T, path, from, to string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), from) {
		t.Fatalf("%s has no %s, %v", path, from, err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *heldHost) state(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(h.in("state-of-one"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

// TestRecoversWithFaults: whatever keeps the agent from a common life, a start with a
// held instance answers operators, takes no commands, can let the instance go, and ends
// with the code of the fault when nothing is held. With nothing held it ends at once.
func TestRecoversWithFaults(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, h *heldHost)
		code  int
	}{
		"the file has a fault": {func(t *testing.T, h *heldHost) { h.edit(t, h.config, `"host_id"`, `"nonsense":1,"host_id"`) }, exitConfig},
		"the file is no YAML":  {func(t *testing.T, h *heldHost) { h.edit(t, h.config, `{`, "state_dir: "+h.in("state")+"\n}{") }, exitConfig},
		"the file is gone":     {func(t *testing.T, h *heldHost) { check(t, os.Remove(h.config)) }, exitConfig},
		"a key that others read": {func(t *testing.T, h *heldHost) {
			check(t, os.Chmod(h.in("host.key"), 0o644))
		}, exitConfig},
		"no key": {func(t *testing.T, h *heldHost) { check(t, os.Remove(h.in("host.key"))) }, exitConfig},
		"no file of tokens": {func(t *testing.T, h *heldHost) {
			h.edit(t, h.config, `"host_id"`, `"tokens_file":"/nowhere/tokens","host_id"`)
		}, exitConfig},
		"a signing key of no": {func(t *testing.T, h *heldHost) { check(t, os.WriteFile(h.in("signing.pem"), []byte("none"), 0o600)) }, exitFailed},
		"no audit log": {func(t *testing.T, h *heldHost) {
			h.edit(t, h.config, `"host_id"`, `"audit":{"file":"/nowhere/a"},"host_id"`)
		}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeldHost(t)
			cmd := holdfastd(t, "held", "--config", h.config)
			if out, err := cmd.Output(); cmd.ProcessState.ExitCode() != exitFailed || string(out) != "one\n" {
				t.Errorf("held: %q, %v", out, err)
			}
			c.spoil(t, h)
			socket, receive := listenNotify(t)
			var log logBuffer
			cmd = holdfastd(t, "--config", h.config)
			cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket, "STATE_DIRECTORY="+h.in("state"))
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { defer close(ended); _ = cmd.Wait() }()
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-ended
				if t.Failed() {
					t.Logf("the daemon logged:\n%s", &log)
				}
			})
			if got := receive(); !strings.Contains(got, "READY=1\n") || !strings.Contains(got, "no commands are taken") {
				t.Errorf("it said %q", got)
			}
			if info, err := h.client.Info(t.Context()); err != nil || !info.Draining {
				t.Errorf("info: %+v, %v", info, err)
			}
			if _, err := h.client.Backup(t.Context(), "r2", []string{"one"}); err == nil {
				t.Error("it took a command")
			}
			if got := h.state(t); got != "frozen" {
				t.Errorf("the instance, whose backup is stored, is %s", got)
			}
			if err := h.client.Resume(t.Context(), "one"); err != nil {
				t.Error(err)
			}
			eventually(t, "the instance runs", func() bool { return h.state(t) == "running" })
			select {
			case <-ended:
			case <-time.After(2 * time.Minute):
				t.Fatal("it does not end although nothing is held")
			}
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("the exit code is %d, want %d", code, c.code)
			}
			var stdout, stderr bytes.Buffer
			again := holdfastd(t, "--config", h.config)
			again.Env = append(again.Env, "STATE_DIRECTORY="+h.in("state"))
			again.Stdout, again.Stderr = &stdout, &stderr
			if err := again.Run(); again.ProcessState.ExitCode() != c.code {
				t.Errorf("with nothing held: %v, %s", err, &stderr)
			}
			if out, err := holdfastd(t, "held", "--config", h.config).Output(); err != nil || len(out) > 0 {
				t.Errorf("held: %q, %v", out, err)
			}
		})
	}
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// TestStopEnds: a stop comes to its end near limits.drain_timeout also where the
// command that lets an instance run hangs, and the next start lets the instance run.
func TestStopEnds(t *testing.T) {
	t.Parallel()
	h := newHeldHost(t)
	h.edit(t, h.config, `"host_id"`, `"limits":{"drain_timeout":"2s"},"host_id"`)
	h.edit(t, h.in("verb"), "thaw)", "thaw) test -e \"$1/hang\" && exec sleep 600;")
	check(t, os.WriteFile(h.in("hang"), nil, 0o600))
	d := startDaemon(t, h.config, h.metrics)
	if err := h.client.Resume(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if code := d.end(t, syscall.SIGTERM); code != exitDone && code != exitFailed {
		t.Errorf("the exit code is %d", code)
	}
	// 2 s and 25 s of agent.StopTime, on a machine that is busy
	if took := time.Since(began); took > 80*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if got := h.state(t); got != "frozen" {
		t.Errorf("the instance is %s", got)
	}
	check(t, os.Remove(h.in("hang")))
	d = startDaemon(t, h.config, h.metrics)
	eventually(t, "the instance runs", func() bool { return h.state(t) == "running" })
	if code := d.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("the exit code is %d", code)
	}
}

func TestParseUnitTime(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1min 30s": 90 * time.Second, "90s": 90 * time.Second, "2h 5min": 125 * time.Minute, "500ms": 500 * time.Millisecond,
		"15us": 15 * time.Microsecond, "infinity": 0, "": 0, "soon": 0,
	} {
		if got := parseUnitTime(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

// TestSocketAnswersDuringRecovery: while the agent waits for a runtime
// that does not answer, before it is ready, operators are answered.
func TestSocketAnswersDuringRecovery(t *testing.T) {
	t.Parallel()
	h := newHeldHost(t)
	d := startDaemon(t, h.config, h.metrics)
	eventually(t, "the report waits", func() bool { return h.client.Resume(t.Context(), "one") == nil && h.state(t) == "running" })
	eventually(t, "the job is over", func() bool {
		jobs, err := h.client.Jobs(t.Context(), api.JobFilter{Active: true})
		return err == nil && len(jobs) == 0
	})
	h.edit(t, h.in("verb"), "freeze)", `freeze) while test -e "$1/hang"; do sleep 0.1; done;`)
	h.edit(t, h.in("verb"), "state)", `state) while test -e "$1/hang-state"; do sleep 0.1; done;`)
	check(t, os.WriteFile(h.in("hang"), nil, 0o600))
	if _, err := h.client.Backup(t.Context(), "r2", []string{"one"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is being frozen", func() bool {
		jobs, err := h.client.Jobs(t.Context(), api.JobFilter{Active: true})
		return err == nil && len(jobs) == 1 && jobs[0].Stage == string(model.Freezing)
	})
	check(t, d.cmd.Process.Kill())
	_ = d.cmd.Wait()
	check(t, os.WriteFile(h.in("hang-state"), nil, 0o600), os.Remove(h.in("hang")))
	var log logBuffer
	cmd := holdfastd(t, "--config", h.config)
	cmd.Stderr = &log
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the daemon logged:\n%s", &log)
		}
	})
	eventually(t, "the socket answers", func() bool { _, err := h.client.Info(t.Context()); return err == nil })
	if strings.Contains(log.String(), "msg=ready") && !strings.Contains(log.String(), "after a restart") {
		t.Error("it was ready before it had looked at the instance")
	}
	check(t, os.Remove(h.in("hang-state")))
	eventually(t, "it is ready", func() bool { return strings.Contains(log.String(), "msg=ready") })
}
