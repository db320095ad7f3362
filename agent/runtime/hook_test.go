package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/agent/runtime"
	"holdfast/internal/testbed"
)

// soon polls until done, for up to a minute.
func soon(t *testing.T, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

func lives(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// escapes are ways in which a command leaves a process behind that writes its number to the file
// $1, and would act on the instance later.
var escapes = map[string]string{
	"in the background":       `sh -c 'echo $$ >"$0"; exec sleep 1000' "$1" & `,
	"in a session of its own": `setsid sh -c 'echo $$ >"$0"; exec sleep 1000' "$1" & `,
	"forked twice":            `(setsid sh -c '(setsid sh -c "echo \$\$ >\"\$0\"; exec sleep 1000" "$0" &) &' "$1" &) & `,
	"deaf to signals":         `setsid sh -c 'trap "" TERM INT HUP; echo $$ >"$0"; while :; do sleep 1; done' "$1" & `,
	"without the pipes":       `setsid sh -c 'echo $$ >"$0"; exec sleep 1000' "$1" >/dev/null 2>&1 </dev/null & `,
}

// TestNoProcessOfAHookSurvives: however a process of a command got away from it, it does not
// outlive the command's end, be that well, with an error, or by the time-out.
func TestNoProcessOfAHookSurvives(t *testing.T) {
	testbed.Need(t, "setsid")
	for name, escape := range escapes {
		for _, end := range []string{"exit 0", "exit 3", "sleep 1000"} {
			t.Run(fmt.Sprint(name, ", ", end), func(t *testing.T) {
				t.Parallel()
				number := filepath.Join(t.TempDir(), "number")
				command := escape + `while ! [ -s "$1" ]; do sleep 0.01; done; ` + end
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				go func() { ended <- execWith(t, 5*time.Minute, "sh", "-c", command, "sh", number).Freeze(ctx) }()
				if end == "sleep 1000" {
					soon(t, "the command left a process behind", func() bool {
						b, err := os.ReadFile(number)
						return err == nil && len(b) > 0
					})
					cancel() // a time-out ends the context too
				}
				if err := <-ended; (err == nil) != (end == "exit 0") {
					t.Errorf("freeze: %v", err)
				}
				b, err := os.ReadFile(number)
				if err != nil {
					t.Fatal(err)
				}
				if pid := strings.TrimSpace(string(b)); lives(pid) {
					t.Errorf("process %s is left", pid)
				}
			})
		}
	}
}

// TestStartLeavesTheInstance: a start command may leave the instance's processes
// behind, if it succeeds.
func TestStartLeavesTheInstance(t *testing.T) {
	testbed.Need(t, "setsid")
	for _, ends := range []string{"exit 0", "exit 1"} {
		dir := t.TempDir()
		number := filepath.Join(dir, "number")
		start := []string{"sh", "-c", escapes["without the pipes"] + `while ! [ -s "$1" ]; do sleep 0.01; done; ` + ends, "sh", number}
		i, err := runtime.New(runtime.Config{Kind: runtime.KindExec, Exec: runtime.ExecConfig{
			Instance: "phone-1", Freeze: []string{"true"}, Thaw: []string{"true"}, PowerDown: []string{"true"}, Start: start, Timeout: time.Minute,
		}})
		if err != nil {
			t.Fatal(err)
		}
		err = i.Start(t.Context())
		b, rerr := os.ReadFile(number)
		if rerr != nil {
			t.Fatal(errors.Join(err, rerr))
		}
		pid := strings.TrimSpace(string(b))
		if got, want := lives(pid), ends == "exit 0"; got != want || (err == nil) != want {
			t.Errorf("%s: the instance's process lives: %v; %v", ends, got, err)
		}
		if n, err := strconv.Atoi(pid); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

// TestHooksDieWithTheAgent: SIGKILL of the process that runs a hook ends all processes of the hook.
func TestHooksDieWithTheAgent(t *testing.T) {
	if number := os.Getenv("HOLDFAST_TEST_HOOK"); number != "" {
		_ = execWith(t, time.Hour, "sh", "-c", escapes["in a session of its own"]+"sleep 1000", "sh", number).Freeze(context.Background())
		return
	}
	testbed.Need(t, "setsid")
	number := filepath.Join(t.TempDir(), "number")
	agent := exec.Command(os.Args[0], "-test.run=^TestHooksDieWithTheAgent$")
	agent.Env = append(os.Environ(), "HOLDFAST_TEST_HOOK="+number)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid string
	soon(t, "the hook runs", func() bool {
		b, err := os.ReadFile(number)
		pid = strings.TrimSpace(string(b))
		return err == nil && pid != ""
	})
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	soon(t, "the hook's process is dead", func() bool { return !lives(pid) })
}
