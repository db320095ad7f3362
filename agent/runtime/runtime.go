// Package runtime holds the drivers of instances: they freeze, thaw, start and power
// down the workload whose storage is backed up. It knows docker containers, instances
// that commands act on (exec), and plain data that nobody runs (none).
//
// Package agent makes one Instance per configured instance and gives it to agent/job. No
// goroutine outlives a call. A crash leaves the instance in the state that the last call
// reached; State returns that state, since it asks the engine and keeps no record of its own.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/model"
)

// Errors that a caller decides on. They come wrapped, with the verb, the instance and the cause.
var (
	// ErrMissing says that the engine does not know the instance.
	ErrMissing = errors.New("no such instance")
	// ErrNotRunning says that a stopped instance can't be frozen:
	// nothing would keep others from starting it.
	ErrNotRunning = errors.New("instance is not running")
	// ErrUnavailable says that the engine does not answer. A later try may do.
	ErrUnavailable = errors.New("container engine unavailable")
	// ErrUnsupported says that the instance's configuration has no command for the verb.
	ErrUnsupported = errors.New("not configured")
	// ErrTimeout is the cause when a verb did not reach its state in the time given to it.
	ErrTimeout = errors.New("timed out")
	// ErrChanged says that PowerDown found another instance, or another run, than held
	// shows. It did nothing.
	ErrChanged = errors.New("the instance is not as it was held")
)

// Instance acts on one instance. All verbs are idempotent, end within their time-out,
// may be called from any goroutine, and return nil only when the state was seen
// (where the driver can see it). Package runtimetest has the laws that each driver
// keeps. After an error the state is open: State tells, and the verb can be called
// again. Verbs on one instance that run at the same time are a fault of the caller.
type Instance interface {
	// State asks the engine. A missing instance is a state, an engine that is away an error.
	State(context.Context) (model.Sight, error)
	// Of returns the same driver for the one instance with that identity (Sight.ID),
	// under any name that it has by now. Without Of, or with "", the verbs act on the
	// instance that has the configured name at that moment. Closing either closes both.
	Of(id string) Instance

	// Freeze stops all execution. When it returns, readers of the instance's storage see
	// all of its writes, and no write follows. Stopped: ErrNotRunning; missing:
	// ErrMissing. After an error the instance may be frozen or running: the caller thaws.
	Freeze(context.Context) error

	// Thaw lets a frozen instance go on. Nil for a running instance, and for a stopped
	// one: nothing holds it. Missing: ErrMissing.
	Thaw(context.Context) error

	// PowerDown stops the instance. Invariant release-last needs more of a frozen one: it goes
	// down without executing one more instruction, else it would write data that no backup has.
	// held is the sight of the instance when it was frozen: PowerDown looks again right before
	// its first act, and unless the sight is the same it does nothing (ErrChanged). With nil, a
	// running instance is stopped in its own way, and writes while it ends. Missing: ErrMissing.
	PowerDown(ctx context.Context, held *model.Sight) error
	// KeepDown keeps a stopped instance from being started again by its engine
	// when the engine or the host restarts. Nil where nothing has to be done, and
	// for a missing one; ErrUnsupported where the engine has no way to be told.
	KeepDown(context.Context) error

	// Start brings the instance to Running from any state but missing (ErrMissing).
	Start(context.Context) error

	// Kind is the name of the driver.
	Kind() string

	// Holds tells whether the verbs do anything. A driver without: Freeze,
	// Thaw, PowerDown and Start return nil and do nothing, and State is
	// Unknown. Reports must not say then that the instance was held.
	Holds() bool

	// Close frees the driver's resources; the instance stays as it is. Idempotent.
	Close() error
}

// The kinds of drivers.
const (
	KindDocker = "docker"
	KindExec   = "exec"
	KindNone   = "none"
)

// Defaults of the time-outs.
const (
	// DefaultTimeout of one verb: pause and unpause take
	// milliseconds; a machine that swaps takes seconds.
	DefaultTimeout = 30 * time.Second
	// DefaultStopTimeout is how long a running instance gets to end by itself: docker's
	// own default is 10 seconds, too short for a phone that writes its state out.
	DefaultStopTimeout = 30 * time.Second
)

// Config selects the instance to act on; the part named by Kind is used.
type Config struct {
	Kind   string
	Docker DockerConfig
	Exec   ExecConfig
}

// New makes the driver. It does not talk to the engine: an engine that is away shows in the verbs.
func New(cfg Config) (Instance, error) {
	switch cfg.Kind {
	case KindDocker:
		return newDocker(cfg.Docker)
	case KindExec:
		return newExec(cfg.Exec)
	case KindNone:
		return none{}, nil
	}
	return nil, fmt.Errorf("runtime %q: unknown; known are %s, %s and %s", cfg.Kind, KindDocker, KindExec, KindNone)
}

// none is for data that nobody runs. It can't tell whether
// something writes there, so it claims nothing.
type none struct{}

func (none) State(context.Context) (model.Sight, error) {
	return model.Sight{State: model.IsUnknown}, nil
}

func (n none) Of(string) Instance { return n }

func (none) Freeze(context.Context) error { return nil }

func (none) Thaw(context.Context) error { return nil }

func (none) PowerDown(context.Context, *model.Sight) error { return nil }

func (none) KeepDown(context.Context) error { return nil }

func (none) Start(context.Context) error { return nil }

func (none) Kind() string { return KindNone }

func (none) Holds() bool { return false }

func (none) Close() error { return nil }

// pollEvery is how often a state is looked at while it is waited for.
const pollEvery = 50 * time.Millisecond

// await looks until done says so, fails, or ctx ends.
func await(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}

// limit bounds one verb; the cause tells the time-out from an end that the caller wanted.
func limit(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%w after %v", ErrTimeout, d))
}
