package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/observe"
)

// newLookout makes the part that finds all states in which a human must act.
func (a *Agent) newLookout() *observe.Lookout {
	return observe.NewLookout(observe.Sources{
		Log: a.log, Watcher: a.watcher, Journal: a.journal, Writes: a.writes, Jobs: a.manager, Queue: a.cfg.Limits.Queue, Held: a.cfg.Limits.Held,
		StateDir: a.cfg.StateDir, AuditFile: a.cfg.Audit.File,
		Configured: func(instance string) bool { return a.instances.Configured(instance) != nil },
		Changed:    a.instances.Changed, Parts: a.sightOfParts, Disks: a.sightings.Disks, Hasty: a.hasty.Load,
	})
}

// sightOfParts finds the troubles of the agent's own parts that only the parts themselves tell.
func (a *Agent) sightOfParts() (all []observe.Sighting) {
	add := func(name string, err error) {
		if err != nil {
			all = append(all, observe.Sighting{Name: name, Err: err})
		}
	}
	switch {
	case a.serving.Load() || a.stopping.Load() || a.standing.Reason() != nil:
	case a.recovers:
		add(observe.TroubleRecovery, errors.New("the configuration, or something that it names, has a fault, which the log tells; this start lets go of held instances and ends when none is held"))
	default:
		add(observe.TroubleRecovery, errors.New("the jobs of the last life are not all looked at yet"))
	}
	add(observe.TroubleCopied, a.standing.Reason())
	if a.manager.Draining() && a.standing.Reason() == nil && !a.stopping.Load() && !a.recovers {
		add(observe.TroubleDrained, errors.New("the agent was told to drain, and refuses every command"))
	}
	add(observe.TroubleListen, a.listeners.control.fault())
	add(observe.TroubleListen, a.listeners.metrics.fault())
	if t := a.listeners.tls.Load(); t != nil { // and so is all else that tells who calls
		if a.static != nil {
			add(observe.TroubleTokens, a.static.Fault())
		}
		add(observe.TroubleClients, t.ClientFault())
		expiry, err := t.Expiry()
		add(observe.TroubleCertificate, err)
		if left := time.Until(expiry); left < certificateWarning {
			add(observe.TroubleExpires, fmt.Errorf("it expires at %s", expiry.UTC().Format("2006-01-02 15:04:05Z")))
		}
	}
	return slices.Concat(all, a.sightings.Claims(), a.sightOfVaults())
}
