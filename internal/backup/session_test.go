package backup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestBackupRunsUnderASession: a session is there before the first
// pack and gone after the manifest, and after a failure.
func TestBackupRunsUnderASession(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	makeTree(t, dir, 1, 20, 1)
	var seen atomic.Int64
	o := backup.Options{
		Vault: v, Instance: "cp-1", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}},
		PackIntent: func(string) error {
			all, err := writerSessions(t.Context(), v)
			if len(all) == 1 && all[0].Instance == "cp-1" && all[0].Host == "h" {
				seen.Add(1)
			}
			return err
		},
	}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if seen.Load() == 0 {
		t.Error("no session while packs were stored")
	}
	o.Sources[0].Root = dir + "/not there"
	if _, err := backup.Run(t.Context(), o); err == nil {
		t.Error("a backup of nothing")
	}
	if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("sessions are left: %v, %v", all, err)
	}
}

// TestSessionForgottenMeanwhile: an operator who takes the host for
// dead costs a backup a second run, and nothing else.
func TestSessionForgottenMeanwhile(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 2, 20, 1)
	var forgotten atomic.Bool
	o := backup.Options{
		Vault: v, Instance: "cp-1", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}},
		PackIntent: func(string) error {
			if forgotten.Swap(true) {
				return nil
			}
			all, err := v.Sessions(t.Context())
			for _, s := range all {
				if err := st.Delete(t.Context(), v.Info().ID+"/sessions/"+s.ID); err != nil {
					return err
				}
			}
			return err
		},
	}
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := v.Backups(t.Context(), "")
	if err != nil || len(refs) != 1 || refs[0].ID != res.BackupID {
		t.Fatalf("backups %v, %v", refs, err)
	}
	compare(t, contents(t, v, refs[0]), want)
}

// sharedRuns begins that many backups of one host, and lets each
// send its first pack only once all of them want to.
func sharedRuns(t *testing.T, n int, v *vault.Vault, before func()) []error {
	t.Helper()
	h := backup.NewPool(backup.PoolOptions{Runs: n})
	var all, met sync.WaitGroup
	met.Add(n)
	var once sync.Once
	errs := make([]error, n)
	for i := range n {
		dir := t.TempDir()
		makeTree(t, dir, uint64(i), 5, 1)
		all.Go(func() {
			meet := sync.OnceFunc(func() {
				met.Done()
				met.Wait()
				once.Do(before)
			})
			_, errs[i] = backup.Run(t.Context(), backup.Options{
				Vault: v, Instance: fmt.Sprint("cp-", i), Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, Pool: h,
				PackIntent: func(string) error { meet(); return nil },
			})
		})
	}
	all.Wait()
	return errs
}

// TestBackupsOfAHostShareASession: and it is there until the last
// of them has ended; should somebody remove it, each is made again.
func TestBackupsOfAHostShareASession(t *testing.T) {
	const n = 4
	for _, forget := range []bool{false, true} {
		st := obs.NewMemory()
		v := newVault(t, st)
		errs := sharedRuns(t, n, v, func() {
			all, err := writerSessions(t.Context(), v)
			if err != nil || len(all) != 1 {
				t.Errorf("%d sessions while %d backups are made, %v", len(all), n, err)
			}
			for _, s := range all {
				if forget {
					err = errors.Join(err, st.Delete(t.Context(), v.Info().ID+"/sessions/"+s.ID))
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		refs, err := v.Backups(t.Context(), "")
		if err != nil || len(refs) != n {
			t.Errorf("backups %v, %v", refs, err)
		}
		if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("sessions are left: %v, %v", all, err)
		}
	}
}

// writerSessions are the sessions that collectors wait for, without the names of instances.
func writerSessions(ctx context.Context, v *vault.Vault) ([]vault.SessionInfo, error) {
	all, err := v.Sessions(ctx)
	return slices.DeleteFunc(all, func(s vault.SessionInfo) bool { return s.Kind != "backup" }), err
}

// doubtful does not answer the put of one instance's manifest.
type doubtful struct {
	obs.Store
	instance string
}

func (d doubtful) Put(ctx context.Context, key string, body []byte) error {
	if strings.Contains(key, "/backups/"+d.instance+"/") {
		return fmt.Errorf("%w (%w)", obs.ErrUnavailable, obs.ErrUncertain)
	}
	return d.Store.Put(ctx, key, body)
}

// TestDoubtOfOneKeepsTheSessionOfAll: a manifest that may come late
// keeps its session, however the other Runs of the session ended.
func TestDoubtOfOneKeepsTheSessionOfAll(t *testing.T) {
	v := newVault(t, obs.Retry(doubtful{obs.NewMemory(), "cp-1"}, obs.RetryPolicy{MaxAttempts: 1}))
	for i, err := range sharedRuns(t, 3, v, func() {}) {
		if (err != nil) != (i == 1) {
			t.Errorf("cp-%d: %v", i, err)
		}
	}
	if all, err := writerSessions(t.Context(), v); err != nil || len(all) != 1 {
		t.Errorf("%d sessions are left, %v", len(all), err)
	}
}

// slowSession holds up the sessions that slow callers put until the caller gives up.
type slowSession struct {
	obs.Store
	begun chan struct{}
	once  *sync.Once
}

type slowCaller struct{}

func (s slowSession) Put(ctx context.Context, key string, body []byte) error {
	if strings.Contains(key, "/sessions/") && ctx.Value(slowCaller{}) != nil {
		s.once.Do(func() { close(s.begun) })
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.Put(ctx, key, body)
}

// TestWhoBeginsTheSessionGivesUp: those who wait for it go on with one of their own.
func TestWhoBeginsTheSessionGivesUp(t *testing.T) {
	st := slowSession{obs.NewMemory(), make(chan struct{}), &sync.Once{}}
	v := newVault(t, st)
	h := backup.NewPool(backup.PoolOptions{Runs: 3})
	dir := t.TempDir()
	makeTree(t, dir, 1, 5, 1)
	run := func(ctx context.Context, i int) error {
		_, err := backup.Run(ctx, backup.Options{
			Vault: v, Instance: fmt.Sprint("cp-", i), Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, Pool: h,
		})
		return err
	}
	var all sync.WaitGroup
	first, giveUp := context.WithCancel(context.WithValue(t.Context(), slowCaller{}, true))
	all.Go(func() {
		if err := run(first, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up: %v", err)
		}
	})
	<-st.begun
	for i := range 2 {
		all.Go(func() {
			if err := run(t.Context(), i+1); err != nil {
				t.Error(err)
			}
		})
	}
	giveUp()
	all.Wait()
	if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("sessions are left: %v, %v", all, err)
	}
}
