package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"holdfast/agent/model"
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
			state model.State
			want  int
		}{
			{"a", model.Accepted, 0},
			{"a", model.Precopying, 0},
			{"a", model.Freezing, 1},
			{"b", model.Freezing, 1},
			{"a", model.Uploading, 1},
			{"a", model.Reported, 1},
			{"b", model.Failing, 0},
			{"a", model.Releasing, 1},
			{"a", model.Released, 0},
			{"c", model.Uploading, 1},
		} {
			i.note(&model.Job{ID: step.id, State: step.state})
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
		i.note(&model.Job{ID: "d", State: model.Freezing})
		synctest.Wait()
		stop()
		synctest.Wait()
	})
}
