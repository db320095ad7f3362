package agent_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/api"
)

// TestNoSecretIsTold makes a host do all its work, and fail at some of it,
// and looks for its secrets in everything that it said and wrote for people,
// and in everything that it handed to the programs which it started.
func TestNoSecretIsTold(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-store")
	h := newHost(t)
	h.write("report.token", "secret-of-reports\n", 0o600)
	h.write("verb", strings.Replace(verb, "#!/bin/sh\n", "#!/bin/sh\n{ env; echo \"$@\"; } >>\"$1/handed\"\n", 1), 0o700)
	h.cfg = strings.Replace(h.cfg, "/reports\"}", "/reports\", token_file: "+h.in("report.token")+"}", 1) + "audit: {file: " + h.in("audit.log") + "}\n"
	h.start()
	h.tokens["made up"] = "made-up-secret"
	secrets := map[string]string{"of the store": "secret-of-the-store", "of reports": "secret-of-reports", "of the names": "a secret of the fleet"}
	for who, token := range h.tokens {
		secrets["token of "+who] = token
	}
	for _, file := range []string{"host.key", "signing.pem", "cert.key"} {
		b, err := os.ReadFile(h.in(file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); len(line) > 30 && !strings.HasPrefix(line, "-----") && !strings.HasPrefix(line, "#") {
				secrets[file] = line
			}
		}
	}
	if len(secrets) < 9 {
		t.Fatalf("only %d secrets", len(secrets))
	}

	var said strings.Builder
	call := func(method, path, who, id, body string) {
		a := h.call(method, path, who, id, body)
		said.WriteString(a.Msg + string(a.Data))
		for name, values := range a.Header {
			said.WriteString(name + strings.Join(values, " "))
		}
	}
	h.backup("acme", "r1", "phone-1")
	h.backup("other", "r2", "phone-3")
	call(http.MethodPost, "/v1/instances/backup", "made up", "r3", `{"instance_id":"phone-1"}`)
	call(http.MethodPost, "/v1/instances/backup", "acme", h.tokens["other"][:20], `{"instance_id":"absent"}`)
	call(http.MethodPost, "/v1/instances/backup", "acme", "r4", `{"instance_id":`)
	for _, path := range []string{"info", "instances", "jobs", "throttle", "nothing"} {
		call(http.MethodGet, "/v1/agent/"+path, "", "r5", "")
	}
	h.eventually("both released", func() bool {
		return h.plane.took("holdfast.instance.released", "phone-1") != nil && h.plane.took("holdfast.instance.released", "phone-3") != nil
	})
	// A broken file of tokens, and a store that went away.
	h.write("tokens", "sha256:x "+h.tokens["acme"]+"\n", 0o600)
	if err := os.Rename(h.in("store"), h.in("gone")); err != nil {
		t.Fatal(err)
	}
	if _, err := api.NewClient(h.in("s")).Backup(t.Context(), "r6", []string{"phone-2"}); err != nil {
		said.WriteString(err.Error())
	}
	zero := uint64(0)
	for _, e := range h.collect(&zero, "holdfast.backup.failed", "phone-2") {
		said.Write(e.Data)
	}
	resp, err := http.Get("http://" + h.agent.MetricsAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err != nil {
		t.Fatal(err)
	}
	said.Write(page)
	h.stop()

	said.WriteString(h.logs.String())
	for _, e := range h.plane.all() {
		said.WriteString(e.ID + string(e.Data))
	}
	places := map[string]string{"what was said": said.String()}
	for _, file := range []string{"audit.log", "handed", filepath.Join("state", "journal.db")} {
		b, err := os.ReadFile(h.in(file))
		if err != nil {
			t.Fatal(err)
		}
		places[file] = string(b)
	}
	for place, text := range places {
		if len(text) < 500 {
			t.Errorf("%s: only %q: nothing was looked at", place, text)
		}
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the secret %s is in it", place, what)
			}
		}
	}
}
