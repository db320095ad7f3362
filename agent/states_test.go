package agent_test

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent"
	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/hostid"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// command is the program that operators use, built once.
var command = sync.OnceValues(func() (string, error) {
	dir, err := testbed.SharedDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "holdfast")
	return path, testbed.Build(path, "holdfast/cmd/holdfast")
})

// stubborn is the verb of hosts whose instances refuse an
// act, or do not come back from it, while a file says so.
const stubborn = `#!/bin/sh
d="$1"
test -e "$d/refuse-$HOLDFAST_ACTION-$HOLDFAST_INSTANCE" && { echo "$HOLDFAST_ACTION is refused" >&2; exit 1; }
while test -e "$d/hang-$HOLDFAST_ACTION-$HOLDFAST_INSTANCE"; do sleep 0.1; done
`

// unbraked keeps a busy machine from being told of.
const unbraked = "brake: {cpu: 0, io: 0, memory: 0}\n"

// troubled are hosts each of which comes into the states that are named. With
// before they are changed before the start, with after they are brought there.
var troubled = []struct {
	name          string
	states        []string
	before, after func(t *testing.T, h *host)
}{
	{
		name: "files",
		states: []string{
			"journal_set_aside", "audit_set_aside", "hold_note_damaged", "tokens_broken", "client_certificates_broken", "certificate_expires", "certificate_broken",
			"drained",
		},
		before: func(t *testing.T, h *host) {
			h.lasts = time.Hour
			_, err := hostid.Load(h.in("state")) // of an earlier life
			must(t, err)
			h.certificate()
			h.write("state/journal.db", strings.Repeat("no journal", 5000), 0o600)
			h.write("audit/log", "no line of a log\n", 0o600)
			h.write("state/held/phone-1", "no note", 0o600)
			h.crl(t)
			h.cfg = strings.Replace(h.cfg, "cert_file: ", "client_ca_file: "+h.in("cert.pem")+", client_crl_file: "+h.in("crl.pem")+", cert_file: ", 1) +
				"audit: {file: " + h.in("audit/log") + "}\n"
		},
		after: func(t *testing.T, h *host) {
			must(t, h.operator().Drain(t.Context()))
			h.write("tokens", "no token\n", 0o600)
			h.write("crl.pem", "no list\n", 0o600)
			h.write("cert.key", "no key\n", 0o600)
		},
	},
	{
		name: "jobs",
		states: []string{
			"undo_fails", "release_fails", "act_fails", "report_refused", "event_refused", "instance_frozen", "reports_fail", "job_failed",
		},
		before: func(_ *testing.T, h *host) {
			h.cfg += "release: control-plane\n"
			h.more("phone-4", "phone-5", "phone-6")
		},
		after: func(t *testing.T, h *host) {
			h.plane.answer(func(e model.Event) int {
				switch {
				case e.Instance == "phone-3" && e.Type == "holdfast.backup.completed", e.Instance == "phone-4" && e.Type == "holdfast.backup.failed":
					return http.StatusUnprocessableEntity
				case e.Instance == "phone-5":
					return http.StatusServiceUnavailable
				}
				return http.StatusNoContent
			})
			h.write("phone-4.state", "missing\n", 0o600)
			for _, id := range []string{"phone-1", "phone-2", "phone-3", "phone-4", "phone-5", "phone-6"} {
				h.operate(t, id)
			}
			for _, id := range []string{"phone-1", "phone-2", "phone-6"} {
				h.stage(id, "acknowledged")
			}
			h.write("refuse-thaw-phone-1", "", 0o600)
			h.write("refuse-power_down-phone-2", "", 0o600)
			h.write("refuse-state-phone-6", "", 0o600)
			must(t, errors.Join(h.operator().Resume(t.Context(), "phone-1"), h.operator().Release(t.Context(), "phone-2"), h.operator().Release(t.Context(), "phone-6")))
		},
	},
	{
		name:   "turns",
		states: []string{"hold_turns_taken", "queue_full", "job_hangs"},
		before: func(_ *testing.T, h *host) {
			h.cfg = strings.Replace(h.cfg, "limits: {", "limits: {held: 1, jobs: 2, queue: 1, ", 1) + "hold: frozen\n"
			h.write("hang-freeze-phone-1", "", 0o600)
			t := h.t
			t.Cleanup(func() { _ = os.Remove(h.in("hang-freeze-phone-1")) })
		},
		after: func(t *testing.T, h *host) {
			h.operate(t, "phone-1")
			h.stage("phone-1", "freezing")
			h.operate(t, "phone-2")
			h.operate(t, "phone-3")
		},
	},
	{
		name:   "disk",
		states: []string{"journal_not_writable", "audit_fails", "store_fails", "iam_away"},
		before: func(t *testing.T, h *host) {
			disk := testbed.Tmpfs(t, "size=32m")
			h.cfg = strings.Replace(h.cfg, "state_dir: "+h.in("state"), "state_dir: "+disk+"/state", 1) + "audit: {file: " + disk + "/audit}\n" +
				"iam: {url: \"http://127.0.0.1:1/v3\"}\n"
			h.disk = disk
		},
		after: func(t *testing.T, h *host) {
			h.tokens["unknown"] = "token-that-no-file-has"
			h.call(http.MethodGet, "/v1/agent/info", "unknown", "r0", "")
			must(t, os.Rename(h.in("store"), h.in("away")))
			h.operate(t, "phone-1")
			h.eventually("the store is missed", func() bool { return strings.Contains(h.logs.String(), "the store's folder is not there") })
			fill(t, h.disk)
			h.eventually("the agent is not ready, and commands are not audited", func() bool {
				_, _ = h.operator().Backup(t.Context(), fmt.Sprint(time.Now().UnixNano(), strings.Repeat("-", 100)), []string{"phone-2"})
				status, _ := h.get("/readyz")
				return status == http.StatusServiceUnavailable && strings.Contains(h.logs.String(), "a command is not in the audit log")
			})
		},
	},
	{
		name:   "volumes",
		states: []string{"backup_old", "room_short", "leftover_stays"},
		before: func(t *testing.T, h *host) {
			h.disk = testbed.Tmpfs(t, "size=32m")
			h.cfg = strings.Replace(h.cfg, "limits: {", "limits: {backup_age: 1s, ", 1)
			h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-2"), "path: "+h.disk+"/phone-2", 1)
			must(t, errors.Join(os.Mkdir(h.disk+"/phone-2", 0o755), os.WriteFile(h.disk+"/phone-2/file", make([]byte, 1<<20), 0o600)))
			h.btrfs = testbed.Btrfs(t)
			h.volumeOn(h.btrfs, false, []byte("content"))
		},
		after: func(t *testing.T, h *host) {
			h.operate(t, "phone-2")
			h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-2") != nil })
			fill(t, h.disk)
			h.plane.answer(func(model.Event) int { return http.StatusServiceUnavailable })
			h.operate(t, "phone-1")
			h.stage("phone-1", "reported")
			must(t, unix.Mount("", h.btrfs, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			h.plane.answer(nil)
		},
	},
	{
		name:   "kept",
		states: []string{"kept_stays", "kept_room_short"},
		before: func(t *testing.T, h *host) {
			h.disk = testbed.Tmpfs(t, "size=32m,mode=0755")
			h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-2"), "path: "+h.disk+"/phone-2", 1)
			must(t, errors.Join(os.MkdirAll(h.disk+"/phone-2/folder", 0o755), os.WriteFile(h.disk+"/phone-2/file", make([]byte, 1<<20), 0o600)))
			h.forgets("phone-2")
		},
		after: func(t *testing.T, h *host) {
			h.prepared("phone-2")
			kept, err := filepath.Glob(h.disk + "/.holdfast-kept-*-data")
			if err != nil || len(kept) != 1 {
				t.Fatalf("kept: %q, %v", kept, err)
			}
			must(t, unix.Mount("none", kept[0]+"/folder", "tmpfs", 0, ""))
			if err := h.operator().RemoveKept(t.Context(), "phone-2", ""); err == nil || !strings.Contains(err.Error(), "is mounted") {
				t.Errorf("remove: %v", err)
			}
			fill(t, h.disk)
		},
	},
	{
		name:   "retention",
		states: []string{"retention_asks", "prune_fails"},
		before: func(_ *testing.T, h *host) { h.cfg += "retention: {max_share: 1, rules: [{keep_last: 1}]}\n" },
		after: func(t *testing.T, h *host) {
			for _, id := range []string{"phone-1", "phone-3"} { // which makes the vaults
				h.operate(t, id)
				h.eventually(id+" is released", func() bool { return h.plane.took("holdfast.instance.released", id) != nil })
			}
			h.chain(3, "gone-1")
			folder := filepath.Dir(filepath.Dir(filepath.Dir(h.inStore("*/backups/phone-3/*"))))
			must(t, os.MkdirAll(folder+"/holds", 0o755))
			must(t, os.WriteFile(folder+"/holds/"+strings.Repeat("a", 32), []byte("no hold"), 0o600))
			for _, tenant := range []string{"acme", "other"} {
				_, err := h.operator().Prune(t.Context(), "", tenant, api.PruneCommand{})
				must(t, err)
			}
		},
	},
	{
		name:   "address",
		states: []string{"listen_fails"},
		before: func(_ *testing.T, h *host) {
			// of no host
			h.cfg = strings.Replace(h.cfg, "\nlisten: 127.0.0.1:0", "\nlisten: 192.0.2.1:8443", 1)
		},
		after: func(*testing.T, *host) {},
	},
	{
		name:   "gone",
		states: []string{"backup_gone"},
		before: func(_ *testing.T, h *host) {
			h.cfg = strings.Replace(h.cfg, "limits: {", "limits: {verified_within: 0s, ", 1) + "release: control-plane\n"
		},
		after: func(t *testing.T, h *host) {
			h.operate(t, "phone-1")
			h.stage("phone-1", "acknowledged")
			must(t, os.Rename(h.inStore("*/backups/phone-1/*"), h.in("aside")))
			must(t, h.operator().Release(t.Context(), "phone-1"))
			h.stage("phone-1", "held")
			if out := h.status(t); strings.Contains(out, "report_refused") {
				t.Errorf("nobody refused a report:\n%s", out)
			}
		},
	},
	{
		name:   "fork",
		states: []string{"fork_undecided", "claimed_elsewhere"},
		before: func(*testing.T, *host) {},
		after: func(t *testing.T, h *host) {
			// another host made one before this one makes its
			// first, and did not get its content from here
			h.operate(t, "phone-2") // makes the vault
			h.eventually("phone-2 is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-2") != nil })
			h.otherHost("what another host has", 0)
			h.operate(t, "phone-1")
			h.stage("phone-1", "acknowledged")
			_, err := h.inVault().Claim(t.Context(), vault.ClaimOptions{Instance: "phone-1", Host: "host-9", Identity: "another", Job: "j"})
			must(t, err)
			h.agent.PassClaims(t.Context())
		},
	},
	{
		name:   "configuration",
		states: []string{"instance_not_configured"},
		before: func(t *testing.T, h *host) {
			whole := h.cfg
			h.cfg += "release: control-plane\n"
			h.start()
			h.operate(t, "phone-1")
			h.stage("phone-1", "acknowledged")
			h.stop()
			at := strings.Index(whole, "- id: phone-1")
			next := strings.Index(whole[at+1:], "- id: ")
			if next < 0 {
				next = len(whole) - at - 1
			}
			h.cfg = whole[:at] + whole[at+1+next:]
		},
		after: func(*testing.T, *host) {},
	},
	{
		name:   "changes",
		states: []string{"configuration_changed", "record_unknown"},
		before: func(t *testing.T, h *host) {
			h.cfg += "release: control-plane\n"
			h.start()
			for _, id := range []string{"phone-1", "phone-2"} {
				h.operate(t, id)
				h.stage(id, "acknowledged")
			}
			h.stop()
			h.cfg = strings.Replace(h.cfg, "volumes/phone-2,", "volumes/elsewhere,", 1)
			h.strange(t, "phone-1")
		},
		after: func(*testing.T, *host) {},
	},
	{
		name:   "recovery",
		states: []string{"recovery_blocked"},
		before: func(t *testing.T, h *host) {
			h.cfg += "hold: frozen\n"
			h.write("hang-freeze-phone-1", "", 0o600)
			h.start()
			h.operate(t, "phone-1")
			h.stage("phone-1", "freezing")
			// The state folder as a power cut leaves it.
			must(t, os.CopyFS(h.in("state-2"), os.DirFS(h.in("state"))))
			must(t, os.Remove(h.in("hang-freeze-phone-1")))
			h.stop()
			_, err := agent.Adopt(h.in("state-2"), false) // its place is another one
			must(t, err)
			h.cfg = strings.Replace(h.cfg, "state_dir: "+h.in("state"), "state_dir: "+h.in("state-2"), 1)
			h.write("hang-state-phone-1", "", 0o600)
			t.Cleanup(func() { _ = os.Remove(h.in("hang-state-phone-1")) })
			h.waits = true
		},
		after: func(*testing.T, *host) {},
	},
	{
		name:   "copied",
		states: []string{"host_copied"},
		before: func(t *testing.T, h *host) {
			h.start()
			h.stop()
			h.copyState("state-2")
			h.cfg = strings.Replace(h.cfg, "state_dir: "+h.in("state"), "state_dir: "+h.in("state-2"), 1)
		},
		after: func(*testing.T, *host) {},
	},
}

