package agent

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/durable"
	"holdfast/internal/snapshot"
)

// keepEvery is how often the guards of frozen file systems are told
// that the agent makes progress: some times within their patience.
const keepEvery = 5 * time.Second

// spare lists the files that this agent writes to, and the folders of
// the engines that it asks to let instances run: a file system with
// such a file is never frozen, as the agent would wait for itself.
func (a *Agent) spare() []string {
	paths := []string{a.cfg.StateDir, a.cfg.Audit.File, "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"}
	if a.cfg.Socket != "" {
		paths = append(paths, filepath.Dir(a.cfg.Socket))
	}
	if u, err := url.Parse(a.cfg.Store.URL); err == nil && u.Scheme == "file" {
		paths = append(paths, u.Path)
	}
	return paths
}

// keepFrozen tells the guards of frozen file systems that the agent makes progress,
// until ctx ends. What proves it is a write to the state folder that reaches the
// disk: an agent that waits for its own writes tells nothing, and the guards thaw.
func (a *Agent) keepFrozen(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if snapshot.Frozen() == 0 {
			continue
		}
		began := time.Now()
		a.writing.Store(&began)
		err := durable.WriteFile(filepath.Join(a.cfg.StateDir, "progress"), []byte("A write to this file tells that the agent's own folder is not frozen.\n"), 0o600)
		a.writing.Store(nil)
		if err != nil {
			a.log.Error("the state folder can't be written, and file systems that are frozen for a backup are let go", keyError, err.Error())
			continue
		}
		snapshot.KeepFrozen()
	}
}

// stuck tells whether the agent waits for a write to its own folder.
func (a *Agent) stuck() error {
	if began := a.writing.Load(); began != nil && time.Since(*began) > snapshot.GuardPatience {
		return fmt.Errorf("a write to %s takes longer than %s", a.cfg.StateDir, snapshot.GuardPatience)
	}
	return nil
}

// thawStored lets file systems go that were frozen for a backup which is stored now: everybody who
// writes to them waits, and the report may take hours to be acknowledged. The instance stays held.
func (a *Agent) thawStored(ctx context.Context, sources []job.Source) error {
	for _, s := range sources {
		if s.Ref.Provider != snapshot.NameFsFreeze {
			continue
		}
		if err := a.removeSnapshot(ctx, s.Ref); err != nil {
			return err
		}
	}
	return nil
}
