package agent_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/internal/hostid"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// inVault opens the vault of acme in the store of the host.
func (h *host) inVault() *vault.Vault {
	h.t.Helper()
	identity, err := vault.LoadIdentity(h.in("host.key"))
	must(h.t, err)
	_, folder, _ := strings.Cut(h.cfg, "file://")
	folder, _, _ = strings.Cut(folder, "\"")
	st, err := obs.Open(h.t.Context(), "file://"+folder, obs.Options{})
	must(h.t, err)
	v, err := vault.Open(h.t.Context(), st, "acme", []byte("a secret of the fleet"), identity)
	must(h.t, err)
	h.t.Cleanup(func() { v.Close(); _ = st.Close() })
	return v
}

// resumes lets phone-1 run that is held with its backup, and waits for the end of the job.
func (h *host) resumes() {
	h.t.Helper()
	must(h.t, h.operator().Resume(h.t.Context(), "phone-1"))
	h.eventually("phone-1 runs, and its job is over", func() bool {
		jobs, err := h.operator().Jobs(h.t.Context(), api.JobFilter{InstanceID: "phone-1", Active: true})
		return err == nil && len(jobs) == 0 && h.state("phone-1") == "running"
	})
}

// TestPrepareAnswersForOtherHosts: while another host backs an instance up, prepare is
// refused with the code of that and the name of the host, and nothing is accepted. An instance
// that runs here is ready all the same.
func TestPrepareAnswersForOtherHosts(t *testing.T) {
	h := newHost(t)
	h.start()
	h.runs("r1", "at first")
	h.released()
	v := h.inVault()
	n, err := v.Name(t.Context(), vault.SessionOptions{Host: "host-9", Identity: hostid.Identity{ID: "another"}, Instance: "phone-1"})
	must(t, err)
	if code, _, msg := h.prepares("p1"); code != api.CodeInBackup || !strings.Contains(msg, `instance "phone-1": host "host-9" is backing it up`) {
		t.Errorf("while host-9 backs it up: %s, %s", code, msg)
	}
	h.write("phone-1.state", "running\n", 0o600)
	if kind, done, reason := h.prepares("p2"); kind != "holdfast.restore.completed" || !strings.Contains(done.Warning, "host host-9 is backing up") {
		t.Errorf("an instance that runs: %s, %+v, %s", kind, done, reason)
	}
	h.write("phone-1.state", "stopped\n", 0o600)
	must(t, n.End(t.Context()))
	if kind, _, reason := h.prepares("p1"); kind != "holdfast.restore.completed" {
		t.Errorf("after that backup, by the same request id: %s, %s", kind, reason)
	}
}

// damagesASession puts a session of host-9 into the vault that does not open; mended removes it.
func (h *host) damagesASession() (mended func()) {
	h.t.Helper()
	v := h.inVault()
	sessions := func() map[string]bool {
		all := map[string]bool{}
		for info, err := range v.Store().List(h.t.Context(), v.Info().ID+"/sessions/") {
			must(h.t, err)
			all[info.Key] = true
		}
		return all
	}
	before := sessions()
	n, err := v.Name(h.t.Context(), vault.SessionOptions{Host: "host-9", Identity: hostid.Identity{ID: "another"}, Instance: "phone-9"})
	must(h.t, err)
	var damaged []string
	for key := range sessions() {
		if !before[key] {
			damaged = append(damaged, key)
			must(h.t, v.Store().Delete(h.t.Context(), key))
			must(h.t, v.Store().Put(h.t.Context(), key, []byte("damaged")))
		}
	}
	if len(damaged) != 1 {
		h.t.Fatalf("sessions of host-9: %v", damaged)
	}
	return func() { must(h.t, n.End(h.t.Context())) }
}

