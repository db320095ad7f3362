package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// storage is a provider's word on the views of a backup, in memory.
type storage struct {
	mu  sync.Mutex
	bad map[string]error // by volume
}

func (s *storage) set(volume string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = map[string]error{volume: err}
}

func (s *storage) check(ctx context.Context, of job.Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return s.bad[of.Volume]
}

// A backup whose view goes bad ends with the fault of
// the view, whether the kernel reported it or not.
func TestReading(t *testing.T) {
	broken := &os.PathError{Op: "read", Path: "file", Err: unix.EIO}
	until := func(ctx context.Context) error {
		<-ctx.Done()
		return fmt.Errorf("read the view: %w", context.Cause(ctx))
	}
	for _, tt := range []struct {
		name string
		bad  error // of the view, from the middle of the backup on
		read func(context.Context) error
		end  func(*views, *storage) error // after all was read and found sound
		want []error
	}{
		{name: "all is well"},
		{name: "an error of its own", read: func(context.Context) error { return broken }, want: []error{broken}},
		{name: "it overflows, and reading fails", bad: snapshot.ErrOverflow, read: func(context.Context) error { return broken }, want: []error{snapshot.ErrOverflow, broken}},
		{name: "it vanishes, and the cache has all", bad: snapshot.ErrGone, want: []error{snapshot.ErrGone}},
		{name: "it vanishes, and reading goes on", bad: snapshot.ErrGone, read: until, want: []error{snapshot.ErrGone}},
		{name: "the pool gets full, and reading goes on", bad: snapshot.ErrNoRoom, read: until, want: []error{snapshot.ErrNoRoom}},
		{name: "the pool gets full, and all was read", bad: snapshot.ErrNoRoom},
		{name: "it vanishes when all was read, and the end fails", end: func(_ *views, s *storage) error {
			s.set("media", snapshot.ErrGone)
			return broken
		}, want: []error{broken}},
		{name: "it vanishes while all is read once more", end: func(v *views, s *storage) error {
			v.begin()
			s.set("media", snapshot.ErrGone)
			return until(v.working)
		}, want: []error{snapshot.ErrGone}},
		{name: "the pool gets full while all is read once more", end: func(v *views, s *storage) error {
			v.begin()
			s.set("media", snapshot.ErrNoRoom)
			return until(v.working)
		}, want: []error{snapshot.ErrNoRoom}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s storage
				const every = time.Second
				v := &views{sources: []job.Source{{Volume: "data"}, {Volume: "media"}}, every: every, check: s.check}
				err := v.reading(t.Context(), func(ctx context.Context) error {
					v.begin()
					time.Sleep(90*time.Second + every/2) // between two looks
					if err := context.Cause(ctx); err != nil {
						t.Errorf("ended early: %v", err)
					}
					s.set("media", tt.bad)
					if tt.read != nil {
						return tt.read(ctx)
					}
					v.stored.Store(true)
					if err := v.sound(ctx); err != nil {
						return fmt.Errorf("not accepted: %w", err)
					}
					if tt.end != nil {
						return tt.end(v, &s)
					}
					s.set("media", snapshot.ErrGone) // nothing is read of it any more
					time.Sleep(90 * time.Second)
					return context.Cause(ctx)
				})
				if (err == nil) != (len(tt.want) == 0) {
					t.Fatalf("got %v", err)
				}
				for _, want := range tt.want {
					if !errors.Is(err, want) {
						t.Errorf("%v does not tell of %v", err, want)
					}
				}
				if err != nil && (strings.Contains(err.Error(), "context") || strings.Count(err.Error(), tt.want[0].Error()) != 1) {
					t.Errorf("it says %q", err)
				}
			})
		})
	}
	t.Run("the job is over", func(t *testing.T) {
		ctx, end := context.WithCancelCause(t.Context())
		s := storage{bad: map[string]error{"data": snapshot.ErrGone}}
		cancelled := errors.New("cancelled on request")
		v := &views{sources: []job.Source{{Volume: "data"}}, every: time.Hour, check: s.check}
		err := v.reading(ctx, func(ctx context.Context) error {
			v.begin()
			end(cancelled)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if err != cancelled { //nolint:errorlint // it is not to be wrapped
			t.Errorf("got %v", err)
		}
	})
}

// The providers' own words about a view.
func TestCheckView(t *testing.T) {
	testbed.Need(t, "root", "lvs")
	gone := job.Source{Volume: "data", Ref: model.Ref{
		Provider: snapshot.NameLVMThin, Volume: "/dev/nosuchgroup/data", Path: filepath.Join(snapshot.MountFolder, "nosuchgroup", "hf.host.job.data"),
	}}
	if err := checkView(t.Context(), gone); !errors.Is(err, snapshot.ErrGone) || !strings.Contains(err.Error(), `volume "data"`) {
		t.Errorf("a logical volume that is gone: %v", err)
	}
	dir := t.TempDir()
	for _, name := range []string{snapshot.NameBtrfs, snapshot.NameReflink} {
		s := job.Source{Volume: "data", Ref: model.Ref{Provider: name, Volume: dir, Path: filepath.Join(dir, ".holdfast-snapshots/hf.host.job.data")}}
		if err := checkView(t.Context(), s); !errors.Is(err, snapshot.ErrGone) {
			t.Errorf("%s, nothing there: %v", name, err)
		}
		if err := os.MkdirAll(s.Ref.Path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := checkView(t.Context(), s); !errors.Is(err, snapshot.ErrGone) || !errors.Is(err, snapshot.ErrForeign) {
			t.Errorf("%s, a folder in its place: %v", name, err)
		}
	}
	for _, name := range []string{snapshot.NameFreeze, "of a later version"} {
		if err := checkView(t.Context(), job.Source{Volume: "data", Ref: model.Ref{Provider: name, Volume: "/"}}); err != nil {
			t.Errorf("%s, where nothing can be told: %v", name, err)
		}
	}
}