// TestStates brings hosts into each state of STATES.md, and wants the command line
// to name it with its remedy, and its alert to fire on the metrics of that very
// host. It stands for the promise that no state in which a human must act is silent.
func TestStates(t *testing.T) {
	testbed.Need(t, "root", "promtool", "btrfs")
	rows := documented(t)
	calm := newHost(t)
	calm.cfg += unbraked
	calm.start()
	calm.settled(t)
	if out := calm.status(t); strings.Contains(out, "trouble ") {
		t.Errorf("on a host on which all is well:\n%s", out)
	}
	before := calm.page(t)
	rules := alertTest{before: before}
	rules.add("all is well", before, nil)
	calm.stop()
	var covered []string
	for _, c := range troubled {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.write("verb", stubborn+strings.TrimPrefix(verb, "#!/bin/sh\n"), 0o700)
			h.cfg = strings.NewReplacer("runtime: {exec: {", "runtime: {exec: {timeout: 10m, ", "drain_timeout: 5s", "drain_timeout: 1s").Replace(h.cfg) + unbraked
			c.before(t, h)
			if h.waits {
				h.launch()
			} else {
				h.start()
			}
			h.agent.ShowAtOnce()
			c.after(t, h)
			for _, state := range c.states {
				row, ok := rows[state]
				if !ok {
					t.Errorf("STATES.md has no state %s", state)
					continue
				}
				shown := regexp.MustCompile(`(?m)^trouble +` + state + `\b.*, for \d.*: .+\nhint +` + regexp.QuoteMeta(row.hint))
				out := ""
				h.eventually("`holdfast status` names "+state, func() bool { out = h.status(t); return shown.MatchString(out) })
				h.eventually("the metrics have "+state, func() bool {
					p := h.page(t)
					return p[`holdfast_troubles{name="`+state+`"}`] > 0 && p[`holdfast_trouble_seconds{name="`+state+`"}`] > 0
				})
			}
			rules.add(c.name, h.page(t), rows.alerts(c.states))
			h.free()
			h.stop()
		})
		covered = append(covered, c.states...)
	}
	for state := range rows {
		if !slices.Contains(covered, state) {
			t.Errorf("no host is brought into the state %s", state)
		}
	}
	if !t.Failed() {
		rules.run(t)
	}
}