// TestClaimTakenOver: a host whose claim an operator gave to another host says so until that is
// over, also while a session in the vault does not open, and its next backup is a fork only where
// the other host stored one.
func TestClaimTakenOver(t *testing.T) {
	a := newHost(t)
	a.cfg += "release: control-plane\n"
	b := a.beside()
	b.cfg += "release: control-plane\n"
	a.start()
	b.start()
	first := a.runs("r1", "at first")
	a.resumes()
	if kind, _, reason := a.prepares("p1"); kind != "holdfast.restore.completed" {
		t.Fatalf("prepare on A: %s, %s", kind, reason)
	}
	claimed := func(h *host) bool {
		h.agent.PassClaims(t.Context())
		return strings.Contains(h.status(t), "claimed_elsewhere")
	}
	if claimed(a) {
		t.Error("A is told of its own claim")
	}
	ctx := t.Context()
	var refused *api.Error
	if _, err := b.operator().TakeOverClaim(ctx, "phone-1", "A burnt down", false); !errors.As(err, &refused) || refused.Code != api.CodeInRecovery {
		t.Errorf("A lives, and its claim is taken over: %v", err)
	}
	mended := a.damagesASession()
	if taken, err := b.operator().TakeOverClaim(ctx, "phone-1", "A burnt down", true); err != nil || len(taken) != 1 || taken[0].Host != "host-1" {
		t.Fatalf("takeover: %+v, %v", taken, err)
	}
	if _, err := b.operator().TakeOverClaim(ctx, "phone-1", "once more", true); !errors.As(err, &refused) || refused.Code != api.CodeParameter {
		t.Errorf("nobody else has a claim: %v", err)
	}
	list, err := a.operator().Claims(ctx, "phone-1")
	if err != nil || len(list) != 1 || list[0].Host != "host-2" || list[0].ThisHost || list[0].Reason != "A burnt down" || list[0].Took != 1 {
		t.Errorf("claims as A lists them: %+v, %v", list, err)
	}
	if !claimed(a) || !strings.Contains(a.status(t), "host host-2 took over the claim of this host") {
		t.Errorf("status of A:\n%s", a.status(t))
	}
	mended()
	if claimed(b) {
		t.Errorf("status of B, which never had the content:\n%s", b.status(t))
	}
	if again := a.runs("r2", "A goes on"); again.Parent != first.Backup || len(again.Fork) > 0 {
		t.Errorf("a backup while nobody else stored one: %+v", again)
	}
	must(t, a.operator().Release(ctx, "phone-1"))
	a.released()
	if claimed(a) {
		t.Errorf("status of A after the release:\n%s", a.status(t))
	}
}

// TestForkDecidedOnAnotherHost: two hosts hold backups of one fork. A decision on
// one of them reaches the other host, a release there stores no second decision, and a
// command for another backup is refused.
func TestForkDecidedOnAnotherHost(t *testing.T) {
	a := newHost(t)
	a.cfg += "release: control-plane\n"
	b := a.beside()
	b.cfg += "release: control-plane\n"
	a.start()
	b.start()
	a.runs("r1", "at first")
	a.resumes()
	if ofB := b.runs("r2", "what B did"); len(ofB.Fork) != 1 {
		t.Fatalf("the backup of B: %+v", ofB)
	}
	ofA := a.runs("r3", "what A did")
	if len(ofA.Fork) != 1 {
		t.Fatalf("the backup of A: %+v", ofA)
	}
	undecided := func(h *host) bool { return strings.Contains(h.status(t), "fork_undecided") }
	b.agent.LearnForks(t.Context())
	if !undecided(a) || !undecided(b) {
		t.Error("a fork of which nobody has decided is not told of")
	}
	must(t, a.operator().AcceptFork(t.Context(), "phone-1", "", false))
	b.agent.LearnForks(t.Context())
	if undecided(a) || undecided(b) {
		t.Errorf("status of B after the decision on A:\n%s", b.status(t))
	}
	var refused *api.Error
	if err := b.operator().AcceptFork(t.Context(), "phone-1", "", false); !errors.As(err, &refused) ||
		!strings.Contains(refused.Msg, "decided already: backup "+ofA.Backup+" counts, by an operator on host host-1") {
		t.Errorf("a second decision: %v", err)
	}
	for _, h := range []*host{b, a} {
		must(t, h.operator().Release(t.Context(), "phone-1"))
		h.released()
	}
	decisions, err := a.inVault().Decisions(context.Background(), "phone-1")
	if err != nil || len(decisions) != 1 || decisions[0].Backup != ofA.Backup {
		t.Errorf("decided %+v, %v", decisions, err)
	}
}

