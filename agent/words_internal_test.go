package agent

import (
	"strings"
	"testing"

	"holdfast/agent/config"
	"holdfast/agent/model"
)

// A tenant reads why its job failed, and nothing of how the host and its store are built.
func TestTenantWords(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://gatekeeper:3128")
	cfg := &config.Config{HostID: "rack-seven", KeyFile: "/etc/my keys/host key.pem", StateDir: "/var/lib/holdfast"}
	cfg.Store.URL = "s3://fleet-bucket/deep prefix?region=r&endpoint=https://minio:9000"
	cfg.Report.URL = "https://plane/reports"
	a := &Agent{cfg: cfg}
	for reason, want := range map[string]string{
		"cancelled on request": "cancelled on request",
		"the job took as long as the configuration allows (12h0m0s)":              "the job took as long as the configuration allows (12h0m0s)",
		"make a snapshot: volume \"data\": no space left on device":               "make a snapshot: volume \"data\": no space left on device",
		"back up: open vault: no vault at s3://fleet-bucket/x":                    "back up: open vault: …" + cutWords,
		"back up: read key: open /etc/my keys/host key.pem: permission denied":    "back up: read key: …: permission denied" + cutWords,
		"the tenant has no vault; make it with `holdfast vault create --store x`": "…" + cutWords,
		"back up: dial tcp: lookup minio: no such host":                           "back up: dial tcp: …: no such host" + cutWords,
		"back up: proxyconnect tcp: lookup gatekeeper: no such host":              "back up: proxyconnect tcp: …: no such host" + cutWords,
		"back up: dial tcp 10.1.2.3:9000: connect: refused":                       "back up: …: connect: refused" + cutWords,
		"back up: the key AKIA4XYZ7PQRS2 is not known":                            "back up: …" + cutWords,
		"back up: bucket Fleet-Bucket: access denied":                             "back up: …: access denied" + cutWords,
		"back up: object 0123456789abcdef0123: gone":                              "back up: …: gone" + cutWords,
		"power down: connect to unix socket docker.sock: refused":                 "power down: …: refused" + cutWords,
		"sign the receipt: rack-seven has no key":                                 "sign the receipt: …" + cutWords,
		"": "",
	} {
		if got := a.forTenant(reason); got != want {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
		j := &model.Job{Cause: reason}
		if got := a.cause(model.Caller{Role: model.RoleOperator}, j); got != reason {
			t.Errorf("an operator reads %q of %q", got, reason)
		}
		if got := a.cause(model.Caller{Role: model.RoleControlPlane, Tenant: "acme"}, j); got != want {
			t.Errorf("a control plane of one tenant reads %q of %q", got, reason)
		}
		data := `{"job_id":"j","reason":` + quoted(reason) + `}`
		if got := string(a.dataForTenant([]byte(data))); !strings.Contains(got, quoted(want)) || !strings.Contains(got, `"job_id":"j"`) {
			t.Errorf("event %s becomes %s", data, got)
		}
	}
}

func quoted(text string) string { return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"` }
