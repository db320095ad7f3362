package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestStandingStillCountsBeforeALook: an agent that stands still powers nothing down, also where
// the last look was only just and needs no repetition, or the store was silent only just.
func TestStandingStillCountsBeforeALook(t *testing.T) {
	looking(t, func(t *testing.T, b *backups, st *askedStore, open map[string]*vault.Vault) {
		if err := b.looks.fresh(t.Context(), open["acme"]); err != nil {
			t.Fatal(err)
		}
		b.looks.before.quiet("other")
		st.requests()
		b.looks.standing.Halt(errors.New("another copy is alive"))
		if err := b.looks.fresh(t.Context(), open["acme"]); !errors.Is(err, ErrCopied) {
			t.Errorf("after a look only just: %v", err)
		}
		if err := b.Alone(t.Context(), heldJob("other")); !errors.Is(err, ErrCopied) {
			t.Errorf("after a silence only just: %v", err)
		}
		if got := st.requests(); got != "" {
			t.Errorf("the requests are %q", got)
		}
	})
}

// TestCopyIsSeenBeforeTheBackup: where a copy of the host has used the vault, and the vault lacks
// the backup, the agent stands still. The job of a held instance of the original stays as it is,
// and the agent says nothing of the loss.
func TestCopyIsSeenBeforeTheBackup(t *testing.T) {
	looking(t, func(t *testing.T, b *backups, _ *askedStore, open map[string]*vault.Vault) {
		v := open["acme"]
		if err := b.Present(t.Context(), heldJob("acme")); !errors.Is(err, job.ErrBackupGone) {
			t.Errorf("without a copy: %v", err)
		}
		copied := vault.Look{Name: v.LookName(b.self.Identity.ID), Life: "a life of the copy", Parent: "an earlier life", Count: 1, Host: "host-1", At: time.Now().UTC()}
		if err := v.PutLook(t.Context(), copied); err != nil {
			t.Fatal(err)
		}
		if err := b.Present(t.Context(), heldJob("acme")); !errors.Is(err, ErrCopied) || errors.Is(err, job.ErrBackupGone) {
			t.Errorf("with a copy: %v", err)
		}
	})
}

// TestSilentOrNot: errors by which a store gives no answer are a silence, and answers are none.
// Of a silence the next power-down hears; after another answer it asks itself.
func TestSilentOrNot(t *testing.T) {
	for _, c := range []struct {
		err    error
		silent bool
	}{
		{job.ErrNoAnswer, true},
		{fmt.Errorf("list: %w", context.DeadlineExceeded), true},
		{fmt.Errorf("list: %w", obs.ErrUnavailable), true},
		{fmt.Errorf("list: %w", obs.ErrAccess), false},
		{errors.New("anything else"), false},
	} {
		looking(t, func(t *testing.T, b *backups, st *askedStore, _ map[string]*vault.Vault) {
			st.set(func(context.Context, string, string) error { return c.err })
			for i, want := range []bool{true, !c.silent} {
				if err := b.Alone(t.Context(), heldJob("acme")); err != nil {
					t.Errorf("%v: %v", c.err, err)
				}
				if asked := st.requests() != ""; asked != want {
					t.Errorf("%v, power-down %d: asked %v, want %v", c.err, i, asked, want)
				}
			}
		})
	}
}

// TestPanicInALook: a look in which the program fails is no answer of the store, so no power-down
// follows.
func TestPanicInALook(t *testing.T) {
	looking(t, func(t *testing.T, b *backups, st *askedStore, _ map[string]*vault.Vault) {
		st.set(func(context.Context, string, string) error { panic("in a look") })
		if err := b.Alone(t.Context(), heldJob("acme")); contain.Of(err) == nil {
			t.Errorf("%v", err)
		}
	})
}

// TestSlowLookIsOld: a look counts from the time at which its second list began. A copy may have
// come while a slow store wrote the list.
func TestSlowLookIsOld(t *testing.T) {
	looking(t, func(t *testing.T, b *backups, st *askedStore, open map[string]*vault.Vault) {
		lists := 0
		st.set(func(_ context.Context, op, _ string) error {
			if op == "list" {
				if lists++; lists == 2 {
					time.Sleep(freshLook)
				}
			}
			return nil
		})
		for i := range 2 {
			if err := b.looks.fresh(t.Context(), open["acme"]); err != nil {
				t.Error(err)
			}
			if got := st.requests(); got == "" {
				t.Errorf("look %d asks nothing", i)
			}
		}
	})
}
