package agent

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// askedStore tells before of each list, put and delete of looks, whose error the request then has.
type askedStore struct {
	obs.Store

	mu     sync.Mutex
	before func(ctx context.Context, op, key string) error
	asked  []string // the requests, in order
}

func (s *askedStore) tell(ctx context.Context, op, key string) error {
	if !strings.Contains(key, "/looks/") {
		return nil
	}
	s.mu.Lock()
	s.asked = append(s.asked, op)
	before := s.before
	s.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx, op, key)
}

// requests returns the requests since the last call.
func (s *askedStore) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := strings.Join(s.asked, " ")
	s.asked = nil
	return asked
}

func (s *askedStore) set(before func(ctx context.Context, op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *askedStore) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) {
		if err := s.tell(ctx, "list", prefix); err != nil {
			yield(obs.Info{}, err)
			return
		}
		s.Store.List(ctx, prefix)(yield)
	}
}

func (s *askedStore) Put(ctx context.Context, key string, body []byte) error {
	if err := s.tell(ctx, "put", key); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body)
}

func (s *askedStore) Delete(ctx context.Context, keys ...string) error {
	if err := s.tell(ctx, "delete", keys[0]); err != nil {
		return err
	}
	return s.Store.Delete(ctx, keys...)
}

// looking runs do, on the clock of a bubble, with an agent
// that has the vaults of the tenants acme and other open.
func looking(t *testing.T, do func(t *testing.T, a *Agent, st *askedStore, open map[string]*vault.Vault)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := &askedStore{Store: obs.NewMemory()}
		a := &Agent{log: slog.New(slog.DiscardHandler), store: st, cfg: &config.Config{HostID: "host-1"}}
		a.identity.ID = "an identity"
		a.standing.begin(func(error) {})
		a.looks = newLooks(a, filepath.Join(t.TempDir(), LooksFile))
		a.vaults = &vaults{a: a, open: map[string]*openVault{}}
		id, err := vault.GenerateIdentity()
		if err != nil {
			t.Fatal(err)
		}
		open := map[string]*vault.Vault{}
		for _, tenant := range []string{"acme", "other"} {
			v, err := vault.Create(t.Context(), st, tenant, nil, nil, id)
			if err != nil {
				t.Fatal(err)
			}
			open[tenant] = v
			opened := &openVault{turn: make(chan struct{}, 1), vault: v}
			opened.turn <- struct{}{}
			a.vaults.open[tenant] = opened
		}
		do(t, a, st, open)
		if err := a.vaults.close(); err != nil {
			t.Error(err)
		}
	})
}

func heldJob(tenant string) *model.Job {
	return &model.Job{ID: "job-1", Instance: "phone-1", Tenant: tenant, Result: &model.Result{BackupID: "backup-1"}}
}

const wholeLook = "list put list"

// TestHungStoreHoldsNoReleaseUp: a store that hangs in the kernel, which no context ends, holds a
// power-down after a recent verification up for seconds, and the next ones not at all. The vaults
// of other tenants are asked meanwhile. A power-down without a recent verification
// goes by no silence.
func TestHungStoreHoldsNoReleaseUp(t *testing.T) {
	looking(t, func(t *testing.T, a *Agent, st *askedStore, open map[string]*vault.Vault) {
		gate := make(chan struct{})
		free := sync.OnceFunc(func() { close(gate) })
		defer free()
		st.set(func(_ context.Context, _, key string) error {
			if strings.HasPrefix(key, open["acme"].Info().ID) {
				<-gate
			}
			return nil
		})
		alone := func(tenant string, limit time.Duration, want string) {
			t.Helper()
			began := time.Now()
			if err := a.vaults.Alone(t.Context(), heldJob(tenant)); err != nil || time.Since(began) > limit {
				t.Errorf("%s: %v after %s", tenant, err, time.Since(began))
			}
			if got := st.requests(); got != want {
				t.Errorf("%s: the requests are %q, not %q", tenant, got, want)
			}
		}
		alone("acme", aloneTime, "list")
		alone("acme", 0, "")
		alone("other", 0, wholeLook)
		began := time.Now()
		if err := a.vaults.Present(t.Context(), heldJob("acme")); !noAnswer(err) || time.Since(began) > presentTime {
			t.Errorf("without a recent verification: %v after %s", err, time.Since(began))
		}
		time.Sleep(freshLook)
		alone("acme", aloneTime, "") // the look of before hangs on, and no other one is made beside it
		free()
		synctest.Wait()
		st.requests()
		time.Sleep(freshLook)
		alone("acme", 0, wholeLook)
	})
}

// TestInterruptedLook: a caller who goes away while the store hangs has an answer at once, which is
// the reason of the caller; such a look tells the next power-downs nothing, neither that a copy was
// looked for nor that the store is silent.
func TestInterruptedLook(t *testing.T) {
	looking(t, func(t *testing.T, a *Agent, st *askedStore, _ map[string]*vault.Vault) {
		gate := make(chan struct{})
		free := sync.OnceFunc(func() { close(gate) })
		defer free()
		st.set(func(context.Context, string, string) error { <-gate; return nil })
		resumed := errors.New("the instance is to run again")
		for name, look := range map[string]func(context.Context, *model.Job) error{"alone": a.vaults.Alone, "present": a.vaults.Present} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second/2, func() { cancel(resumed) })
			began := time.Now()
			if err := look(ctx, heldJob("acme")); name == "alone" && !errors.Is(err, resumed) || err == nil || time.Since(began) > time.Second/2 {
				t.Errorf("%s: %v after %s", name, err, time.Since(began))
			}
		}
		free()
		synctest.Wait()
		st.requests()
		if err := a.vaults.Alone(t.Context(), heldJob("acme")); err != nil {
			t.Error(err)
		}
		if got := st.requests(); !strings.HasPrefix(got, "list put") || !strings.HasSuffix(got, "list") {
			t.Errorf("the next power-down makes the requests %q", got)
		}
	})
}

