package agent

import (
	"context"
	"path/filepath"
	"sync"

	"holdfast/agent/api"
	"holdfast/agent/engine"
	"holdfast/internal/hostid"
)

// An agent whose state folder is a copy stands still: it sends no event, does nothing to any
// instance, snapshot, volume or vault, and takes no command, until a person has decided with
// `holdfastd adopt`. At the start the folder itself tells (internal/hostid), and at run time the
// looks in the vaults do (engine.Looks). Every way out of the agent asks engine.Standing; therefore
// the agent stands still at once, in whatever step a job is, as if the process had died there.

// refusal is what callers are told whose command is not taken; nil while commands are.
func (a *Agent) refusal() *api.Error {
	if a.standing.Reason() == nil {
		return nil
	}
	return api.Copied()
}

// Copied tells why the agent stands still; nil while it works. The error wraps engine.ErrCopied.
func (a *Agent) Copied() error { return a.standing.Allowed() }

// identify finds out whose the state folder is. It is called when the journal is open.
func (a *Agent) identify() error {
	a.standing.Begin(func(why error) {
		a.log.Error("this agent stands still: it sends no report, does nothing to any instance, and takes no command, until a person decides with `holdfastd adopt`",
			keyReason, why.Error())
	})
	a.journal.Guard(a.standing.Allowed)
	owner, err := a.journal.Owner()
	if err != nil {
		return err
	}
	used, err := a.journal.Used()
	if err != nil {
		return err
	}
	notes, err := Held(a.cfg.StateDir)
	if err != nil {
		return err
	}
	s, err := hostid.Open(a.cfg.StateDir, hostid.Journal{Owner: owner, Used: used || len(notes) > 0})
	if err != nil && s.ID == "" && s.Copied == nil {
		return err
	}
	if err != nil {
		a.log.Warn("the file of this host's identity can't be written; after a reboot sessions of killed backups stay in the vaults "+
			"until `holdfast vault sessions --forget` removes them", keyError, err.Error())
	}
	a.self.Identity, a.shared = s.Identity, s.Shared
	a.looks = engine.NewLooks(a.log, a.self, &a.standing, filepath.Join(a.cfg.StateDir, engine.LooksFile))
	if s.Copied == nil {
		s.Copied = a.looks.Load()
	}
	if s.Copied != nil {
		a.standing.Halt(s.Copied)
		if a.recovers {
			return a.standing.Allowed() // such a life has nothing that it may do
		}
		return nil
	}
	if err := a.journal.SetOwner(a.self.Identity.ID); err != nil {
		a.log.Warn("the journal can't be written", keyError, err.Error())
	}
	return nil
}

// work runs the jobs until ctx ends. An agent that stands still, from the start or from some time
// on, is ready for all that it does then: it answers questions. looked is called when the vaults
// were looked at for copies, served when the jobs of the last life were looked at.
func (a *Agent) work(ctx context.Context, looked, served func()) (err error) {
	work, halt := a.standing.Within(ctx)
	defer halt()
	ready := sync.OnceFunc(a.ready)
	if a.standing.Reason() == nil {
		a.looks.First(work)
	}
	looked()
	if a.standing.Reason() == nil {
		err = a.manager.Run(work, func() {
			if work.Err() != nil {
				return // told to stop before it could begin
			}
			a.serving.Store(!a.recovers)
			served()
			a.log.Info("ready", "instances", len(a.instances.All()), "listen", a.Addr(), "version", a.version)
			ready()
		})
	}
	a.serving.Store(false)
	if a.standing.Reason() == nil {
		return err
	}
	if err != nil {
		a.log.Warn("the jobs ended with an error when the agent began to stand still", keyError, err.Error())
	}
	served()
	ready()
	<-ctx.Done()
	return nil
}