// TestUndoFailsIsSeenEverywhere: an instance that can't be let go shows with its reason in the list
// of jobs, in the stream of its task and in the control plane's queries, and to no other tenant.
func TestUndoFailsIsSeenEverywhere(t *testing.T) {
	h := newHost(t)
	h.write("verb", stubborn+strings.TrimPrefix(verb, "#!/bin/sh\n"), 0o700)
	h.cfg += "release: control-plane\n"
	h.start()
	task := h.backup("acme", "r1", "phone-1")
	h.stage("phone-1", "acknowledged")
	h.write("refuse-thaw-phone-1", "", 0o600)
	must(t, h.operator().Resume(t.Context(), "phone-1"))
	jobs, err := command()
	must(t, err)
	h.eventually("WHY", func() bool {
		out, err := exec.Command(jobs, "jobs", "--socket", h.in("s")).CombinedOutput()
		return err == nil && strings.Contains(string(out), "thaw is refused")
	})
	seen := errors.New("seen")
	err = h.operator().Watch(t.Context(), task, func(e api.Event) error {
		if e.Type == api.EventWarning && strings.Contains(e.Message, "thaw is refused") {
			return seen
		}
		return nil
	})
	if !errors.Is(err, seen) {
		t.Errorf("the stream of the task ended with %v", err)
	}
	a := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "acme", "r2", "")
	if !strings.Contains(string(a.Data), "resuming, which fails and is tried again: let go of the instance") || strings.Contains(string(a.Data), h.dir) {
		t.Errorf("the tenant is told %s", a.Data)
	}
	if a := h.call(http.MethodGet, "/v1/agent/info", "acme", "r3", ""); strings.Contains(string(a.Data), "undo_fails") {
		t.Errorf("a tenant is told of the host: %s", a.Data)
	}
	must(t, os.Remove(h.in("refuse-thaw-phone-1")))
	h.eventually("it runs, and nothing is in trouble", func() bool {
		info, err := h.operator().Info(t.Context())
		return err == nil && info.Trouble("undo_fails") == nil && h.state("phone-1") == "running"
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *host) operator() *api.Client { return api.NewClient(h.in(cmp.Or(h.socket, "s"))) }

// operate commands a backup as an operator does.
func (h *host) operate(t *testing.T, id string) {
	t.Helper()
	_, err := h.operator().Backup(t.Context(), "request-"+id, []string{id})
	must(t, err)
}

// stage waits until the unfinished job of the instance is in a state.
func (h *host) stage(id, stage string) {
	h.t.Helper()
	h.eventually(id+" is "+stage, func() bool {
		jobs, err := h.operator().Jobs(h.t.Context(), api.JobFilter{InstanceID: id, Active: true})
		return err == nil && len(jobs) == 1 && jobs[0].Stage == stage
	})
}

// settled waits until the disks and volumes of the host were looked at.
func (h *host) settled(t *testing.T) {
	t.Helper()
	h.eventually("the volumes were looked at", func() bool {
		list, err := h.operator().Instances(t.Context())
		return err == nil && len(list) > 0 && list[0].Volumes[0].Means != ""
	})
}

// more adds instances of the tenant acme.
func (h *host) more(ids ...string) {
	at := strings.Index(h.cfg, "  - id: phone-1\n")
	end := at + strings.Index(h.cfg[at:], "snapshot: freeze}]\n") + len("snapshot: freeze}]\n")
	for _, id := range ids {
		h.write(id+".state", "running\n", 0o600)
		h.write(filepath.Join("volumes", id, "data", "file"), "what "+id+" holds", 0o640)
		h.cfg = h.cfg[:end] + strings.ReplaceAll(h.cfg[at:end], "phone-1", id) + h.cfg[end:]
	}
}

// crl makes a revocation list of the host's own certificate, which revokes nobody.
func (h *host) crl(t *testing.T) {
	t.Helper()
	read := func(name string) []byte {
		text, err := os.ReadFile(h.in(name))
		must(t, err)
		block, _ := pem.Decode(text)
		return block.Bytes
	}
	cert, err := x509.ParseCertificate(read("cert.pem"))
	must(t, err)
	key, err := x509.ParsePKCS8PrivateKey(read("cert.key"))
	must(t, err)
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	der, err := x509.CreateRevocationList(rand.Reader, template, cert, key.(crypto.Signer))
	must(t, err)
	h.write("crl.pem", string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})), 0o600)
}

