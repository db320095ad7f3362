package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"holdfast/agent/model"
)

// DockerConfig names a container of an engine on this host.
type DockerConfig struct {
	Host      string // unix:///path or tcp://host:port; empty: the engine's usual socket
	Container string // name or id
	// of each verb but PowerDown of a running container; 0: DefaultTimeout
	Timeout time.Duration
	// the time that a running container has to end by itself; 0: DefaultStopTimeout
	StopTimeout time.Duration
}

type docker struct {
	name   string // by the configuration
	id     string // of the chosen container; "": the container that has the name
	call   time.Duration
	stop   time.Duration
	client *client.Client
}

var containerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func newDocker(cfg DockerConfig) (*docker, error) {
	if !containerName.MatchString(cfg.Container) {
		return nil, fmt.Errorf("docker container %q: not a container's name or id", cfg.Container)
	}
	d := &docker{name: cfg.Container, call: cfg.Timeout, stop: cfg.StopTimeout}
	if d.call <= 0 {
		d.call = DefaultTimeout
	}
	if d.stop <= 0 {
		d.stop = DefaultStopTimeout
	}
	host := cfg.Host
	if host == "" {
		host = client.DefaultDockerHost
	}
	u, err := client.ParseHostURL(host)
	if err != nil || u.Scheme != "unix" && u.Scheme != "tcp" {
		return nil, fmt.Errorf("docker container %s: engine %q: not unix:///path or tcp://host:port", d.name, host)
	}
	if d.client, err = client.New(client.WithHost(host), client.WithUserAgent("holdfast")); err != nil {
		return nil, fmt.Errorf("docker container %s: engine %s: %w", d.name, host, err)
	}
	return d, nil
}

func (d *docker) Kind() string { return KindDocker }
func (d *docker) Holds() bool  { return true }
func (d *docker) Close() error { return d.client.Close() }

// Of gives a driver that speaks of the container by its id: a name
// can be taken away from it, and given to another.
func (d *docker) Of(id string) Instance {
	of := *d
	of.id = id
	return &of
}

// seen is the result of one look at the container.
type seen struct {
	state      model.RuntimeState
	id         string
	pid        int    // of the first process; 0 when none
	run        string // when it was started last, by the engine's clock
	exit       int    // code of the last end
	oom        bool   // the kernel ended it for want of memory
	restarting bool
	passing    bool // the engine removes it when it stops
	policy     container.RestartPolicyMode
}

// exitKilled is the exit code that an engine reports for a program that SIGKILL has ended.
const exitKilled = 128 + int(unix.SIGKILL)

func (d *docker) look(ctx context.Context) (seen, error) {
	res, err := d.client.ContainerInspect(ctx, cmp.Or(d.id, d.name), client.ContainerInspectOptions{})
	// Only these words say that the container is not there: the same code comes
	// from an engine, or something before it, that does not know the call.
	if errdefs.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "no such container") {
		return seen{state: model.IsMissing}, nil
	}
	if err != nil {
		return seen{}, err
	}
	c := res.Container
	if c.State == nil || c.HostConfig == nil || len(c.ID) < minID {
		return seen{}, fmt.Errorf("the engine's answer lacks the container's state, or its id, %q, is not a full one", c.ID)
	}
	s := seen{
		id: c.ID, pid: c.State.Pid, run: c.State.StartedAt, exit: c.State.ExitCode, oom: c.State.OOMKilled, restarting: c.State.Restarting,
		passing: c.HostConfig.AutoRemove, policy: c.HostConfig.RestartPolicy.Name,
	}
	if at, err := time.Parse(time.RFC3339Nano, s.run); err == nil {
		s.run = at.UTC().Format(time.RFC3339Nano) // the engine's time zone may have changed
	}
	switch {
	case c.State.Status == container.StateRemoving:
		s.state = model.IsMissing // it is on its way out and can't be started
	case c.State.Paused:
		s.state = model.IsFrozen
	case c.State.Running || c.State.Restarting:
		s.state = model.IsRunning
	default:
		s.state = model.IsStopped // created, exited, dead
	}
	return s, nil
}

// sight is the part of a look that other packages keep. The time of the last start
// changes with each start. If somebody let a paused container run for a while, only the
// processor time of its processes shows that.
func (s seen) sight() (model.Sight, error) {
	if s.state == model.IsMissing {
		return model.Sight{State: model.IsMissing}, nil
	}
	sight := model.Sight{State: s.state, ID: s.id, Run: s.run, Proof: true, Passing: s.passing}
	sight.Killed = s.state == model.IsStopped && s.exit == exitKilled && !s.oom
	if s.state == model.IsFrozen {
		g, err := groupOf(s.id, s.pid)
		if err == nil {
			sight.Work, err = g.work()
		}
		if err != nil {
			return model.Sight{State: model.IsUnknown}, err
		}
	}
	return sight, nil
}

