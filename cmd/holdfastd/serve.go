package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kardianos/service"
	"golang.org/x/sync/errgroup"

	"holdfast/agent"
	"holdfast/agent/config"
)

// serve runs the agent until a signal, the end of ctx or a failure of its own stops
// it. After SIGTERM and the end of ctx it returns nil, after SIGINT errInterrupted.
func serve(ctx context.Context, path string, stderr io.Writer) error {
	cfg, data, fault := loadBytes(path)
	var left []string
	if fault != nil {
		if cfg, left = recovery(path, cfg); cfg == nil {
			return fault
		}
	}
	log, err := newLogger(cfg, stderr)
	if err != nil {
		return err
	}
	if fault != nil {
		log.Error("the configuration has faults and instances are held: this start takes no commands, lets go of what it can, and ends when no instance is held; "+
			"put the configuration right and restart", "error", fault.Error(), "instances", strings.Join(left, " "))
	}
	if err := longSlices(); err != nil {
		// and do their own all the same
		log.Warn("the daemon's threads are in the way of the host's other work", "error", err)
	}
	limitMemory(cfg, log)
	if err := keepMemory(); err != nil {
		return err
	}
	for _, note := range cfg.Notes() {
		log.Warn("the configuration has a consequence", "note", note)
	}
	if err := certificateInTime(cfg).Check(); err != nil {
		log.Warn("the control plane will refuse the certificate", "error", err)
	}
	d, err := newDaemon(ctx, path, cfg, log)
	if err != nil {
		return err
	}
	d.data, d.fault = data, fault
	defer d.release()
	svc, err := service.New(d, &service.Config{
		Name:   serviceName,
		Option: service.KeyValue{"RunWait": d.wait},
	})
	if errors.Is(err, service.ErrNoServiceSystemDetected) {
		// A container, or a rescue shell: there is nobody to be a service of.
		_ = d.Start(nil)
		d.wait()
		return d.Stop(nil)
	}
	if err != nil {
		return err
	}
	return svc.Run()
}

// program is one run of the agent, in the form that the service library wants: Start returns at
// once, wait returns when the agent is to stop or has ended, Stop ends it and returns its error.
type program struct {
	path    string
	cfg     *config.Config
	log     *slog.Logger
	notify  *notifier
	logind  logind
	signals chan os.Signal
	data    []byte // of the configuration file
	fault   error  // why this life recovers, and does nothing else; nil when it is a common life

	agent atomic.Pointer[agent.Agent] // nil until it is open

	ctx         context.Context
	cancel      context.CancelCauseFunc
	ended       chan struct{}
	err         error // of the agent; valid once ended is closed
	interrupted bool
}

func newDaemon(ctx context.Context, path string, cfg *config.Config, log *slog.Logger) (*program, error) {
	notify, err := newNotifier(log)
	if err != nil {
		return nil, err
	}
	p := &program{
		path: path, cfg: cfg, log: log, notify: notify,
		signals: make(chan os.Signal, 8), ended: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	signal.Notify(p.signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	return p, nil
}

// release gives the signals back.
func (p *program) release() {
	signal.Stop(p.signals)
	p.cancel(nil)
}

// Start begins the run.
func (p *program) Start(service.Service) error {
	go func() {
		defer close(p.ended)
		p.err = p.run()
	}()
	return nil
}

func (p *program) run() (err error) {
	defer p.logind.close()
	a, err := p.open()
	if err != nil {
		return err
	}
	if err := keepCapabilities(a, p.log); err != nil {
		return errors.Join(err, a.Close())
	}
	p.agent.Store(a)
	group, ctx := errgroup.WithContext(context.Background())
	watching, stopWatching := context.WithCancel(ctx)
	group.Go(func() error {
		p.notify.watch(watching, a.Alive)
		return nil
	})
	group.Go(func() error {
		p.logind.watch(watching, func() { p.signals <- syscall.SIGTERM })
		return nil
	})
	group.Go(func() error {
		defer stopWatching()
		return a.Run(p.ctx)
	})
	if err := group.Wait(); err != nil || p.ctx.Err() != nil {
		return err
	}
	return p.fault // nothing is held any more
}

// open opens the agent. Where that fails although the configuration
// has no faults, and instances are held, the agent recovers.
func (p *program) open() (*agent.Agent, error) {
	options := agent.Options{
		Config: p.cfg, Log: p.log, Version: buildVersion(), Inhibit: p.logind.inhibit, Recover: p.fault != nil,
		Ready: func() {
			if p.fault != nil {
				p.notify.ready("the configuration has faults; letting go of held instances, no commands are taken")
				return
			}
			if a := p.agent.Load(); a != nil && a.Copied() != nil {
				p.notify.ready("standing still: the state folder may be a copy of another host's; holdfast status has more")
				return
			}
			p.notify.ready(fmt.Sprintf("serving %d instances", len(p.cfg.Instances)))
		},
	}
	a, err := agent.Open(p.ctx, options)
	if p.fault != nil {
		return a, err
	}
	if err == nil {
		if err := keepConfiguration(p.cfg, p.data); err != nil {
			p.log.Warn("a start that finds the configuration broken will not let go of held instances", "error", err.Error())
		}
		return a, nil
	}
	left, _ := agent.Unfinished(p.cfg.StateDir)
	if len(left) == 0 {
		return nil, err
	}
	p.log.Error("the agent can't be opened and instances are held: this start takes no commands, lets go of what it can, and ends when no instance is held",
		"error", err.Error(), "instances", strings.Join(left, " "))
	p.fault, options.Recover = err, true
	return agent.Open(p.ctx, options)
}

// wait returns when the agent is to stop, or has ended by itself.
func (p *program) wait() {
	for {
		select {
		case <-p.ended:
			return
		case <-p.ctx.Done():
			return
		case s := <-p.signals:
			if s == syscall.SIGHUP {
				p.reload()
				continue
			}
			p.interrupted = s == os.Interrupt
			p.log.Info("stopping", "signal", s.String())
			return
		}
	}
}

// Stop drains the agent, waits for its end and returns its error. A
// second signal meanwhile ends the process at once; the next start
// recovers. So it does after a stop that takes longer than it may.
func (p *program) Stop(service.Service) error {
	within := agent.StopTime(p.cfg.Limits.DrainTimeout) + stopMargin
	p.notify.stopping(within)
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	p.cancel(errStopped)
	select {
	case <-p.ended:
	case <-time.After(within):
		return fmt.Errorf("the stop took longer than %v: an act hangs; the journal has what is held, and the next start goes on with it", within)
	}
	switch {
	case p.err != nil && !errors.Is(p.err, context.Canceled) && !errors.Is(p.err, errStopped):
		return p.err
	case p.interrupted:
		return errInterrupted
	default:
		return nil
	}
}

// errStopped is the cause of the end of a run that was told to stop.
var errStopped = errors.New("the daemon was told to stop")

// reload reads the configuration file again, has the agent take its section
// bandwidth, and reports the outcome. All other settings stay as at the start:
// instances, limits and listeners change together, at a restart, which loses no work.
func (p *program) reload() {
	cfg, err := load(p.path)
	if err != nil {
		p.log.Error("the configuration file has faults, the running configuration stays", "error", err)
		return
	}
	a := p.agent.Load()
	if a == nil {
		p.log.Warn("the configuration file is valid, but the agent is still being opened; nothing of it was taken")
		return
	}
	a.SetBandwidth(cfg.Bandwidth)
	p.log.Info("the configuration file is valid; its section bandwidth applies now, a restart applies the rest", "instances", len(cfg.Instances))
}
