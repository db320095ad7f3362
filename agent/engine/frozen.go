package engine

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"holdfast/agent/config"
	"holdfast/internal/durable"
	"holdfast/internal/snapshot"
)

// keepEvery is how often the guards of frozen file systems are told
// that the agent makes progress: some times within their patience.
const keepEvery = 5 * time.Second

// spare lists the files that this agent writes to, and the folders of
// the engines that it asks to let instances run: a file system with
// such a file is never frozen, as the agent would wait for itself.
func spare(cfg *config.Config) []string {
	paths := []string{cfg.StateDir, cfg.Audit.File, "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"}
	if cfg.Socket != "" {
		paths = append(paths, filepath.Dir(cfg.Socket))
	}
	if u, err := url.Parse(cfg.Store.URL); err == nil && u.Scheme == "file" {
		paths = append(paths, u.Path)
	}
	return paths
}

// FrozenGuards tells the guards of frozen file systems that the agent makes progress.
type FrozenGuards struct {
	log *slog.Logger
	dir string // the state folder
	// when a write to the state folder began that has not ended
	writing atomic.Pointer[time.Time]
}

// NewFrozenGuards makes the part for an agent with that state folder.
func NewFrozenGuards(log *slog.Logger, dir string) *FrozenGuards {
	return &FrozenGuards{log: log, dir: dir}
}

// Keep tells the guards of frozen file systems that the agent makes progress,
// until ctx ends. What proves it is a write to the state folder that reaches the
// disk: an agent that waits for its own writes tells nothing, and the guards thaw.
func (f *FrozenGuards) Keep(ctx context.Context) {
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
		f.writing.Store(&began)
		err := durable.WriteFile(filepath.Join(f.dir, "progress"), []byte("A write to this file tells that the agent's own folder is not frozen.\n"), 0o600)
		f.writing.Store(nil)
		if err != nil {
			f.log.Error("the state folder can't be written, and file systems that are frozen for a backup are let go", keyError, err.Error())
			continue
		}
		snapshot.KeepFrozen()
	}
}

// Stuck tells whether the agent waits for a write to its own folder.
func (f *FrozenGuards) Stuck() error {
	if began := f.writing.Load(); began != nil && time.Since(*began) > snapshot.GuardPatience {
		return fmt.Errorf("a write to %s takes longer than %s", f.dir, snapshot.GuardPatience)
	}
	return nil
}
