package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/runtime"
	"holdfast/agent/runtime/runtimetest"
	"holdfast/internal/testbed"
)

// control is a small instance manager as operators write them: the program is one process with its
// number in a file, held by SIGSTOP.
const control = `#!/bin/sh
cd "$1" || exit 1
pid=$(cat pid 2>/dev/null || echo 0)
state() {
	case $(sed 's/.*) //;s/ .*//' "/proc/$pid/stat" 2>/dev/null) in
	T|t) echo frozen ;;
	''|Z|X) echo stopped ;;
	*) echo running ;;
	esac
}
case $HOLDFAST_ACTION in
state) [ -e gone ] && echo missing || echo "$(state) $(cat generation 2>/dev/null)" ;;
freeze) kill -STOP "$pid" ;;
thaw) [ ! -e generation ] || date +%s%N >generation; kill -CONT "$pid" ;;
power_down) kill -KILL "$pid"; while [ "$(state)" != stopped ]; do sleep 0.01; done ;;
start)
	[ ! -e generation ] || [ "$(state)" = running ] || date +%s%N >generation
	[ "$(state)" = frozen ] && kill -CONT "$pid"
	[ "$(state)" = stopped ] || exit 0
	setsid sh -c 'echo $$ >new; mv new pid; while :; do echo x >>volume/log; [ -e volume/` + runtimetest.Hurry + ` ] || sleep 0.02; done' >/dev/null 2>&1 & while [ "$(cat pid 2>/dev/null || echo 0)" = "$pid" ]; do sleep 0.01; done
	;;
esac
[ "$HOLDFAST_INSTANCE" = phone-1 ]
`

func TestExecConforms(t *testing.T) {
	testbed.Need(t, "setsid")
	for _, tells := range []string{"nothing", "state", "state and generation"} {
		t.Run("tells "+tells, func(t *testing.T) {
			runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
				dir := t.TempDir()
				script := filepath.Join(dir, "control")
				if err := os.WriteFile(script, []byte(control), 0o755); err != nil {
					t.Fatal(err)
				}
				volume := filepath.Join(dir, "volume")
				if err := os.Mkdir(volume, 0o755); err != nil {
					t.Fatal(err)
				}
				argv := []string{script, dir}
				cfg := runtime.ExecConfig{Instance: "phone-1", Freeze: argv, Thaw: argv, PowerDown: argv, Start: argv, State: argv}
				s := runtimetest.Subject{Volume: volume, Blind: tells == "nothing", Remove: func() {
					if err := os.WriteFile(filepath.Join(dir, "gone"), nil, 0o644); err != nil {
						t.Fatal(err)
					}
				}}
				if s.Blind {
					cfg.State, s.Remove = nil, nil
				}
				if tells == "state and generation" {
					if err := os.WriteFile(filepath.Join(dir, "generation"), nil, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				if s.Instance, err = runtime.New(runtime.Config{Kind: runtime.KindExec, Exec: cfg}); err != nil {
					t.Fatal(err)
				}
				manager := func(action string) {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					cmd := exec.CommandContext(ctx, script, dir)
					cmd.Env = append(os.Environ(), "HOLDFAST_INSTANCE=phone-1", "HOLDFAST_ACTION="+action)
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%s: %v: %s", action, err, out)
					}
				}
				manager("start")
				t.Cleanup(func() { manager("power_down") })
				return s
			})
		})
	}
}

