package expire_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/expire"
	"holdfast/internal/obs"
	"holdfast/internal/retention"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ids(refs []vault.BackupRef) string {
	var all []string
	for _, r := range refs {
		all = append(all, r.Instance+"/"+r.ID)
	}
	return strings.Join(all, " ")
}

// TestPlan: the rules of each instance count, a backup that the vault
// or the caller needs stays with the reason, instances that are not
// wanted are not judged, and the share is of the judged backups.
func TestPlan(t *testing.T) {
	id, err := vault.GenerateIdentity()
	must(t, err)
	v, err := vault.Create(t.Context(), obs.NewMemory(), "acme", nil, nil, id)
	must(t, err)
	var refs []vault.BackupRef
	for _, instance := range []string{"a", "b", "c"} {
		parent := ""
		for n := range 6 {
			all, err := v.Backups(t.Context(), instance)
			must(t, err)
			at := time.Now().Add(-time.Duration(6-n) * 24 * time.Hour)
			next := vault.LineageOf(all).NewID(uint64(n+1), at, parent, false)
			s, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "h"})
			must(t, err)
			must(t, s.WriteManifest(t.Context(), &vault.Manifest{Instance: instance, Seq: uint64(n + 1), ID: next, Parent: parent, Created: at}))
			must(t, s.End(t.Context()))
			parent = next
			ref, _ := vault.RefOf(instance, next)
			refs = append(refs, ref)
		}
	}
	_, err = v.Hold(t.Context(), vault.SessionOptions{Host: "h"}, refs[0], "court", time.Time{})
	must(t, err)
	must(t, v.ForgetBackups(t.Context(), "h", "by hand", refs[6:7]))
	kept, err := expire.Look(t.Context(), v)
	must(t, err)
	if len(kept.By["a"]) != 6 || len(kept.By["b"]) != 5 || len(kept.Forgotten) != 1 {
		t.Fatalf("%d and %d backups, %d forgotten", len(kept.By["a"]), len(kept.By["b"]), len(kept.Forgotten))
	}
	plan := kept.Plan(expire.Rules{
		Policy: func(instance string) retention.Policy {
			if instance == "b" {
				return retention.Policy{} // which keeps all
			}
			return retention.Policy{Last: 2}
		},
		Wanted: func(instance string) bool { return instance != "c" },
		Needs: func(ref vault.BackupRef) string {
			if ref.ID == refs[1].ID {
				return "this host has it"
			}
			return ""
		},
		MaxShare: 20,
	}, time.Now())
	if plan.Backups != 11 || ids(plan.Forget) != ids(refs[2:4]) || len(plan.Verdicts["c"]) != 0 || len(plan.Odd()) != 0 {
		t.Errorf("of %d backups the plan forgets %s, want %s", plan.Backups, ids(plan.Forget), ids(refs[2:4]))
	}
	for n, want := range []string{"[held: court]", "[this host has it]", "[]", "[]", "[last]", "[newest last]"} {
		if got := fmt.Sprint(plan.Verdicts["a"][n].Why); got != want {
			t.Errorf("backup %d of a stays because of %s, want %s", n+1, got, want)
		}
	}
	if plan.Share == nil {
		t.Error("a third of the backups of a is within 20 %")
	}
}

// TestPruneLeavesARecord: a prune that ends leaves a record, and a prune that fails and a dry run
// leave none.
func TestPruneLeavesARecord(t *testing.T) {
	id, err := vault.GenerateIdentity()
	must(t, err)
	v, err := vault.Create(t.Context(), obs.NewMemory(), "acme", nil, nil, id)
	must(t, err)
	o := vault.PruneOptions{Host: "h", Wait: time.Nanosecond, Poll: time.Nanosecond, Warn: func(err error) { t.Error(err) }}
	look := func() vault.Runs {
		runs, err := v.Runs(t.Context())
		must(t, err)
		return runs
	}
	dry := o
	dry.DryRun = true
	_, err = expire.Prune(t.Context(), v, dry)
	must(t, err)
	writer, err := v.BeginSession(t.Context(), vault.SessionOptions{Host: "w"})
	must(t, err)
	o.Waits = func([]vault.SessionInfo) {
		if look().UnderWay == nil {
			t.Error("no record says that a prune is under way")
		}
	}
	if _, err := expire.Prune(t.Context(), v, o); err == nil {
		t.Error("a prune did not wait for a writer")
	}
	if runs := look(); len(runs.Ended) != 0 || runs.UnderWay != nil {
		t.Errorf("after a prune that failed: %+v", runs)
	}
	must(t, writer.End(t.Context()))
	_, err = expire.Prune(t.Context(), v, o)
	must(t, err)
	if runs := look(); len(runs.Ended) != 1 || runs.Ended[0].Host != "h" || runs.UnderWay != nil {
		t.Errorf("after a prune: %+v", runs)
	}
}
