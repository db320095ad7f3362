package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/job"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// A backup that could not read its snapshot says what became of the snapshot, where that can be found out.
func TestBecause(t *testing.T) {
	testbed.Need(t, "root", "lvs")
	read := &os.PathError{Op: "read", Path: "file", Err: unix.EIO}
	gone := job.Source{Volume: "data", Ref: job.Ref{
		Provider: snapshot.NameLVMThin, Volume: "/dev/nosuchgroup/data", Path: filepath.Join(snapshot.MountFolder, "nosuchgroup", "hf.host.job.data"),
	}}
	folder := job.Source{Volume: "data", Ref: job.Ref{Provider: snapshot.NameFreeze, Volume: "/"}}
	err := because(t.Context(), []job.Source{folder, gone}, read)
	if !errors.Is(err, snapshot.ErrGone) || !errors.Is(err, unix.EIO) {
		t.Errorf("got %v, want both what was read and that the snapshot is gone", err)
	}
	if err := because(t.Context(), []job.Source{folder}, read); err != error(read) {
		t.Errorf("where nothing can be told: %v", err)
	}
	if err := because(t.Context(), []job.Source{gone}, nil); err != nil {
		t.Errorf("a backup that went well: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := because(ended, []job.Source{gone}, read); err != error(read) {
		t.Errorf("when the job is over: %v", err)
	}
}

// Storage that does not answer does not keep the agent from starting.
func TestPatiently(t *testing.T) {
	free := make(chan struct{})
	defer close(free)
	_, err := patiently(t.Context(), time.Millisecond, func(context.Context) (int, error) {
		<-free // a call that no context ends
		return 0, nil
	})
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("storage that hangs: %v, want a sentence", err)
	}
	if n, err := patiently(t.Context(), time.Hour, func(context.Context) (int, error) { return 7, nil }); n != 7 || err != nil {
		t.Errorf("storage that answers: %d, %v", n, err)
	}
}
