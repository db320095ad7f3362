package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/evidence"
	"holdfast/internal/snapshot"
)

// removeTimeout bounds the removal of a snapshot after the work was interrupted.
const removeTimeout = 30 * time.Second

// snapshotView is a snapshot with the facts about its making that the engine needs.
type snapshotView struct {
	*snapshot.Snapshot
	taken time.Time // not after the making began
	// the mount of the file system that it is of, as evidence.MountOf; "" when that is not known
	mounted string
}

// takeSnapshot makes a snapshot of path where the file system has them and the process may,
// and removes the snapshots that killed processes of this tool left beside it; else it
// returns nil. tell gets the reason why there is no snapshot, or why an old one could not be
// removed. remove takes the snapshot away, also after ctx ended; it is called exactly once.
func takeSnapshot(ctx context.Context, path string, tell func(string)) (view *snapshotView, remove func() error, err error) {
	if os.Geteuid() != 0 {
		return nil, nil, nil
	}
	// The volume itself, not a link to it, has a folder beside it.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, nil, err
	}
	request := snapshot.Request{
		Volume: path, Host: snapshotHost(), Job: "pid-" + strconv.Itoa(os.Getpid()), Name: volumeName,
	}
	removeLeftovers(ctx, request, tell)
	view = &snapshotView{taken: time.Now(), mounted: evidence.MountOf(path)}
	clock := evidence.ClockOffset()
	provider, made, err := snapshot.Take(ctx, request, func(failed, next snapshot.Provider, why error) {
		tell(fmt.Sprintf("no %s snapshot, %s instead: %v", failed.Name(), next.Name(), why))
	})
	if err != nil || provider.InPlace() {
		// Where there is no better way, the operator gets a reading in place.
		return nil, nil, ctx.Err() //nolint:nilerr // see above
	}
	view.Snapshot = made
	view.taken = evidence.Earliest(view.taken, clock, evidence.ClockOffset())
	if view.mounted != evidence.MountOf(path) {
		view.mounted = "" // somebody mounted something else meanwhile
	}
	view.taken = evidence.Earliest(view.taken, clock, evidence.ClockOffset())
	if view.mounted != evidence.MountOf(path) {
		view.mounted = "" // somebody mounted something else meanwhile
	}
	return view, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		return provider.Remove(ctx, view.Ref)
	}, nil
}

// snapshotHost is the host in the names of this tool's snapshots. It is not the agent's,
// which takes every snapshot of its own host that its journal does not know for a leftover.
func snapshotHost() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	host = "cli-" + regexp.MustCompile(`[^A-Za-z0-9._-]`).ReplaceAllString(host, "-")
	return host[:min(len(host), 64)]
}

// removeLeftovers removes the snapshots of this tool whose process is gone. A
// snapshot that stays is reported, and is no reason to do without a backup.
func removeLeftovers(ctx context.Context, request snapshot.Request, tell func(string)) {
	refs, err := snapshot.Leftovers(ctx, request)
	if err != nil {
		tell(fmt.Sprintf("look for old snapshots: %v", err))
	}
	for _, ref := range refs {
		_, job, _, _ := ref.Owner()
		pid, err := strconv.Atoi(strings.TrimPrefix(job, "pid-"))
		if err != nil || pid <= 0 || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		provider, err := snapshot.ByName(ref.Provider)
		if err == nil {
			err = provider.Remove(ctx, ref)
		}
		if err != nil {
			tell(fmt.Sprintf("old snapshot: %v", err))
		}
	}
}
