package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/hostid"
	"holdfast/internal/obs"
)

// hostOptions are the options of a host for a session or a naming.
func hostOptions(host, instance string) SessionOptions {
	return SessionOptions{Host: host, Identity: hostid.Identity{ID: "identity of " + host}, Instance: instance}
}

func memoryVault(t *testing.T) *Vault {
	t.Helper()
	id, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Create(t.Context(), obs.NewMemory(), "tenant", nil, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// busy are the instances that other hosts than the named one back up, with their hosts.
func busy(t *testing.T, v *Vault, host string, instances ...string) string {
	t.Helper()
	found, err := v.Elsewhere(t.Context(), "identity of "+host, time.Hour, instances...)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, id := range slices.Sorted(maps.Keys(found.Writes)) {
		all = append(all, id+" on "+found.Writes[id])
	}
	return fmt.Sprint(all)
}

// TestNamingsOfASharedSession: each of several backups under one session names its
// instance, from its begin to its end: a prepare on another host is refused for exactly
// the instances whose backups are under way, whichever of them the session is begun for.
func TestNamingsOfASharedSession(t *testing.T) {
	v := memoryVault(t)
	s, err := v.BeginSession(t.Context(), hostOptions("a", "i"))
	if err != nil {
		t.Fatal(err)
	}
	var named []*Naming
	for _, id := range []string{"i", "j"} {
		n, err := v.Name(t.Context(), hostOptions("a", id))
		if err != nil {
			t.Fatal(err)
		}
		named = append(named, n)
	}
	claim := func(host, instance string) error {
		_, err := v.Claim(t.Context(), ClaimOptions{
			Instance: instance, Host: host, Identity: "identity of " + host, Silence: time.Hour, Writers: true,
		})
		return err
	}
	for _, id := range []string{"i", "j"} {
		var writes *WritesError
		if err := claim("b", id); !errors.As(err, &writes) || writes.Host != "a" || writes.Instance != id {
			t.Errorf("a claim on %s, which a backs up: %v", id, err)
		}
	}
	if err := claim("a", "j"); err != nil {
		t.Errorf("the host itself: %v", err)
	}
	if err := claim("b", "k"); err != nil {
		t.Errorf("an instance that nobody backs up: %v", err)
	}
	if got := busy(t, v, "b", "i", "j", "k"); got != "[i on a j on a]" {
		t.Errorf("b sees %s", got)
	}
	if got := busy(t, v, "b", "j"); got != "[j on a]" {
		t.Errorf("b sees %s of one instance", got)
	}
	if got := busy(t, v, "a", "i", "j"); got != "[]" {
		t.Errorf("a sees %s of its own", got)
	}
	if err := named[0].End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := busy(t, v, "b", "i", "j"); got != "[j on a]" {
		t.Errorf("the first backup is over, and b sees %s", got)
	}
	if err := claim("b", "i"); err != nil {
		t.Errorf("the first backup is over, and its session stands: %v", err)
	}
	if err := errors.Join(named[1].End(t.Context()), s.End(t.Context())); err != nil {
		t.Fatal(err)
	}
	if left, err := v.Sessions(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// TestNamingOutlastsADoubt: while nobody knows whether the backup of an instance is
// stored, other hosts are told of the backup, although its job is over, for as long as that takes.
func TestNamingOutlastsADoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := memoryVault(t)
		n, err := v.Name(t.Context(), hostOptions("a", "i"))
		if err != nil {
			t.Fatal(err)
		}
		d := &doubt{backup: BackupRef{Instance: "i", ID: "b", Seq: 1}}
		v.ledger.add(d)
		if err := n.End(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 9 {
			time.Sleep(17 * time.Minute)
			if got := busy(t, v, "b", "i"); got != "[i on a]" {
				t.Errorf("in doubt, b sees %s", got)
			}
		}
		v.ledger.remove(d)
		if err := v.endNamings(t.Context(), "i"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if left, err := v.Sessions(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("after the doubt are left: %+v, %v", left, err)
		}
	})
}

// TestCloseSilencesNamings: a vault that is closed while a backup is in doubt puts no object more,
// which would be sealed under no key.
func TestCloseSilencesNamings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := memoryVault(t)
		n, err := v.Name(t.Context(), hostOptions("a", "i"))
		if err != nil {
			t.Fatal(err)
		}
		v.ledger.add(&doubt{backup: BackupRef{Instance: "i", ID: "b", Seq: 1}})
		if err := n.End(t.Context()); err != nil {
			t.Fatal(err)
		}
		v.Close()
		time.Sleep(time.Hour)
		stand, _, err := v.listSessions(t.Context(), "")
		if err != nil || len(stand) != 1 || v.sessionOf(stand[0]) != n.s.id {
			t.Errorf("after Close stand %v, %v", stand, err)
		}
	})
}

