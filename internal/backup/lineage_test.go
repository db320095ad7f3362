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
	parent := ""
	run := func(content string, beside func()) *backup.Result {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "state"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Host: content, Sources: []backup.Source{{Volume: "data", Root: dir}}, Origin: &backup.Origin{Backup: parent},
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
	parent = first.BackupID
	var b *backup.Result
	a := run("host a", func() { b = run("host b", nil) })
	if a.Parent != first.BackupID || b.Parent != first.BackupID || a.Seq != 2 || b.Seq != 2 {
		t.Fatalf("a follows %s as %d, b follows %s as %d", a.Parent, a.Seq, b.Parent, b.Seq)
	}
	// b lists before its manifest and after, and a is not there yet
	if len(a.Fork) != 1 || a.Fork[0].ID != b.BackupID || len(b.Fork) != 0 || a.WarningCount != 1 {
		t.Errorf("a tells of %v, b of %v", a.Fork, b.Fork)
	}
	var fork *vault.ForkError
	if _, err := v.Newest(t.Context(), "i"); !errors.As(err, &fork) {
		t.Errorf("the newest of two: %v", err)
	}
	// A further backup of one of the two hosts lacks
	// the other host's content, until one is accepted.
	parent = b.BackupID
	c := run("host b again", nil)
	if len(c.Fork) != 1 || c.Fork[0].ID != a.BackupID || c.Seq != 3 || c.Parent != b.BackupID {
		t.Errorf("on top of b: %s as %d after %s, forks %v", c.BackupID, c.Seq, c.Parent, c.Fork)
	}
	m, err := v.Manifest(t.Context(), vault.BackupRef{Instance: "i", ID: c.BackupID})
	if err != nil || !slices.Equal(m.Fork, []string{a.BackupID}) {
		t.Errorf("the manifest tells of the forks %v, %v", m.Fork, err)
	}
	over, err := v.Accept(t.Context(), "i", c.BackupID, "a host", "an operator")
	if err != nil || len(over) != 1 || over[0].ID != a.BackupID {
		t.Errorf("accepted over %v, %v", over, err)
	}
	if ref, err := v.Newest(t.Context(), "i"); err != nil || ref.ID != c.BackupID {
		t.Errorf("the newest is %v, %v", ref, err)
	}
	parent = c.BackupID
	if d := run("host b, without a fork", nil); len(d.Fork) > 0 {
		t.Errorf("after the decision: forks %v", d.Fork)
	}
	// The other branch goes on all the same: that is a fork again.
	parent = a.BackupID
	if e := run("host a again", nil); len(e.Fork) != 1 {
		t.Errorf("a backup of the branch that was not accepted: forks %v", e.Fork)
	}
	if _, err := v.Newest(t.Context(), "i"); !errors.As(err, &fork) {
		t.Errorf("the newest of two: %v", err)
	}
}

// TestParentIsWhereTheContentCameFrom: the parent of a backup is the backup that the
// caller knows, also when a newer one is in the vault, or when nothing is known; an
// earlier try that came to be stored without an answer is no fork with the next one.
func TestParentIsWhereTheContentCameFrom(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	run := func(o *backup.Origin, intent func(string) error) (*backup.Result, error) {
		return backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir, AllowEmpty: true}}, Origin: o, Intent: intent,
		})
	}
	must := func(res *backup.Result, err error) *backup.Result {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := must(run(&backup.Origin{}, nil))
	if first.Parent != "" || len(first.Fork) > 0 {
		t.Errorf("the first follows %q, forks %v", first.Parent, first.Fork)
	}
	second := must(run(&backup.Origin{Backup: first.BackupID}, nil))
	if second.Parent != first.BackupID || len(second.Fork) > 0 {
		t.Errorf("the second follows %q, forks %v", second.Parent, second.Fork)
	}
	stale := must(run(&backup.Origin{Backup: first.BackupID}, nil))
	if stale.Parent != first.BackupID || len(stale.Fork) != 1 || stale.Fork[0].ID != second.BackupID {
		t.Errorf("a stale copy's follows %q, forks %v", stale.Parent, stale.Fork)
	}
	unknown := must(run(&backup.Origin{}, nil))
	if unknown.Parent != "" || len(unknown.Fork) != 2 {
		t.Errorf("one of unknown content follows %q, forks %v", unknown.Parent, unknown.Fork)
	}
	if _, err := v.Accept(t.Context(), "i", second.BackupID, "h", "an operator"); err != nil {
		t.Fatal(err)
	}
	// A try that tells its id and ends: its backup is not there. And one of which nobody hears.
	var tried []string
	note := func(id string) error { tried = append(tried, id); return nil }
	if _, err := run(&backup.Origin{Backup: second.BackupID}, func(id string) error { _ = note(id); return errors.New("the journal is full") }); err == nil {
		t.Error("a backup whose id was not noted is made")
	}
	must(run(&backup.Origin{Backup: second.BackupID, Tried: tried}, note))
	last := must(run(&backup.Origin{Backup: second.BackupID, Tried: tried}, nil))
	if last.Parent != tried[1] || len(last.Fork) > 0 || len(tried) != 2 {
		t.Errorf("after a try of which nobody heard: follows %q of %v, forks %v", last.Parent, tried, last.Fork)
	}
	if ref, err := v.Newest(t.Context(), "i"); err != nil || ref.ID != last.BackupID {
		t.Errorf("the newest is %v, %v", ref, err)
	}
}
