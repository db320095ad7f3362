package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestNewestDoesNotDependOnClocks: a host whose clock is years ahead
// or days behind makes backups in the order in which they are made.
func TestNewestDoesNotDependOnClocks(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	var last string
	for i, offset := range []time.Duration{0, 5 * 365 * 24 * time.Hour, -3 * 24 * time.Hour, -time.Minute} {
		if err := os.WriteFile(filepath.Join(dir, "state"), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		var warned []string
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}},
			Now: func() time.Time { return time.Now().Add(offset) },
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range res.Warnings {
			warned = append(warned, w.What)
		}
		if res.Seq != uint64(i+1) || res.Parent != last || len(res.Fork) > 0 {
			t.Errorf("backup %d has number %d after %q", i, res.Seq, res.Parent)
		}
		behind := offset == -3*24*time.Hour
		if told := slices.ContainsFunc(warned, func(w string) bool { return strings.Contains(w, "this host's clock says") }); told != behind {
			t.Errorf("backup %d: warnings %q", i, warned)
		}
		last = res.BackupID
		ref, err := v.Newest(t.Context(), "i")
		if err != nil || ref.ID != last {
			t.Fatalf("the newest is %s (%v), want %s", ref.ID, err, last)
		}
		compare(t, contents(t, v, ref), map[string][]byte{"state": {byte(i)}})
	}
}

// TestForkIsToldAndNotResolved: when two hosts back up the same instance at the same time, both
// backups stay, at least one writer tells of the other, and nobody takes either for the newest.
func TestForkIsToldAndNotResolved(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	run := func(content string, beside func()) *backup.Result {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "state"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Host: content, Sources: []backup.Source{{Volume: "data", Root: dir}},
			// when all is stored but the manifest
			Accept: func(context.Context, *backup.Result) error {
				if beside != nil {
					beside()
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := run("before", nil)
	var b *backup.Result
	a := run("host a", func() { b = run("host b", nil) })
	if a.Parent != first.BackupID || b.Parent != first.BackupID || a.Seq != 2 || b.Seq != 2 {
		t.Fatalf("a follows %s as %d, b follows %s as %d", a.Parent, a.Seq, b.Parent, b.Seq)
	}
	if len(a.Fork) != 1 || a.Fork[0].ID != b.BackupID || len(b.Fork) != 0 || a.WarningCount != 1 {
		t.Errorf("a tells of %v, b of %v", a.Fork, b.Fork)
	}
	var fork *vault.ForkError
	if _, err := v.Newest(t.Context(), "i"); !errors.As(err, &fork) {
		t.Errorf("the newest of two: %v", err)
	}
	// The next backup, of whichever host, is one on top of both.
	c := run("after", nil)
	if ref, err := v.Newest(t.Context(), "i"); err != nil || ref.ID != c.BackupID || c.Seq != 3 {
		t.Errorf("the newest is %v, %v", ref, err)
	}
}