// TestNamingThatCouldNotBeStored: the naming is stored soon after the store takes it again, and a
// naming that is never stored leaves nothing to remove.
func TestNamingThatCouldNotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newScene(t)
		refuse := func(op, key string) error {
			if op == "put" && strings.Contains(key, "/sessions/") {
				return obs.ErrAccess
			}
			return nil
		}
		p.st.before = refuse
		var named []*Naming
		for _, id := range []string{"i", "j"} {
			n, err := p.paused.Name(t.Context(), hostOptions("a", id))
			if !errors.Is(err, obs.ErrAccess) || n == nil {
				t.Fatalf("naming %v, %v", n, err)
			}
			named = append(named, n)
		}
		if err := named[1].End(t.Context()); err != nil {
			t.Errorf("end of a naming that was never stored: %v", err)
		}
		time.Sleep(3*namingAgain + time.Second)
		p.st.mu.Lock()
		p.st.before = nil
		p.st.mu.Unlock()
		time.Sleep(namingAgain)
		if got := busy(t, p.v, "b", "i", "j"); got != "[i on a]" {
			t.Errorf("b sees %s", got)
		}
		if err := named[0].End(t.Context()); err != nil || len(p.left("sessions")) > 0 {
			t.Errorf("end: %v; left: %q", err, p.left("sessions"))
		}
	})
}

// TestNamedBesideADamagedCollector: the session of a collector names no instance, so a damaged one
// stops no look of another host. Any other damaged session does.
func TestNamedBesideADamagedCollector(t *testing.T) {
	p := newScene(t)
	p.damage(pruneSuffix)
	if got := busy(t, p.v, "b", "i"); got != "[]" {
		t.Errorf("b sees %s", got)
	}
	p.damage("")
	if _, err := p.v.Elsewhere(t.Context(), "identity of b", time.Hour, "i"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("beside a damaged session: %v", err)
	}
}

// TestElsewhereOfASilentHost: claims and backups of a host that gives no sign of life are not
// told, and a clock of this host that is wrong hides a host at worst.
func TestElsewhereOfASilentHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := memoryVault(t)
		_, err := v.Claim(t.Context(), ClaimOptions{Instance: "i", Host: "a", Identity: "identity of a", Job: "j", Reason: "because"})
		if err != nil {
			t.Fatal(err)
		}
		n, err := v.Name(t.Context(), hostOptions("a", "j"))
		if err != nil {
			t.Fatal(err)
		}
		_ = n.silence() // as if the host were gone
		look := func(silence time.Duration) string {
			t.Helper()
			found, err := v.Elsewhere(context.Background(), "identity of b", silence, "i", "j")
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(found.Claims["i"].Host, found.Writes["j"])
		}
		if got := look(time.Hour); got != "aa" {
			t.Errorf("at once: %q", got)
		}
		time.Sleep(59 * time.Minute)
		if got := look(time.Hour); got != "aa" {
			t.Errorf("within the silence: %q", got)
		}
		time.Sleep(2 * time.Minute)
		if got := look(time.Hour); got != "" {
			t.Errorf("after the silence: %q", got)
		}
		if got := look(0); got != "aa" {
			t.Errorf("where silence never ends a claim: %q", got)
		}
	})
}

// TestTakeOverNamesItsReason: the host whose claim is taken over finds its own claim
// in the other one, and why.
func TestTakeOverNamesItsReason(t *testing.T) {
	v := memoryVault(t)
	claim := func(host, reason string) {
		t.Helper()
		_, err := v.Claim(t.Context(), ClaimOptions{Instance: "i", Host: host, Identity: "identity of " + host, TakeOver: true, Reason: reason})
		if err != nil {
			t.Fatal(err)
		}
	}
	claim("a", "")
	claim("b", "a burnt down")
	found, err := v.Elsewhere(t.Context(), "identity of a", 0, "i")
	c := found.Claims["i"]
	if err != nil || c.Host != "b" || c.Reason != "a burnt down" || !v.TookOver(c, "identity of a") || v.TookOver(c, "identity of c") {
		t.Errorf("a sees %+v, %v", c, err)
	}
	if _, err := v.Claim(t.Context(), ClaimOptions{Instance: "i", Host: "a", Identity: "identity of a", Reason: string(make([]byte, MaxReason+1))}); err == nil {
		t.Error("a reason without a bound")
	}
}

// TestNamingGivesSignsOfLife: a backup that takes longer than the silence of
// other hosts is told to them all the time, and nothing is left in the end.
func TestNamingGivesSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := memoryVault(t)
		n, err := v.Name(t.Context(), hostOptions("a", "i"))
		if err != nil {
			t.Fatal(err)
		}
		for range 9 {
			time.Sleep(17 * time.Minute)
			if got := busy(t, v, "b", "i"); got != "[i on a]" {
				t.Errorf("b sees %s", got)
			}
		}
		if err := n.End(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if left, err := v.Sessions(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("left: %+v, %v", left, err)
		}
	})
}