// fill writes until the disk is full.
func fill(t *testing.T, disk string) {
	t.Helper()
	f, err := os.Create(filepath.Join(disk, "filler"))
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// free lets what hangs go on, so that the host can stop.
func (h *host) free() {
	for _, pattern := range []string{"hang-*", "refuse-*"} {
		found, _ := filepath.Glob(h.in(pattern))
		for _, file := range found {
			_ = os.Remove(file)
		}
	}
	if h.disk != "" {
		_ = os.Remove(filepath.Join(h.disk, "filler"))
	}
	if h.btrfs != "" {
		_ = unix.Mount("", h.btrfs, "", unix.MS_REMOUNT, "")
	}
}

// status is the command line's text about the host.
func (h *host) status(t *testing.T) string {
	t.Helper()
	program, err := command()
	must(t, err)
	out, err := exec.CommandContext(t.Context(), program, "status", "--socket", h.in("s")).CombinedOutput()
	if err != nil {
		t.Fatalf("holdfast status: %v: %s", err, out)
	}
	return string(out)
}

// get asks the listener for metrics and health.
func (h *host) get(path string) (int, string) {
	h.t.Helper()
	resp, err := http.Get("http://" + h.agent.MetricsAddr() + path)
	must(h.t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(h.t, err)
	return resp.StatusCode, string(body)
}

// page is the agent's own metrics, by series; what histograms are made of is left out.
func (h *host) page(t *testing.T) map[string]float64 {
	t.Helper()
	_, text := h.get("/metrics")
	series := map[string]float64{}
	for _, line := range regexp.MustCompile(`(?m)^(holdfast_\w+(?:\{.*\})?) (\S+)$`).FindAllStringSubmatch(text, -1) {
		var value float64
		if _, err := fmt.Sscan(line[2], &value); err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`_(bucket|sum|count)\b`).MatchString(line[1]) {
			series[line[1]] = value
		}
	}
	if len(series) < 50 {
		t.Fatalf("only %d series: %s", len(series), text)
	}
	return series
}

// TestRecoveringLifeSaysSo: a start that only recovers, because of a fault,
// tells its work and the thing that it waits for. Nobody has drained it.
func TestRecoveringLifeSaysSo(t *testing.T) {
	h := newHost(t)
	h.cfg += unbraked + "release: control-plane\n"
	h.start()
	h.operate(t, "phone-1")
	h.stage("phone-1", "acknowledged")
	h.stop()
	h.faulty = true
	h.start()
	h.agent.ShowAtOnce()
	info, err := h.operator().Info(t.Context())
	must(t, err)
	if trouble := info.Trouble("recovery_blocked"); trouble == nil || !strings.Contains(trouble.Error, "has a fault") || info.Trouble("drained") != nil {
		t.Errorf("it tells of %+v", info.Troubles)
	}
	must(t, h.operator().Resume(t.Context(), "phone-1"))
	h.eventually("the instance runs", func() bool { return h.state("phone-1") == "running" })
}
