package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ExecConfig has the commands that act on an instance. Each is a program and its arguments, run
// without a shell, with an environment of PATH, HOLDFAST_INSTANCE and HOLDFAST_ACTION only (the agent's
// own holds credentials). All processes of a command are killed at the time-out, and those that it leaves
// behind when it ends, also in sessions of their own: see runHook. Only Start may leave the instance's
// processes behind when it succeeds; it must redirect their output, and after exit is waited for 2 seconds.
type ExecConfig struct {
	Instance string   // id of the instance
	Freeze   []string // must succeed on a frozen instance when there is no State
	Thaw     []string // the same for a running one
	// PowerDown of a frozen instance must not let it execute again.
	PowerDown []string
	Start     []string // optional
	// State prints running, frozen, stopped or missing. Optional; without it State is Unknown, and that a
	// command ends with exit status 0 is the only confirmation.
	State   []string
	Timeout time.Duration // of each verb; 0: DefaultTimeout
}

// Bounds on what a command may say.
const (
	maxOutput = 2 << 10 // bytes kept for the error: the last ones, where the reason stands
	pipeWait  = 2 * time.Second
	execPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

type execInstance struct{ cfg ExecConfig }

func newExec(cfg ExecConfig) (*execInstance, error) {
	if cfg.Instance == "" || strings.ContainsRune(cfg.Instance, 0) {
		return nil, fmt.Errorf("exec instance %q: not an instance's id", cfg.Instance)
	}
	for _, c := range []struct {
		name string
		argv []string
		must bool
	}{
		{"freeze", cfg.Freeze, true},
		{"thaw", cfg.Thaw, true},
		{"power down", cfg.PowerDown, true},
		{"start", cfg.Start, false},
		{"state", cfg.State, false},
	} {
		if len(c.argv) == 0 && c.must || len(c.argv) > 0 && c.argv[0] == "" {
			return nil, fmt.Errorf("exec instance %s: %s: no program given", cfg.Instance, c.name)
		}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &execInstance{cfg}, nil
}

func (e *execInstance) Kind() string { return KindExec }
func (e *execInstance) Holds() bool  { return true }
func (e *execInstance) Close() error { return nil }

func (e *execInstance) State(ctx context.Context) (State, error) {
	ctx, cancel := limit(ctx, e.cfg.Timeout)
	defer cancel()
	return e.look(ctx)
}

func (e *execInstance) look(ctx context.Context) (State, error) {
	if len(e.cfg.State) == 0 {
		return Unknown, nil
	}
	out, err := e.run(ctx, "state", e.cfg.State)
	if err != nil {
		return Unknown, err
	}
	switch s := State(strings.TrimSpace(out)); s {
	case Running, Frozen, Stopped, Missing:
		return s, nil
	}
	return Unknown, fmt.Errorf("exec instance %s: state: %s printed %q, not running, frozen, stopped or missing", e.cfg.Instance, e.cfg.State[0], out)
}

// reach looks, runs the command if the state is another than the wanted one, and looks again.
func (e *execInstance) reach(ctx context.Context, verb string, want State, pick func(State) ([]string, error)) error {
	ctx, cancel := limit(ctx, e.cfg.Timeout)
	defer cancel()
	state, err := e.look(ctx)
	if err != nil || state == want {
		return err
	}
	argv, err := []string(nil), ErrMissing
	if state != Missing {
		argv, err = pick(state)
	}
	if err != nil {
		return fmt.Errorf("exec instance %s: %s: %w", e.cfg.Instance, verb, err)
	}
	if argv == nil {
		return nil
	}
	if _, err := e.run(ctx, verb, argv); err != nil {
		return err
	}
	if state == Unknown {
		return nil
	}
	err = await(ctx, func() (bool, error) {
		var err error
		state, err = e.look(ctx)
		return state == want, err
	})
	if err != nil {
		return fmt.Errorf("exec instance %s: %s: the command succeeded, but the instance is %s: %w", e.cfg.Instance, verb, state, err)
	}
	return nil
}

func (e *execInstance) Freeze(ctx context.Context) error {
	return e.reach(ctx, "freeze", Frozen, func(s State) ([]string, error) {
		if s == Stopped {
			return nil, ErrNotRunning
		}
		return e.cfg.Freeze, nil
	})
}

func (e *execInstance) Thaw(ctx context.Context) error {
	return e.reach(ctx, "thaw", Running, func(s State) ([]string, error) {
		if s == Stopped {
			return nil, nil
		}
		return e.cfg.Thaw, nil
	})
}

func (e *execInstance) PowerDown(ctx context.Context) error {
	return e.reach(ctx, "power down", Stopped, func(State) ([]string, error) { return e.cfg.PowerDown, nil })
}

func (e *execInstance) Start(ctx context.Context) error {
	return e.reach(ctx, "start", Running, func(s State) ([]string, error) {
		switch {
		case s == Frozen:
			return e.cfg.Thaw, nil
		case len(e.cfg.Start) == 0:
			return nil, fmt.Errorf("start command: %w", ErrUnsupported)
		}
		return e.cfg.Start, nil
	})
}

// run executes one command and gives what it printed to standard output, of which the last bytes are
// kept. The error carries the end of its output, on one line.
func (e *execInstance) run(ctx context.Context, verb string, argv []string) (string, error) {
	var stdout, stderr tail
	env := []string{execPath, "HOLDFAST_INSTANCE=" + e.cfg.Instance, "HOLDFAST_ACTION=" + strings.ReplaceAll(verb, " ", "_")}
	err := runHook(ctx, argv, env, verb == "start", &stdout, &stderr)
	if err == nil {
		return string(stdout.bytes), nil
	}
	switch {
	case ctx.Err() == nil:
	case errors.Is(err, errSurvives):
		err = fmt.Errorf("%w; %w", context.Cause(ctx), err)
	default:
		err = context.Cause(ctx)
	}
	said := ""
	if out := bytes.TrimSpace(append(stdout.bytes, stderr.bytes...)); len(out) > 0 {
		said = fmt.Sprintf(", it said %q", out)
	}
	return "", fmt.Errorf("exec instance %s: %s: %s: %w%s", e.cfg.Instance, verb, argv[0], err, said)
}

// tail keeps the last maxOutput bytes written to it.
type tail struct{ bytes []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p[max(0, len(p)-maxOutput):]...)
	if over := len(t.bytes) - maxOutput; over > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[over:]...)
	}
	return len(p), nil
}