// TestOnlyWholeLooksCount: a look counts for the next power-downs once the list, the put and the
// second list have all succeeded. Else the look has failed, and the next power-down looks itself.
func TestOnlyWholeLooksCount(t *testing.T) {
	refused := errors.New("refused")
	for _, at := range []int{1, 2, 3} { // the list, the put, and the second list
		for _, interrupted := range []bool{false, true} {
			looking(t, func(t *testing.T, a *Agent, st *askedStore, open map[string]*vault.Vault) {
				ctx, cancel := context.WithCancelCause(t.Context())
				n := 0
				st.set(func(ctx context.Context, _, _ string) error {
					switch n++; {
					case n != at:
						return nil
					case interrupted:
						cancel(refused)
						return context.Cause(ctx)
					}
					return refused
				})
				v := open["acme"]
				if err := a.looks.fresh(ctx, v); !errors.Is(err, refused) {
					t.Errorf("request %d: %v", at, err)
				}
				st.set(nil)
				st.requests()
				for i, want := range []bool{true, false} {
					if err := a.looks.fresh(t.Context(), v); err != nil {
						t.Error(err)
					}
					if got := st.requests(); (got != "") != want {
						t.Errorf("after request %d, interrupted: %v: look %d makes the requests %q", at, interrupted, i, got)
					}
				}
				time.Sleep(freshLook)
				if err := a.looks.fresh(t.Context(), v); err != nil || st.requests() == "" {
					t.Errorf("a look of before counts: %v", err)
				}
			})
		}
	}
}

// TestRefusedLook: a store that takes no look, and answers, holds no power-down up after a recent
// verification, each of which asks it again; earlier looks that it keeps undo no look.
func TestRefusedLook(t *testing.T) {
	looking(t, func(t *testing.T, a *Agent, st *askedStore, _ map[string]*vault.Vault) {
		refuses := ""
		st.set(func(_ context.Context, op, _ string) error {
			if op == refuses {
				return obs.ErrAccess
			}
			return nil
		})
		for _, c := range []struct{ refuses, want string }{
			{"put", "list put"}, {"put", "list put"}, {"", wholeLook}, {"", ""},
		} {
			refuses = c.refuses
			if err := a.vaults.Alone(t.Context(), heldJob("acme")); err != nil {
				t.Error(err)
			}
			if got := st.requests(); got != c.want {
				t.Errorf("the requests are %q, not %q", got, c.want)
			}
		}
		time.Sleep(freshLook)
		refuses = "delete"
		for _, want := range []string{"list put delete list", ""} {
			if err := a.vaults.Alone(t.Context(), heldJob("acme")); err != nil {
				t.Error(err)
			}
			if got := st.requests(); got != want {
				t.Errorf("without deletes: the requests are %q, not %q", got, want)
			}
		}
	})
}

// TestVaultsDoNotWait: a look at one vault holds up no look at another vault. The jobs of the same
// vault wait for the look, or for their context, and one look is enough for all that wait.
func TestVaultsDoNotWait(t *testing.T) {
	looking(t, func(t *testing.T, a *Agent, st *askedStore, open map[string]*vault.Vault) {
		gate := make(chan struct{})
		st.set(func(_ context.Context, _, key string) error {
			if strings.HasPrefix(key, open["acme"].Info().ID) {
				<-gate
			}
			return nil
		})
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- a.looks.fresh(t.Context(), open["acme"]) }()
		}
		synctest.Wait()
		began := time.Now()
		if err := a.looks.fresh(t.Context(), open["other"]); err != nil || time.Since(began) > 0 {
			t.Errorf("the other vault: %v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.looks.fresh(ctx, open["acme"]); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
			t.Errorf("a caller with a second: %v after %s", err, time.Since(began))
		}
		st.requests()
		gate <- struct{}{} // the list ends
		gate <- struct{}{} // and the put
		synctest.Wait()
		time.Sleep(2 * freshLook)
		close(gate) // and the second list, much later
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := st.requests(); got != "put list" {
			t.Errorf("after the first list of the one look, the requests of both are %q", got)
		}
	})
}

// TestRecent: a look counts where both clocks say that it is recent.
func TestRecent(t *testing.T) {
	for _, c := range []struct {
		process, wall time.Duration
		want          bool
	}{
		{0, 0, true},
		{freshLook - 1, freshLook - 1, true},
		{freshLook, 0, false},         // the wall clock was set back
		{0, freshLook, false},         // the process stood still, or is a copy of the memory
		{time.Second, -1, false},      // the wall clock was set back beyond the look
		{-1, time.Second, false},      // no clock runs like that
		{time.Hour, time.Hour, false}, // long ago
	} {
		if got := recent(c.process, c.wall); got != c.want {
			t.Errorf("%s by the process, %s by the wall clock: %v", c.process, c.wall, got)
		}
	}
	if now := time.Now(); !counts(now, now.Add(time.Second)) || counts(time.Time{}, now) {
		t.Error("a look of a second ago does not count, or no look does")
	}
}