// fail gives an error its class, the verb and the container.
func (d *docker) fail(ctx context.Context, verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case client.IsErrConnectionFailed(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	case ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)):
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if d.id != "" {
		return fmt.Errorf("docker container %s, id %.12s: %s: %w", d.name, d.id, verb, err)
	}
	return fmt.Errorf("docker container %s: %s: %w", d.name, verb, err)
}

func (d *docker) State(ctx context.Context) (model.Sight, error) {
	ctx, cancel := limit(ctx, d.call)
	defer cancel()
	sight := model.Sight{State: model.IsUnknown}
	s, err := d.look(ctx)
	if err == nil {
		sight, err = s.sight()
	}
	return sight, d.fail(ctx, "look", err)
}

// reach brings the container to a state. It calls step with the result of a look, again
// until the container has the state want or step fails; a failed step whose state is
// reached all the same (another program was faster) is no failure. It calls check,
// which may be nil, with the first look, and an error of check ends reach.
func (d *docker) reach(ctx context.Context, verb string, want model.RuntimeState, check func(seen) error, step func(context.Context, seen) error) error {
	if ctx.Err() != nil {
		return d.fail(ctx, verb, context.Cause(ctx))
	}
	err := await(ctx, func() (bool, error) {
		s, err := d.look(ctx)
		switch {
		case err != nil:
			return false, err
		case s.state == model.IsMissing:
			return false, ErrMissing
		}
		if check != nil {
			if err := check(s); err != nil {
				return false, err
			}
			check = nil
		}
		if s.state == want {
			return true, nil
		}
		failed := step(ctx, s)
		if s, err = d.look(ctx); err != nil {
			return false, errors.Join(failed, err)
		}
		switch {
		case s.state == want:
			return true, nil
		case s.state == model.IsMissing:
			return false, ErrMissing
		}
		return false, failed
	})
	return d.fail(ctx, verb, err)
}

// Freeze pauses the container. The request is not cut off when the caller's context ends: the
// engine could still carry it out, after the caller has seen a running container and let go.
func (d *docker) Freeze(ctx context.Context) error {
	if ctx.Err() != nil {
		return d.fail(ctx, "freeze", context.Cause(ctx))
	}
	ctx, cancel := limit(context.WithoutCancel(ctx), d.call)
	defer cancel()
	var refused error
	err := d.reach(ctx, "freeze", model.IsFrozen, nil, func(ctx context.Context, s seen) error {
		if s.state == model.IsStopped {
			return ErrNotRunning
		}
		if s.restarting {
			return nil // between two starts of a crash loop; looked at again
		}
		// Found out now and not when the backup is made and the container has to go down.
		g, err := groupOf(s.id, s.pid)
		if err == nil {
			_, err = g.work()
		}
		if err != nil {
			return err
		}
		_, err = d.client.ContainerPause(ctx, s.id, client.ContainerPauseOptions{})
		if errdefs.IsInternal(err) || errdefs.IsConflict(err) {
			// "OCI runtime pause failed: unable to freeze": on control groups of
			// version 1 a pause is given up, and undone, when some process does
			// not come to a halt within milliseconds. With three busy writers and
			// a load of 10 that was one pause in ten, and the next succeeded.
			refused = err
			return nil
		}
		return err
	})
	if errors.Is(err, ErrTimeout) && refused != nil {
		return fmt.Errorf("%w; the engine's last answer: %w", err, refused)
	}
	return err
}

func (d *docker) Thaw(ctx context.Context) error {
	ctx, cancel := limit(ctx, d.call)
	defer cancel()
	stopped := errors.New("stopped")
	err := d.reach(ctx, "thaw", model.IsRunning, nil, func(ctx context.Context, s seen) error {
		if s.state == model.IsStopped {
			return stopped
		}
		_, err := d.client.ContainerUnpause(ctx, s.id, client.ContainerUnpauseOptions{})
		return err
	})
	if errors.Is(err, stopped) {
		return nil
	}
	return err
}

func (d *docker) Start(ctx context.Context) error {
	ctx, cancel := limit(ctx, d.call)
	defer cancel()
	started := false
	return d.reach(ctx, "start", model.IsRunning, nil, func(ctx context.Context, s seen) error {
		if s.state == model.IsFrozen {
			_, err := d.client.ContainerUnpause(ctx, s.id, client.ContainerUnpauseOptions{})
			return err
		}
		if started {
			return fmt.Errorf("it ended at once with exit code %d", s.exit)
		}
		started = true
		_, err := d.client.ContainerStart(ctx, s.id, client.ContainerStartOptions{})
		return err
	})
}

