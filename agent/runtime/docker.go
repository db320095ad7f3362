package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// DockerConfig names a container of an engine on this host.
type DockerConfig struct {
	Host        string        // unix:///path or tcp://host:port; empty: the engine's usual socket
	Container   string        // name or id
	Timeout     time.Duration // of each verb but PowerDown of a running container; 0: DefaultTimeout
	StopTimeout time.Duration // what a running container gets to end by itself; 0: DefaultStopTimeout
}

type docker struct {
	name   string
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

// seen is what one look at the container gave.
type seen struct {
	state      State
	id         string
	pid        int // of the first process; 0 when none
	exit       int // code of the last end
	restarting bool
	policy     container.RestartPolicyMode
}

func (d *docker) look(ctx context.Context) (seen, error) {
	res, err := d.client.ContainerInspect(ctx, d.name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return seen{state: Missing}, nil
	}
	if err != nil {
		return seen{}, err
	}
	c := res.Container
	if c.State == nil || c.HostConfig == nil {
		return seen{}, errors.New("the engine's answer has no state")
	}
	s := seen{id: c.ID, pid: c.State.Pid, exit: c.State.ExitCode, restarting: c.State.Restarting, policy: c.HostConfig.RestartPolicy.Name}
	switch {
	case c.State.Status == container.StateRemoving:
		s.state = Missing // it is on its way out and can't be started
	case c.State.Paused:
		s.state = Frozen
	case c.State.Running || c.State.Restarting:
		s.state = Running
	default:
		s.state = Stopped // created, exited, dead
	}
	return s, nil
}

// fail gives an error its class, the verb and the container.
func (d *docker) fail(ctx context.Context, verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		err = ErrMissing
	case client.IsErrConnectionFailed(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	case ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)):
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return fmt.Errorf("docker container %s: %s: %w", d.name, verb, err)
}

func (d *docker) State(ctx context.Context) (State, error) {
	ctx, cancel := limit(ctx, d.call)
	defer cancel()
	s, err := d.look(ctx)
	if err != nil {
		return Unknown, d.fail(ctx, "look", err)
	}
	return s.state, nil
}

// reach brings the container to a state. step is called with what was seen, again until want is seen
// or step fails; a failed step whose state is reached all the same (another was faster) is no failure.
func (d *docker) reach(ctx context.Context, verb string, want State, step func(context.Context, seen) error) error {
	if ctx.Err() != nil {
		return d.fail(ctx, verb, context.Cause(ctx))
	}
	err := await(ctx, func() (bool, error) {
		s, err := d.look(ctx)
		switch {
		case err != nil:
			return false, err
		case s.state == want:
			return true, nil
		case s.state == Missing:
			return false, ErrMissing
		}
		failed := step(ctx, s)
		if s, err = d.look(ctx); err != nil {
			return false, errors.Join(failed, err)
		}
		if s.state == want {
			return true, nil
		}
		return false, failed
	})
	return d.fail(ctx, verb, err)
}

// Freeze pauses the container. The request is not cut off when the caller's context ends: the engine
// could still carry it out, after the caller has seen a running container and let go.
func (d *docker) Freeze(ctx context.Context) error {
	if ctx.Err() != nil {
		return d.fail(ctx, "freeze", context.Cause(ctx))
	}
	ctx, cancel := limit(context.WithoutCancel(ctx), d.call)
	defer cancel()
	var refused error
	err := d.reach(ctx, "freeze", Frozen, func(ctx context.Context, s seen) error {
		if s.state == Stopped {
			return ErrNotRunning
		}
		if s.restarting {
			return nil // between two starts of a crash loop; looked at again
		}
		// Found out now and not when the backup is made and the container has to go down.
		if err := reachable(s.id, s.pid); err != nil {
			return err
		}
		_, err := d.client.ContainerPause(ctx, s.id, client.ContainerPauseOptions{})
		if errdefs.IsInternal(err) || errdefs.IsConflict(err) {
			// "OCI runtime pause failed: unable to freeze": on control groups of version 1 a pause is
			// given up, and undone, when some process does not come to a halt within milliseconds.
			// With three busy writers and a load of 10 that was one pause in ten, and the next succeeded.
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
	err := d.reach(ctx, "thaw", Running, func(ctx context.Context, s seen) error {
		if s.state == Stopped {
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
	return d.reach(ctx, "start", Running, func(ctx context.Context, s seen) error {
		if s.state == Frozen {
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
func (d *docker) PowerDown(ctx context.Context) error {
	if ctx.Err() != nil {
		return d.fail(ctx, "power down", context.Cause(ctx))
	}
	ctx, cancel := limit(context.WithoutCancel(ctx), d.call+d.stop)
	defer cancel()
	var last seen
	err := d.reach(ctx, "power down", Stopped, func(ctx context.Context, s seen) error {
		last = s
		if s.state == Frozen {
			return d.killHeld(ctx, s)
		}
		grace := max(1, int(d.stop.Seconds()))
		_, err := d.client.ContainerStop(ctx, s.id, client.ContainerStopOptions{Timeout: &grace})
		return err
	})
	if errors.Is(err, ErrMissing) && last.id != "" {
		err = nil // it was there, and its config removes it when it stops ("docker run --rm")
	}
	if err != nil {
		return err
	}
	if last.id != "" {
		if err := await(ctx, func() (bool, error) {
			left, err := processesOf(last.id)
			return len(left) == 0, err
		}); err != nil {
			return d.fail(ctx, "power down: wait for its last process", err)
		}
	}
	return d.keepDown(ctx)
}

// killHeld ends a paused container. "docker kill" alone signals the first process and resumes, and
// until the kernel has torn down the rest, the others run: some records were written in every try.
// So they get their SIGKILL while the freezer holds them, and when it lets go, they die before
// they are back in their program. The first process is left to the engine, which notes before it signals
// that the stop was wanted: if it died on its own, a restart policy would bring it up again.
// (Control groups of version 2 let SIGKILL through to a frozen process.)
func (d *docker) killHeld(ctx context.Context, s seen) error {
	if err := killAllBut(s.id, s.pid); err != nil {
		return err
	}
	_, err := d.client.ContainerKill(ctx, s.id, client.ContainerKillOptions{Signal: "KILL"})
	return err
}

// keepDown sees to it that a restart of the engine does not start the container again. With the
// policies always and on-failure it does, however the container was stopped (tried with 20.10); with
// unless-stopped it does not, and once started again by someone, the container is kept up as before.
// That the count of on-failure is lost is the smaller evil. The change comes after the stop: of a
// paused container the engine would also write the resource limits, which can thaw it.
func (d *docker) keepDown(ctx context.Context) error {
	s, err := d.look(ctx)
	switch {
	case err != nil:
		return d.fail(ctx, "power down: look at its restart policy", err)
	case s.state == Missing:
		return nil
	case s.policy != container.RestartPolicyAlways && s.policy != container.RestartPolicyOnFailure:
		return nil
	}
	_, err = d.client.ContainerUpdate(ctx, s.id, client.ContainerUpdateOptions{
		RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
	})
	return d.fail(ctx, "power down: change its restart policy", err)
}
