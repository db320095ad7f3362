package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
)

// TestPatience: each caller that asks a hanging volume gets an answer
// within its time, and few calls hang, whatever their act; another volume
// is asked as ever. When the storage answers again, so does the volume.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p patience
		free := make(chan struct{})
		var hang atomic.Int32
		look := func(context.Context) (int, error) {
			hang.Add(1)
			<-free // a call that no context ends
			return 7, nil
		}
		for range 50 {
			for range 20 {
				go func() {
					began := time.Now()
					_, err := ask(t.Context(), &p, "/hung", "looking", 5*time.Second, look)
					if !errors.Is(err, job.ErrNoAnswer) || time.Since(began) > 6*time.Second {
						t.Errorf("asked the hung volume: %v after %s", err, time.Since(began))
					}
				}()
			}
			time.Sleep(time.Minute)
			began := time.Now()
			if _, err := act(t.Context(), &p, "/hung", "snapshot", time.Minute, 0, look); !errors.Is(err, job.ErrNoAnswer) || time.Since(began) > lookTime {
				t.Errorf("acted on the hung volume: %v after %s", err, time.Since(began))
			}
			if n, err := ask(t.Context(), &p, "/well", "looking", time.Second, func(context.Context) (int, error) { return 8, nil }); n != 8 || err != nil {
				t.Errorf("the other volume: %d, %v", n, err)
			}
		}
		if n := hang.Load(); n != 1 {
			t.Errorf("%d calls hang", n)
		}
		close(free)
		synctest.Wait()
		if n, err := ask(t.Context(), &p, "/hung", "looking", time.Second, look); n != 7 || err != nil {
			t.Errorf("after the storage answers: %d, %v", n, err)
		}
		if n, err := act(t.Context(), &p, "/hung", "snapshot", time.Second, 0, look); n != 7 || err != nil {
			t.Errorf("after the storage answers: %d, %v", n, err)
		}
		if len(p.calls)+len(p.hung) != 0 {
			t.Errorf("left: %v, %v", p.calls, p.hung)
		}
	})
}

// TestPatienceEnds: a call that nobody shares ends with its caller,
// which gives it some time for that; a shared call does not.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p patience
		gone := errors.New("cancelled on request")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(gone) })
		began := time.Now()
		_, err := act(ctx, &p, "/a", "engine", forEver, 30*time.Second, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			time.Sleep(20 * time.Second)
			return 0, context.Cause(ctx)
		})
		if !errors.Is(err, gone) || time.Since(began) != 21*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		free := make(chan struct{})
		began = time.Now()
		_, err = act(ctx, &p, "/a", "engine", forEver, 30*time.Second, func(context.Context) (int, error) {
			<-free
			return 0, nil
		})
		if !errors.Is(err, gone) || !errors.Is(err, job.ErrNoAnswer) || time.Since(began) != 30*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ended := make(chan error, 1)
		go func() {
			_, err := ask(t.Context(), &p, "/b", "look", time.Minute, func(ctx context.Context) (int, error) {
				time.Sleep(30 * time.Second)
				return 0, ctx.Err()
			})
			ended <- err
		}()
		synctest.Wait()
		if _, err := ask(ctx, &p, "/b", "look", time.Minute, func(context.Context) (int, error) { return 0, errors.New("asked twice") }); !errors.Is(err, gone) {
			t.Errorf("who goes away: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("who stays: %v", err)
		}
		close(free)
	})
}