// PowerDown is not cut off by the caller's context once it has begun: a container with some of its
// processes killed must neither be thawed nor stay held.
func (d *docker) PowerDown(ctx context.Context, held *model.Sight) error {
	if ctx.Err() != nil {
		return d.fail(ctx, "power down", context.Cause(ctx))
	}
	ctx, cancel := limit(context.WithoutCancel(ctx), d.call+d.stop)
	defer cancel()
	var g *group
	run, begun, asked := "", false, false
	var before model.Sight
	check := func(s seen) (err error) {
		if before, err = s.sight(); err == nil && held != nil && !before.Same(*held) {
			err = changed(*held, before)
		}
		return err
	}
	err := d.reach(ctx, "power down", model.IsStopped, check, func(ctx context.Context, s seen) error {
		if begun && s.run != run {
			return fmt.Errorf("%w: it was started again at %s", ErrChanged, s.run)
		}
		var err error
		if g, err = groupOf(s.id, s.pid); err != nil && (s.state == model.IsFrozen || begun) {
			return err
		}
		if s.state == model.IsFrozen || begun {
			run, begun = s.run, true
			if err := g.killAllBut(s.pid); err != nil {
				return err
			}
			asked = true
			_, err = d.client.ContainerKill(ctx, s.id, client.ContainerKillOptions{Signal: "KILL"})
			return err
		}
		asked = true
		grace := max(1, int(d.stop.Seconds()))
		_, err = d.client.ContainerStop(ctx, s.id, client.ContainerStopOptions{Timeout: &grace})
		return err
	})
	if errors.Is(err, ErrMissing) && (begun || asked) {
		err = nil // it was there, and its config removes it when it stops ("docker run --rm")
	}
	if err == nil && g != nil {
		err = d.fail(ctx, "power down: wait for its last process", await(ctx, func() (bool, error) {
			left, err := g.processes()
			return len(left) == 0, err
		}))
	}
	if err != nil && begun {
		// If an engine does not answer, it may or may not have carried out the request.
		if now, again := d.State(ctx); again != nil || !now.Same(before) {
			err = fmt.Errorf("%w: %w", model.ErrBegun, err)
		}
	}
	return err
}

// KeepDown sees to it that a restart of the engine does not start the container again. With the
// policies always and on-failure it does, however the container was stopped (tried with 20.10);
// with unless-stopped it does not, and once started again by someone, the container is kept up as
// before. That the count of on-failure is lost is the smaller evil. The change comes after the
// stop: of a paused container the engine would also write the resource limits, which can thaw it.
func (d *docker) KeepDown(ctx context.Context) error {
	const verb = "change its restart policy"
	ctx, cancel := limit(ctx, d.call)
	defer cancel()
	s, err := d.look(ctx)
	switch {
	case err != nil:
		return d.fail(ctx, verb, err)
	case s.state == model.IsMissing:
		return nil
	case s.policy != container.RestartPolicyAlways && s.policy != container.RestartPolicyOnFailure:
		return nil
	case s.state != model.IsStopped:
		return d.fail(ctx, verb, fmt.Errorf("it is %s", s.state))
	}
	_, err = d.client.ContainerUpdate(ctx, s.id, client.ContainerUpdateOptions{
		RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
	})
	if errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) {
		// Engines that speak docker's language need not have this call
		// (podman before its version 5). Or the container went meanwhile.
		if s, again := d.look(ctx); again == nil && s.state == model.IsMissing {
			return nil
		}
		err = fmt.Errorf("the engine has no such call, and may start the container when the engine or the host restarts: %w: %w", ErrUnsupported, err)
	}
	return d.fail(ctx, verb, err)
}

// changed tells how an instance differs from the sight of it when it was held.
func changed(held, now model.Sight) error {
	switch {
	case now.ID != held.ID:
		return fmt.Errorf("%w: it is another one, %q and not %q", ErrChanged, now.ID, held.ID)
	case now.Run != held.Run:
		return fmt.Errorf("%w: it was started again since (run %q, before %q)", ErrChanged, now.Run, held.Run)
	case now.State != held.State:
		return fmt.Errorf("%w: it is %s, and was %s", ErrChanged, now.State, held.State)
	}
	return fmt.Errorf("%w: it was let run and frozen again since (work %q, before %q)", ErrChanged, now.Work, held.Work)
}