func execWith(t *testing.T, timeout time.Duration, freeze ...string) runtime.Instance {
	t.Helper()
	i, err := runtime.New(runtime.Config{Kind: runtime.KindExec, Exec: runtime.ExecConfig{
		Instance: "phone-1", Freeze: freeze, Thaw: []string{"true"}, PowerDown: []string{"true"}, State: nil, Timeout: timeout,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestExecErrors(t *testing.T) {
	err := execWith(t, 0, "sh", "-c", "echo; yes | head -c 100000; echo no such phone >&2; exit 3").Freeze(t.Context())
	if err == nil || len(err.Error()) > 3*4096 {
		t.Fatalf("error of %d bytes", len(fmt.Sprint(err)))
	}
	for _, part := range []string{"phone-1", "freeze", "exit status 3", "no such phone"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v lacks %q", err, part)
		}
	}
	if err := execWith(t, 0, "/nonexistent/freeze").Freeze(t.Context()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/freeze") {
		t.Errorf("no such program: %v", err)
	}
	if err := execWith(t, 0, "true").Start(t.Context()); !errors.Is(err, runtime.ErrUnsupported) {
		t.Errorf("start without a command: %v", err)
	}
}

// The whole process group ends at the time-out, so that no late child freezes an
// instance that was thawed.
func TestExecTimeoutKillsTheGroup(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "late")
	begin := time.Now()
	err := execWith(t, 200*time.Millisecond, "sh", "-c", "(sleep 4; touch "+mark+") & sleep 60").Freeze(t.Context())
	if !errors.Is(err, runtime.ErrTimeout) {
		t.Errorf("error %v", err)
	}
	if d := time.Since(begin); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
	time.Sleep(5*time.Second - min(time.Since(begin), 4*time.Second))
	if _, err := os.Stat(mark); err == nil {
		t.Error("a child outlived the time-out")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("cancelled by the operator")
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	if err := execWith(t, time.Minute, "sleep", "30").Freeze(ctx); !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestExecEnvironmentAndArguments(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	out := filepath.Join(t.TempDir(), "out")
	do(t, "freeze", execWith(t, 0, "sh", "-c", `env >"$1"; echo "$2" >>"$1"`, "x", out, "a b;$(id)").Freeze)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"HOLDFAST_INSTANCE=phone-1\n", "HOLDFAST_ACTION=freeze\n", "PATH=/usr", "a b;$(id)\n"} {
		if !strings.Contains(string(b), part) {
			t.Errorf("%q lacks %q", b, part)
		}
	}
	if strings.Contains(string(b), "secret") {
		t.Errorf("the agent's environment reached the command: %q", b)
	}
}

func TestExecStateIsChecked(t *testing.T) {
	with := func(state ...string) runtime.Instance {
		i, err := runtime.New(runtime.Config{Kind: runtime.KindExec, Exec: runtime.ExecConfig{
			Instance: "phone-1", Freeze: []string{"true"}, Thaw: []string{"true"}, PowerDown: []string{"true"}, State: state, Timeout: 3 * time.Second,
		}})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	if _, err := with("echo", "asleep").State(t.Context()); err == nil || !strings.Contains(err.Error(), `"asleep\n"`) {
		t.Errorf("odd state: %v", err)
	}
	// A power-down command that lies is found out.
	err := with("echo", "running").PowerDown(t.Context(), nil)
	if !errors.Is(err, runtime.ErrTimeout) || !strings.Contains(err.Error(), "is running") {
		t.Errorf("power down that did nothing: %v", err)
	}
}

// The driver keeps a stopped instance down each time it finds one: since the agent's
// own power-down somebody may have started it, and stopped it again.
func TestExecKeepsDownWhatIsFoundStopped(t *testing.T) {
	dir := t.TempDir()
	state, log := filepath.Join(dir, "state"), filepath.Join(dir, "log")
	is := func(s string) {
		if err := os.WriteFile(state, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	i, err := runtime.New(runtime.Config{Kind: runtime.KindExec, Exec: runtime.ExecConfig{
		Instance: "phone-1", Freeze: []string{"true"}, Thaw: []string{"true"}, State: []string{"cat", state},
		PowerDown: []string{"sh", "-c", `echo stopped >"$1"; echo down >>"$2"`, "x", state, log},
	}})
	if err != nil {
		t.Fatal(err)
	}
	times := func() int {
		b, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Count(string(b), "down")
	}
	is("running")
	do(t, "power down", func(ctx context.Context) error { return i.PowerDown(ctx, nil) })
	do(t, "keep down", i.KeepDown)
	if n := times(); n != 1 {
		t.Errorf("right after the power-down the command has run %d times", n)
	}
	is("running")
	do(t, "keep down what runs", i.KeepDown)
	if n := times(); n != 1 {
		t.Errorf("of an instance that runs the command has run %d times", n)
	}
	is("stopped")
	do(t, "keep down", i.KeepDown)
	if n := times(); n != 2 {
		t.Errorf("of an instance that somebody stopped the command has run %d times", n)
	}
}
