package config_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/agent/config"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// minimal is the least that parses.
const minimal = `
host_id: h1
listen: ""
store: {url: file:///backups, name_key_file: /k/name}
key_file: /k/host
signing_key_file: /k/sign
report: {url: "https://control.example.com/r"}
`

func TestExampleParses(t *testing.T) {
	c, err := config.Parse(config.Example, "example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Instances) != 3 || c.Instances[1].Release != config.ReleaseControlPlane || c.Instances[0].Tenant != "1008600000104285462" {
		t.Errorf("instances: %+v", c.Instances)
	}
}

// Each commented line of the example is the default, word for word: with
// the comment signs gone it parses to the same limits, log and addresses.
func TestExampleShowsDefaults(t *testing.T) {
	var lines []string
	for line := range strings.Lines(string(config.Example)) {
		key := strings.TrimLeft(line, " ")
		for _, shown := range []string{
			"#state_dir", "#listen", "#socket", "#metrics_listen", "#release", "#memory", "#jobs", "#queue",
			"#frozen_deadline", "#job_deadline", "#drain_timeout", "#backup_age", "#store_patience", "#level", "#format", "#host", "#timeout", "#stop_timeout", "#snapshot:",
			"#up", "#down", "#requests", "#run", "#every", "#grace", "#max_share", "#max_garbage", "#sparse", "#prolong_locks", "#wait",
		} {
			if strings.HasPrefix(key, shown) {
				line = strings.Replace(line, "#", "", 1)
			}
		}
		lines = append(lines, line)
	}
	with, err := config.Parse([]byte(strings.Join(lines, "")), "x")
	if err != nil {
		t.Fatal(err)
	}
	without, err := config.Parse(config.Example, "x")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(without, with, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".src" }, cmp.Ignore())); diff != "" {
		t.Errorf("defaults differ from those shown (-default +shown):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	c, err := config.Parse([]byte(minimal+`
instances:
- id: a
  tenant: 42
  runtime:
    docker:
  volumes:
  - {name: data, path: /srv/a/../a/data/}
`), "x")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Instance{
		ID: "a", Tenant: "42", Release: "agent", Hold: "precopy",
		Runtime: config.Runtime{Docker: &config.Docker{
			Container: "a", Host: "unix:///var/run/docker.sock", Timeout: 30 * time.Second, StopTimeout: 10 * time.Second,
		}},
		Volumes: []config.Volume{{Name: "data", Path: "/srv/a/data", Snapshot: "auto"}},
	}
	if diff := cmp.Diff(want, c.Instances[0]); diff != "" {
		t.Error(diff)
	}
	if c.Limits.Memory != 256<<20 || c.Limits.JobDeadline != 12*time.Hour || c.Log.Level != "info" ||
		c.Compression != (config.Compression{Min: "fastest", Max: "default"}) || c.StateDir != "/var/lib/holdfast" {
		t.Errorf("defaults: %+v", c)
	}
}

// report is minimal with another setting of reports.
func report(setting string) string {
	const url = `"https://control.example.com/r"`
	return "=" + strings.Replace(minimal, url, url+", "+setting, 1)
}

// A config with five faults lists five.
func TestFiveFaults(t *testing.T) {
	const text = `host_id: h1
listen: ""
store:
  url: ftp://backups
  name_key_file: /k/name
key_file: /k/host
signing_key_file: /k/sign
report: {url: "https://control.example.com/r"}
limits:
  memory: lots
  job: 3
instances:
  - id: a
    tenant: t
    runtime: {none: {}}
    volumes:
      - name: data
        path: data
  - id: a
    tenant: t
    runtime: {none: {}}
    volumes: [{name: data, path: /srv/b}]
`
	_, err := config.Parse([]byte(text), "holdfast.yaml")
	want := `holdfast.yaml:4:8: store.url: the scheme must be one of file, s3, obs; got "ftp://backups"
holdfast.yaml:10:11: limits.memory: must be a size such as 256MiB, got "lots"
holdfast.yaml:11:3: limits.job: unknown key; known here: memory, jobs, queue, held, frozen_deadline, job_deadline, verified_within, backup_age, drain_timeout, store_patience, requests, connections
holdfast.yaml:18:15: instances[0].volumes[0].path: must be absolute, got "data"
holdfast.yaml:19:9: instances[1].id: "a" is the id of instances[0] already`
	if err == nil || err.Error() != want {
		t.Fatalf("got\n%v\nwant\n%s", err, want)
	}
	var faults *config.Faults
	if !errors.As(err, &faults) || len(faults.List) != 5 {
		t.Fatalf("not five faults: %#v", err)
	}
}

// Each text is added to the minimal file, or replaces it where it begins with "=".
func TestFaults(t *testing.T) {
	const inst = "instances:\n- id: a\n  tenant: t\n  runtime: {none: {}}\n  volumes:\n"
	for _, tt := range []struct{ name, text, want string }{
		{"empty file", "=", "x: store.url: is required"},
		{"syntax", "=a: [1, 2\nb: }", "syntax:"},
		{"scalar file", "=hello", `x:1:1: must be a mapping (key: value), got "hello"`},
		{"list file", "=- a", "x:1:1: must be a mapping (key: value), got a list"},
		{"two documents", "=host_id: a\n---\nhost_id: b\n", "a second document begins here"},
		{"not text", "=host_id: h\nlisten: \xff", "x:2:9: is not UTF-8 text"},
		{"too large", "=" + strings.Repeat("#", config.MaxFileBytes+1), "is larger than 1MiB"},
		{"deep", "=" + strings.Repeat("[", 100_000), "nests brackets deeper than 64"},
		{"key twice", "host_id: h2", "x:8:1: host_id: is given twice"},
		{"alias", "state_dir: &a /x\nsocket: *a", "x:9:9: socket: anchors, aliases and tags are not taken"},
		{"tag", "state_dir: !!str /x", "state_dir: anchors, aliases and tags are not taken"},
		{"merge key", "<<: {}", "x:8:1: <<: unknown key"},
		{"wrong type", "limits: 3", `limits: must be a mapping (key: value), got "3"`},
		{"list for text", "state_dir: [/a]", "state_dir: must be a single value, got a list"},
		{"text for list", "recipients: age1", `recipients: must be a list (- item), got "age1"`},
		{"truth for text", "state_dir: true", "state_dir: must be text, got the truth value true; put it in quotes"},
		{"text for truth", "vault: {auto_create: yes}", `vault.auto_create: must be true or false, got "yes"`},
		{"number", "limits: {jobs: 1.5}", `limits.jobs: must be a whole number, got "1.5"`},
		{"number range", "limits: {jobs: 0}", "limits.jobs: must be 1 to 256, got 0"},
		{"number huge", "limits: {queue: 99999999999999999999}", "limits.queue: must be a whole number"},
		{"duration without unit", "limits: {job_deadline: 30}", `limits.job_deadline: must be a time such as 30s or 1h30m, got "30"`},
		{"patience of none", "limits: {store_patience: 0s}", "limits.store_patience: must be longer than 0s, got 0s"},
		{"duration negative", "limits: {drain_timeout: -3s}", "limits.drain_timeout: must be longer than 0s, got -3s"},
		{"backup age negative", "limits: {backup_age: -1h}", "limits.backup_age: must be 0s or more, got -1h0m0s"},
		{"deadlines crossed", "limits: {frozen_deadline: 3h, job_deadline: 2h}", "limits.frozen_deadline: must not be longer than limits.job_deadline (2h0m0s), got 3h0m0s"},
		{"size decimal", "limits: {memory: 256MB}", `limits.memory: must be a size such as 256MiB, got "256MB"`},
		{"size small", "limits: {memory: 1MiB}", "limits.memory: must be 64MiB or more, got 1MiB"},
		{"size overflow", "limits: {memory: 9999999TiB}", "limits.memory: must be a size such as 256MiB"},
		{"relative", "state_dir: var/lib", `x:8:12: state_dir: must be absolute, got "var/lib"`},
		{"long socket", "socket: /" + strings.Repeat("s", 120), "socket: is longer than the 107 bytes"},
		{"metrics to all", "metrics_listen: ':9477'", "metrics_listen: must be a loopback address such as 127.0.0.1:9477"},
		{"port name", "metrics_listen: '127.0.0.1:http'", `metrics_listen: the port must be a number up to 65535, got "http"`},
		{"no port", "metrics_listen: 127.0.0.1", `metrics_listen: must be host:port, got "127.0.0.1"`},
		{"host name", "metrics_listen: example.com:9477", `metrics_listen: the host must be an address, localhost or empty, got "example.com"`},
		{"release", "release: never", `release: must be one of agent, control-plane; got "never"`},
		{"compression", "compression: {min: best}", `compression.min: must be one of s2, fastest, default, better; got "best"`},
		{"compression crossed", "compression: {min: better}", `compression.max: must not be below compression.min, better; got default`},
		{"log level", "log: {level: loud}", `log.level: must be one of debug, info, warn, error; got "loud"`},
		{"recipient", "recipients: [bob]", `recipients[0]: must be an age recipient (age1...), got "bob"`},
		{"no recovery key", "vault: {auto_create: true}", "recipients: must name a recovery key where vault.auto_create is true"},
		{"instance id", strings.Replace(inst, "id: a", "id: ../a", 1) + "  - {name: d, path: /a}", `x:9:7: instances[0].id: must be 1 to 32`},
		{"instance id long", strings.Replace(inst, "id: a", "id: "+strings.Repeat("a", 33), 1) + "  - {name: d, path: /a}", `instances[0].id: must be 1 to 32`},
		{"no volume", inst + "  []", "instances[0].volumes: must list at least one volume"},
		{"empty item", "instances: [null]", "instances[0]: is empty"},
		{"volume name twice", inst + "  - {name: d, path: /a}\n  - {name: d, path: /b}", `x:14:12: instances[0].volumes[1].name: "d" is the name of volumes[0] already`},
		{"overlap", inst + "  - {name: d, path: /a/b}\n  - {name: e, path: /a}", `instances[0].volumes[0].path: "/a/b" overlaps instances[0].volumes[1].path (/a)`},
		{"overlap equal", inst + "  - {name: d, path: /a}\n  - {name: e, path: /a/}", `instances[0].volumes[1].path: "/a" overlaps instances[0].volumes[0].path (/a)`},
		{"overlap state", inst + "  - {name: d, path: /var/lib}", `instances[0].volumes[0].path: "/var/lib" overlaps state_dir (/var/lib/holdfast)`},
		{"overlap store", inst + "  - {name: d, path: /backups/a}", `instances[0].volumes[0].path: "/backups/a" overlaps the store (/backups)`},
		{"no runtime", strings.Replace(inst, "{none: {}}", "{}", 1) + "  - {name: d, path: /a}", "instances[0].runtime: must have exactly one of docker, exec, none; got 0"},
		{"two runtimes", strings.Replace(inst, "{none: {}}", "{none: {}, docker: {}}", 1) + "  - {name: d, path: /a}", "instances[0].runtime: must have exactly one of docker, exec, none; got 2"},
		{"none has no keys", strings.Replace(inst, "{none: {}}", "{none: {a: 1}}", 1) + "  - {name: d, path: /a}", "instances[0].runtime.none.a: unknown key; nothing is known here"},
		{"exec", strings.Replace(inst, "{none: {}}", "{exec: {freeze: [stop]}}", 1) + "  - {name: d, path: /a}", `instances[0].runtime.exec.freeze[0]: must be the absolute path of a program, got "stop"`},
		{"exec missing", strings.Replace(inst, "{none: {}}", "{exec: {}}", 1) + "  - {name: d, path: /a}", "instances[0].runtime.exec.power_down: is required"},
		{"docker host", strings.Replace(inst, "{none: {}}", "{docker: {host: here}}", 1) + "  - {name: d, path: /a}", `instances[0].runtime.docker.host: must be unix:///path or tcp://host:port, got "here"`},
		{"exclude of everything", inst + "  - {name: d, path: /a, exclude: [a, /]}", `instances[0].volumes[0].exclude[1]: pattern "/" matches the root of the volume and with it everything; name what lies below`},
		{"exclude without end", inst + "  - {name: d, path: /a, exclude: ['[a']}", "instances[0].volumes[0].exclude[0]: pattern \"[a\": a bracket or brace is not closed, or a backslash ends it; write \\[ or \\{ for the character itself"},
		{"losses everywhere", inst + "  - {name: d, path: /a, accept_losses: ['**']}", `instances[0].volumes[0].accept_losses[0]: pattern "**" matches the root of the volume and with it everything; name what lies below`},
		{"snapshot", inst + "  - {name: d, path: /a, snapshot: zfs}", `instances[0].volumes[0].snapshot: must be one of auto, btrfs, reflink, lvm-thin, lvm-classic, freeze, fsfreeze; got "zfs"`},
		{"listener without certificate", "=" + strings.Replace(minimal, `listen: ""`, "", 1), "tls.cert_file: is required"},
		{"IAM without TLS", "iam: {url: http://iam.example.com/v3}", "iam.url: must be https (http to a loopback address only)"},
		{"IAM with a password", "iam: {url: https://a:b@iam.example.com/v3}", "iam.url: must not hold credentials"},
		{"IAM without URL", "iam: {roles: {admin: operator}}", "iam.url: is required with the other settings of iam"},
		{"IAM, role", "iam: {url: https://iam/v3, roles: {admin: king}}", `iam.roles.admin: must be one of control-plane, operator, read-only; got "king"`},
		{"IAM, role twice", "iam: {url: https://iam/v3, roles: {admin: operator, admin: read-only}}", "iam.roles.admin: is given twice"},
		{"IAM, list of roles", "iam: {url: https://iam/v3, roles: [admin]}", "iam.roles: must be a mapping (name: value), got a list"},
		{"IAM, list as a role", "iam: {url: https://iam/v3, roles: {admin: [operator]}}", "iam.roles.admin: must be a mapping (key: value), got a list"},
		{"IAM, operator of everywhere", "iam: {url: https://iam/v3, roles: {admin: operator}}", "iam.roles.admin: an operator sees every tenant"},
		{"IAM, operator of everywhere, in full", "iam: {url: https://iam/v3, roles: {admin: {role: operator}}}", "iam.roles.admin: an operator sees every tenant"},
		{"IAM, operator of two", "iam: {url: https://iam/v3, roles: {admin: {role: operator, project: p, domain: d}}}", "iam.roles.admin.domain: only one of"},
		{"IAM, project that is none", "iam: {url: https://iam/v3, roles: {admin: {role: operator, project: 'a b'}}}", "iam.roles.admin.project: must be the id of a project"},
		{"IAM, empty role", "iam: {url: https://iam/v3, roles: {admin: {project: p}}}", "iam.roles.admin: must be one of"},
		{"a value left empty", "=" + strings.Replace(minimal, `listen: ""`, "listen:", 1), "listen: is left empty: leave the key out for its default"},
		{"a value of a section left empty", "limits: {jobs: }", "limits.jobs: is left empty"},
		{"byte order mark", "=\ufeff" + minimal, "begins with a byte order mark"},
		{"requests", "limits: {requests: 0}", "limits.requests: must be 1 to 100000, got 0"},
		{"connections", "limits: {connections: 3}", "limits.connections: must be 16 to 16384, got 3"},
		{"audit size", "audit: {max_size: 1KiB}", "audit.max_size: must be 1MiB or more, got 1KiB"},
		{"audit files", "audit: {keep: 0}", "audit.keep: must be 1 to 10000, got 0"},
		{"audit file", "audit: {file: a.log}", `audit.file: must be absolute, got "a.log"`},
		{"credential without systemd", "tokens_file: credential:tokens", "tokens_file: is a credential, but the service manager gave none"},
		{"credential of another folder", "tokens_file: credential:../tokens", "tokens_file: must be credential: and a name"},
		{"clients without authority", "tls: {clients: [{name: a, role: operator}]}", "tls.client_ca_file: is required with"},
		{"client without name", "tls: {client_ca_file: /a, clients: [{role: operator}]}", "tls.clients[0].name: must be a whole name"},
		{"client twice", "tls: {client_ca_file: /a, clients: [{name: a, role: operator}, {name: a, role: read-only}]}", `tls.clients[1].name: "a" is the name of clients[0]`},
		{"client of no role", "tls: {client_ca_file: /a, clients: [{name: a, role: tenant}]}", "tls.clients[0].role: must be one of"},
		{"operator of a tenant", "tls: {client_ca_file: /a, clients: [{name: a, role: operator, tenant: t}]}", "tls.clients[0].tenant: an operator sees every tenant"},
		{"client of a bad tenant", "tls: {client_ca_file: /a, clients: [{name: a, role: read-only, tenant: '../x'}]}", "tls.clients[0].tenant: must be 1 to 128"},
		{"listener without tokens", "=" + strings.Replace(minimal, `listen: ""`, "", 1), "tokens_file: is required"},
		{"report, acknowledge", report("acknowledge: always"), `report.acknowledge: must be one of control-plane, any-2xx; got "always"`},
		{"report, timeout", report("timeout: 500ms"), "report.timeout: must be 1s to 10m0s, got 500ms"},
		{"report, long timeout", report("timeout: 1h"), "report.timeout: must be 1s to 10m0s, got 1h0m0s"},
		{"report, progress", report("progress: 10ms"), "report.progress: must be 0 for none or 1s or more, got 10ms"},
		{"report, negative progress", report("progress: -1s"), "report.progress: must be 0 for none or 1s or more"},
		{"report, batch", report("batch: 0"), "report.batch: must be 1 to 1000, got 0"},
		{"IAM, lookups", "iam: {url: https://iam/v3, lookups: 0}", "iam.lookups: must be 1 to 10000, got 0"},
		{"report in the clear", "=" + strings.Replace(minimal, "https://control", "http://control", 1), "report.url: must be https (http to a loopback address only)"},
		{"store bucket", "=" + strings.Replace(minimal, "file:///backups", "s3:///prefix", 1), "store.url: must name a bucket"},
		{"store parameter", "=" + strings.Replace(minimal, "file:///backups", "s3://b?secret_key=hunter2", 1), `store.url: unknown parameter "secret_key"; known: endpoint, region, addressing`},
		{"store endpoint", "=" + strings.Replace(minimal, "file:///backups", "s3://b?endpoint=minio:9000", 1), `store.url: the endpoint must be http:// or https://host[:port], got "minio:9000"`},
		{"store region", "=" + strings.Replace(minimal, "file:///backups", "obs://b/p", 1), "store.url: needs ?region="},
		{"store relative", "=" + strings.Replace(minimal, "file:///backups", "file://backups/x", 1), "store.url: must be file:///absolute/path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text, whole := strings.CutPrefix(tt.text, "=")
			if !whole {
				text = minimal[1:] + "\n" + text // the addition begins in line 8
			}
			_, err := config.Parse([]byte(text), "x")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

// A password in a URL is named, not repeated.
func TestNoSecretInFaults(t *testing.T) {
	for _, u := range []string{"s3://key:hunter2@bucket/p", "ftp://key:hunter2@bucket/p", "s3://key:hunter2@bucket:x/%zz", "s3://b?password=hunter2", "s3://b?endpoint=https://k:hunter2@h"} {
		_, err := config.Parse([]byte(strings.Replace(minimal, "file:///backups", u, 1)), "x")
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]config.Size{"0B": 0, "512B": 512, "64KiB": 64 << 10, "3MiB": 3 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		got, err := config.ParseSize(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %d (%v), %v", text, got, got, err)
		}
	}
	for _, text := range []string{"", "12", "MiB", "-1MiB", "1.5GiB", "1GB", "1 gib", "9223372036854775807KiB"} {
		if got, err := config.ParseSize(text); err == nil {
			t.Errorf("%q: taken as %d", text, got)
		}
	}
}

func TestLoad(t *testing.T) {
	path := t.TempDir() + "/holdfast.yaml"
	if _, err := config.Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err != nil {
		t.Error(err)
	}
}

// Any bytes give a Config or a list of faults with places inside the file, and never a panic.
func FuzzParse(f *testing.F) {
	f.Add(config.Example)
	f.Add([]byte(minimal))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse(data, "x")
		if err == nil {
			if c.StateDir == "" || c.Store.URL == "" {
				t.Errorf("accepted an incomplete file: %+v", c)
			}
			return
		}
		var faults *config.Faults
		if !errors.As(err, &faults) || len(faults.List) == 0 {
			t.Fatalf("not Faults: %v", err)
		}
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1
		for _, fault := range faults.List {
			if fault.Line > lines || fault.Line < 0 || fault.Msg == "" {
				t.Errorf("fault at line %d of %d: %+v", fault.Line, lines, fault)
			}
		}
	})
}

// A secret may come from the service manager, and then stands where that says.
func TestCredentials(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/holdfast.service")
	c, err := config.Parse([]byte(strings.Replace(minimal, "\nkey_file: ", "\ntokens_file: credential:tokens\nkey_file: credential:host.key #", 1)), "x")
	if err != nil {
		t.Fatal(err)
	}
	if c.KeyFile != "/run/credentials/holdfast.service/host.key" || c.TokensFile != "/run/credentials/holdfast.service/tokens" {
		t.Errorf("%s, %s", c.KeyFile, c.TokensFile)
	}
}

// Whoever checks a configuration is told which answers acknowledge.
func TestNotesOfReports(t *testing.T) {
	for rule, words := range map[string]string{config.AcknowledgeControlPlane: "by status 204, or by 200 with", config.AcknowledgeAny2xx: "a welcome page does"} {
		c, err := config.Parse([]byte(report("acknowledge: " + rule)[1:]), "x")
		if err != nil {
			t.Fatal(err)
		}
		if notes := c.Notes(); !strings.Contains(strings.Join(notes, "\n"), words) {
			t.Errorf("%s: %q", rule, notes)
		}
	}
}
