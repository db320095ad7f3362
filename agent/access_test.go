package agent_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/internal/testbed"
)

// TestIAMSaysWhoCalls serves tenants whose tokens a real Keystone
// knows, and nobody new while it is away.
func TestIAMSaysWhoCalls(t *testing.T) {
	k := testbed.StartKeystone(t)
	red, blue := k.Project("red"), k.Project("blue")
	alice := k.User("alice", "a", red, "member")
	k.User("bob", "b", blue, "member")
	k.User("plane", "p", blue, "admin")
	h := newHost(t)
	h.cfg = strings.NewReplacer("tenant: acme", "tenant: "+red, "tenant: other", "tenant: "+blue).Replace(h.cfg) +
		"iam: {url: '" + k.URL + "', roles: {admin: read-only}}\n"
	h.start()
	h.tokens["alice"], h.tokens["bob"], h.tokens["plane"] = k.Token("alice", "a", "red"), k.Token("bob", "b", "blue"), k.Token("plane", "p", "blue")
	h.tokens["late"], h.tokens["made-up"] = k.Token("alice", "a", "red"), "gAAAAAB-made-up"
	backup := func(who, body string) answer {
		return h.call(http.MethodPost, "/v1/instances/backup", who, "r-"+who, body)
	}
	away := 0 // answers that IAM is
	for _, tt := range []struct{ who, body, code string }{
		{"alice", `{"instance_ids":["phone-3"]}`, api.CodeNoPermission}, // of another project
		{"alice", `{"user_id":"` + alice + `","instance_ids":["phone-1"]}`, api.CodeOK},
		{"bob", `{"instance_ids":["phone-1"]}`, api.CodeNoPermission},
		{"bob", `{"user_id":"` + alice + `","instance_ids":["phone-3"]}`, api.CodeParameter},
		{"plane", `{"instance_ids":["phone-3"]}`, api.CodeNoPermission}, // may only see
		{"made-up", `{"instance_ids":["phone-1"]}`, api.CodeNoTenant},
		{"", `{"instance_ids":["phone-3"]}`, api.CodeOK}, // a static token, beside
	} {
		a := backup(tt.who, tt.body)
		// Keystone takes more than ten seconds on a host that is busy enough
		for ; a.Code == api.CodeAuthAway && away < 5; away++ {
			a = backup(tt.who, tt.body)
		}
		if a.Code != tt.code {
			t.Errorf("%s %s: %+v, want %s", tt.who, tt.body, a, tt.code)
		}
	}

	k.Stop()
	if a := backup("late", `{"instance_ids":["phone-1"]}`); a.Status != 500 || a.Code != api.CodeAuthAway || a.Header.Get("Retry-After") == "" {
		t.Errorf("IAM is away, and the token new: %+v", a)
	}
	if a := h.call(http.MethodGet, "/v1/agent/info", "alice", "r", ""); a.Code != api.CodeOK {
		t.Errorf("IAM is away, and the token known: %+v", a)
	}
	h.metrics(`holdfast_iam_lookups_total{outcome="refused"} 1`, `holdfast_iam_lookups_total{outcome="valid"} 3`,
		fmt.Sprintf(`holdfast_iam_lookups_total{outcome="unavailable"} %d`, away+1),
		fmt.Sprintf(`holdfast_api_requests_total{code="HOLDFAST.API.9001"} %d`, away+1))
	for who, token := range h.tokens {
		if strings.Contains(h.logs.String(), token) {
			t.Errorf("the token of %q is in the log", who)
		}
	}
}

// TestCertificateSaysWhoCalls commands with a certificate and no token.
func TestCertificateSaysWhoCalls(t *testing.T) {
	h := newHost(t)
	h.lasts = time.Hour
	h.certificate()
	h.cfg = strings.Replace(h.cfg, "cert.key}", "cert.key, client_ca_file: "+h.in("cert.pem")+", clients: [{name: host-1, role: control-plane, tenant: acme}]}", 1)
	h.start()
	pair, err := tls.LoadX509KeyPair(h.in("cert.pem"), h.in("cert.key"))
	if err != nil {
		t.Fatal(err)
	}
	if a := h.call(http.MethodGet, "/v1/agent/info", "acme", "r", ""); a.Code != api.CodeOK {
		t.Errorf("a token and no certificate: %+v", a)
	}
	h.client.Transport.(*http.Transport).CloseIdleConnections()
	h.client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{pair}
	for id, code := range map[string]string{"phone-1": api.CodeOK, "phone-3": api.CodeNoPermission} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+h.agent.Addr()+"/v1/instances/backup", strings.NewReader(`{"instance_id":"`+id+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Request-Id", id)
		resp, err := h.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var a answer
		err = json.NewDecoder(resp.Body).Decode(&a)
		if resp.Body.Close(); err != nil || a.Code != code {
			t.Errorf("%s: %+v, %v", id, a, err)
		}
	}
	if a := h.call(http.MethodPost, "/v1/instances/backup", "other", "r3", `{"instance_id":"phone-1"}`); a.Code != api.CodeNoPermission {
		t.Errorf("another tenant's token over the same connection: %+v", a)
	}
	if !strings.Contains(h.logs.String(), "certificate expires soon") {
		t.Error("a certificate of an hour is not warned of")
	}
}
