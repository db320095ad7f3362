package engine

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/vault"
)

// TestAgentSettlesUnknownOutcomes: a backup that was in doubt when its job failed is
// resolved by an agent that runs no other job, and nothing is left of it in the vault.
func TestAgentSettlesUnknownOutcomes(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f := obstest.NewFaulty(obs.NewMemory())
	id, err := vault.GenerateIdentity()
	check(err)
	v, err := vault.Create(t.Context(), obs.Retry(f, obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 2}), "tenant", nil, nil, id)
	check(err)
	var lines bytes.Buffer
	all := &Vaults{log: slog.New(slog.NewTextHandler(&lines, nil)), open: map[string]*openVault{}}
	opened := &openVault{turn: make(chan struct{}, 1), vault: v}
	opened.turn <- struct{}{}
	all.open["tenant"] = opened
	never := &openVault{turn: make(chan struct{}, 1)}
	never.turn <- struct{}{}
	all.open["could not be opened"] = never

	s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
	check(err)
	f.Inject(obstest.Fault{Op: obstest.Put, Key: func(key string) bool { return strings.Contains(key, "/backups/") }})
	m := &vault.Manifest{Instance: "i", Seq: 1, ID: vault.NewBackupID(1, time.Unix(1700000000, 0), false)}
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, vault.ErrMayExist) {
		t.Fatal(err)
	}
	check(s.End(t.Context()))
	all.settle(t.Context())
	if !strings.Contains(lines.String(), "not known yet") {
		t.Errorf("while the store refuses, the log says %q", lines.String())
	}
	f.Heal()
	all.settle(t.Context())
	if !strings.Contains(lines.String(), "exists after all") || !strings.Contains(lines.String(), m.ID) {
		t.Errorf("the log says %q", lines.String())
	}
	sessions, err := v.Sessions(t.Context())
	if _, merr := v.Manifest(t.Context(), vault.BackupRef{Instance: "i", ID: m.ID}); err != nil || merr != nil || len(sessions) > 0 {
		t.Errorf("sessions %v, %v; the backup: %v", sessions, err, merr)
	}
}