// TestLostJournalKeepsTheParent: after the journal is lost, the next backup
// names the last one of the volumes as its parent, by the marks on them: no fork where that is the
// newest, and a fork where it is not. A copy of the volume tells nothing.
func TestLostJournalKeepsTheParent(t *testing.T) {
	h := newHost(t)
	h.cfg += "release: control-plane\n"
	again := func(request, content string) completed {
		t.Helper()
		h.resumes()
		h.stop()
		must(t, os.Remove(h.in("state/journal.db")))
		if request == "of-a-copy" {
			data := h.in("volumes/phone-1")
			must(t, os.Rename(data, data+"-old"))
			if out, err := exec.Command("cp", "-a", data+"-old", data).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			must(t, os.RemoveAll(data+"-old"))
		}
		h.start()
		return h.runs(request, content)
	}
	h.start()
	first := h.runs("r1", "at first")
	second := again("r2", "later")
	if second.Parent != first.Backup || len(second.Fork) > 0 {
		t.Errorf("the mark names the newest backup %s: %+v", first.Backup, second)
	}
	other := h.otherHost("what another host has", 0)
	third := again("r3", "later still")
	if third.Parent != second.Backup || len(third.Fork) != 1 || third.Fork[0].Backup != other {
		t.Errorf("the mark names %s, and the newest is %s: %+v", second.Backup, other, third)
	}
	if fourth := again("of-a-copy", "a copy"); fourth.Parent != "" || len(fourth.Fork) == 0 {
		t.Errorf("a copy of the volume: %+v", fourth)
	}
}

// TestFailedPrepareLetsGo: a host with a new disk prepares an instance of which it made the last
// backup, and the restore fails. The host does not have the instance, so another host prepares it.
func TestFailedPrepareLetsGo(t *testing.T) {
	a := newHost(t)
	a.cfg += "release: control-plane\n"
	a.start()
	a.runs("r1", "at first")
	a.resumes()
	a.write("phone-1.state", "stopped\n", 0o600)
	must(t, os.RemoveAll(a.in("volumes/phone-1")))
	v := a.inVault()
	away := map[string][]byte{}
	for info, err := range v.Store().List(t.Context(), v.Info().ID+"/packs/") {
		must(t, err)
		object := make([]byte, info.Size)
		if _, err := v.Store().ReadAt(t.Context(), info.Key, object, 0); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		away[info.Key] = object
		must(t, v.Store().Delete(t.Context(), info.Key))
	}
	if kind, _, reason := a.prepares("p1"); kind != "holdfast.restore.failed" || len(away) == 0 {
		t.Fatalf("prepare without %d packs: %s, %s", len(away), kind, reason)
	}
	a.agent.PassClaims(t.Context())
	if left := a.claimsOn("phone-1"); len(left) > 0 {
		t.Errorf("claims after the prepare failed: %v", left)
	}
	for key, object := range away {
		must(t, v.Store().Put(t.Context(), key, object))
	}
	if kind, _, reason := a.prepares("p2"); kind != "holdfast.restore.completed" {
		t.Errorf("the next prepare: %s, %s", kind, reason)
	}
	a.agent.PassClaims(t.Context())
	if claims := a.claimsOn("phone-1"); len(claims) != 1 {
		t.Errorf("claims of the host that has the instance: %v", claims)
	}
}
