package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/agent/model"
)

// ExecConfig has the commands that act on an instance. Each is a program and its arguments, run
// without a shell, with an environment of PATH, HOLDFAST_INSTANCE and HOLDFAST_ACTION only (the
// agent's own holds credentials). All processes of a command are killed at the time-out. When
// the command ends, all processes that it left behind are killed too, also in sessions of their
// own: see runHook. Only Start may leave the instance's processes behind when it succeeds; it
// must redirect their output, and after its exit the driver waits for it for 2 seconds.
type ExecConfig struct {
	Instance string   // id of the instance
	Freeze   []string // must succeed on a frozen instance when there is no State
	Thaw     []string // the same for a running one
	// PowerDown of a frozen instance must not let it execute again.
	PowerDown []string
	Start     []string // optional
	// State prints running, frozen, stopped or missing, and may print one more word, the
	// generation: any text that is another after each start and each thaw, and the same while the
	// instance is frozen or stopped, also when a frozen one was powered down. With a generation
	// the driver proves that an instance was left alone. State is optional; without it the state
	// is Unknown, and that a command ends with exit status 0 is the only confirmation.
	State   []string
	Timeout time.Duration // of each verb; 0: DefaultTimeout
}

// Bounds on the output of a command.
const (
	maxOutput = 2 << 10 // bytes kept for the error: the last ones, where the reason stands
	pipeWait  = 2 * time.Second
	execPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

type execInstance struct {
	cfg ExecConfig
	// the command that powers the instance down has run, and KeepDown was not called since
	down atomic.Bool
}

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
	return &execInstance{cfg: cfg}, nil
}

func (e *execInstance) Kind() string { return KindExec }
func (e *execInstance) Holds() bool  { return true }
func (e *execInstance) Close() error { return nil }

// Of returns the same instance: commands know it by its id in the configuration alone.
func (e *execInstance) Of(string) Instance { return e }

func (e *execInstance) State(ctx context.Context) (model.Sight, error) {
	ctx, cancel := limit(ctx, e.cfg.Timeout)
	defer cancel()
	return e.look(ctx)
}

func (e *execInstance) look(ctx context.Context) (model.Sight, error) {
	none := model.Sight{State: model.IsUnknown}
	if len(e.cfg.State) == 0 {
		return none, nil
	}
	out, err := e.run(ctx, "state", e.cfg.State)
	if err != nil {
		return none, err
	}
	words := strings.Fields(out)
	if len(words) == 1 || len(words) == 2 {
		switch s := model.RuntimeState(words[0]); s {
		case model.IsRunning, model.IsFrozen, model.IsStopped, model.IsMissing:
			sight := model.Sight{State: s, Passing: true, Killed: s == model.IsStopped}
			if len(words) == 2 && s != model.IsMissing {
				sight.Run, sight.Proof = words[1], true
			}
			return sight, nil
		}
	}
	return none, fmt.Errorf("exec instance %s: state: %s printed %q; it must print running, frozen, stopped or missing, and may print one more word, the generation",
		e.cfg.Instance, e.cfg.State[0], out)
}

// reach looks, runs the command if the state is another than the wanted one, and
// looks again. With held, it does nothing unless the instance looks the same.
func (e *execInstance) reach(ctx context.Context, verb string, want model.RuntimeState, held *model.Sight, pick func(model.Sight) ([]string, error)) error {
	ctx, cancel := limit(ctx, e.cfg.Timeout)
	defer cancel()
	sight, err := e.look(ctx)
	if err == nil && held != nil && sight.State != model.IsMissing && !sight.Same(*held) {
		err = fmt.Errorf("exec instance %s: %s: %w", e.cfg.Instance, verb, changed(*held, sight))
	}
	if err != nil || sight.State == want {
		return err
	}
	argv, err := []string(nil), ErrMissing
	if sight.State != model.IsMissing {
		argv, err = pick(sight)
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
	if sight.State == model.IsUnknown {
		return nil
	}
	err = await(ctx, func() (bool, error) {
		var err error
		sight, err = e.look(ctx)
		return sight.State == want || want == model.IsStopped && sight.State == model.IsMissing, err
	})
	if err != nil {
		return fmt.Errorf("exec instance %s: %s: the command succeeded, but the instance is %s: %w", e.cfg.Instance, verb, sight.State, err)
	}
	return nil
}

func (e *execInstance) Freeze(ctx context.Context) error {
	return e.reach(ctx, "freeze", model.IsFrozen, nil, func(s model.Sight) ([]string, error) {
		if s.State == model.IsStopped {
			return nil, ErrNotRunning
		}
		return e.cfg.Freeze, nil
	})
}

func (e *execInstance) Thaw(ctx context.Context) error {
	return e.reach(ctx, "thaw", model.IsRunning, nil, func(s model.Sight) ([]string, error) {
		if s.State == model.IsStopped {
			return nil, nil
		}
		return e.cfg.Thaw, nil
	})
}

func (e *execInstance) PowerDown(ctx context.Context, held *model.Sight) error {
	begun := false
	var before model.Sight
	err := e.reach(ctx, "power down", model.IsStopped, held, func(now model.Sight) ([]string, error) {
		before, begun = now, true
		return e.cfg.PowerDown, nil
	})
	if err == nil && begun {
		e.down.Store(true)
	}
	if err != nil && begun {
		// A command that fails may have done its work, in part or all of it.
		if now, again := e.State(context.WithoutCancel(ctx)); again != nil || !now.Same(before) {
			err = fmt.Errorf("%w: %w", model.ErrBegun, err)
		}
	}
	return err
}

// KeepDown runs the command that powers the instance down also where the instance was
// found stopped, since that command keeps the instance down: a supervisor that is about
// to start the instance, as after a start of the host, would start it after its release.
// A command that fails, and leaves the instance stopped, has nothing to keep down.
func (e *execInstance) KeepDown(ctx context.Context) error {
	if e.down.Swap(false) {
		return nil
	}
	ctx, cancel := limit(ctx, e.cfg.Timeout)
	defer cancel()
	now, err := e.look(ctx)
	if err != nil || now.State != model.IsStopped {
		return err
	}
	if _, err = e.run(ctx, "power down", e.cfg.PowerDown); err == nil {
		return nil
	}
	if after, lookErr := e.look(ctx); lookErr == nil && after.State == model.IsStopped {
		return nil
	}
	return err
}

func (e *execInstance) Start(ctx context.Context) error {
	e.down.Store(false)
	return e.reach(ctx, "start", model.IsRunning, nil, func(s model.Sight) ([]string, error) {
		switch {
		case s.State == model.IsFrozen:
			return e.cfg.Thaw, nil
		case len(e.cfg.Start) == 0:
			return nil, fmt.Errorf("start command: %w", ErrUnsupported)
		}
		return e.cfg.Start, nil
	})
}

// run executes one command and returns the last bytes of its standard output. The error
// carries the end of its output, on one line.
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
