package observe

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"holdfast/agent/job"
)

func TestHostIsKeptUpWhileInstancesAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken, refuse := 0, false
		i := newInhibitor(func(why string) (func(), error) {
			if refuse {
				return nil, errors.New("no logind")
			}
			if why == "" {
				t.Error("no reason")
			}
			taken++
			return sync.OnceFunc(func() { taken-- }), nil
		}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			i.run(ctx)
		}()
		for _, step := range []struct {
			id    string
			state job.State
			want  int
		}{
			{"a", job.Accepted, 0},
			{"a", job.Precopying, 0},
			{"a", job.Freezing, 1},
			{"b", job.Freezing, 1},
			{"a", job.Uploading, 1},
			{"a", job.Reported, 1},
			{"b", job.Failing, 0},
			{"a", job.Releasing, 1},
			{"a", job.Released, 0},
			{"c", job.Uploading, 1},
		} {
			i.note(&job.Job{ID: step.id, State: step.state})
			synctest.Wait()
			if taken != step.want {
				t.Errorf("%s is %s: taken %d times, want %d", step.id, step.state, taken, step.want)
			}
		}
		stop()
		<-done
		if taken != 0 {
			t.Errorf("after the end it is taken %d times", taken)
		}

		refuse = true
		ctx, stop = context.WithCancel(t.Context())
		defer stop()
		go i.run(ctx)
		i.note(&job.Job{ID: "d", State: job.Freezing})
		synctest.Wait()
		stop()
		synctest.Wait()
	})
}
