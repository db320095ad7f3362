package testbed

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keystonePatience is how long Keystone may take to make its database, and to answer.
const keystonePatience = 5 * time.Minute

// Keystone is the identity service of OpenStack, real, on
// 127.0.0.1. Its methods are for one goroutine.
type Keystone struct {
	URL      string // http://127.0.0.1:port/v3
	Password string // of the user admin in the project admin, domain Default

	t       testing.TB
	dir     string
	address string
	proc    *process
	token   string // of admin
}

// StartKeystone makes a Keystone with an empty database and starts it; it goes with the test.
func StartKeystone(t testing.TB) *Keystone {
	t.Helper()
	Need(t, "root", "keystone-manage", "keystone-wsgi-public")
	k := &Keystone{t: t, dir: Dir(t), Password: "the-admin-of-tests"}
	conf := fmt.Sprintf(`[DEFAULT]
log_file = %[1]s/keystone.log
[database]
connection = sqlite:///%[1]s/keystone.db
[fernet_tokens]
key_repository = %[1]s/fernet
[fernet_receipts]
key_repository = %[1]s/fernet
[credential]
key_repository = %[1]s/credential
[token]
provider = fernet
expiration = 3600
[cache]
enabled = false
[identity]
password_hash_rounds = 4
`, k.dir)
	// As fernet_setup and credential_setup make them: 0 is the next key, 1 the key in use.
	for _, d := range []string{"fernet", "credential"} {
		if err := os.Mkdir(filepath.Join(k.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"0", "1"} {
			key := make([]byte, 32)
			_, _ = rand.Read(key) // never fails
			if err := os.WriteFile(filepath.Join(k.dir, d, name), []byte(base64.URLEncoding.EncodeToString(key)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(k.config(), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if k.address, err = freeAddress(); err != nil {
		t.Fatal(err)
	}
	k.URL = "http://" + k.address + "/v3"
	k.manage("db_sync")
	k.manage("bootstrap", "--bootstrap-password", k.Password, "--bootstrap-public-url", k.URL, "--bootstrap-admin-url", k.URL,
		"--bootstrap-internal-url", k.URL, "--bootstrap-region-id", "test")
	t.Cleanup(k.Stop)
	k.Start()
	return k
}

func (k *Keystone) config() string { return filepath.Join(k.dir, "keystone.conf") }

func (k *Keystone) manage(args ...string) {
	k.t.Helper()
	program, err := Program("keystone-manage")
	if err != nil {
		k.t.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{"--config-file", k.config()}, args...)...)
	cmd.Dir = k.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("keystone-manage %s: %v\n%s", args[0], err, out)
	}
}

// Start runs Keystone, again after Stop.
func (k *Keystone) Start() {
	k.t.Helper()
	if k.proc != nil {
		return
	}
	program, err := Program("keystone-wsgi-public")
	if err != nil {
		k.t.Fatal(err)
	}
	_, port, _ := strings.Cut(k.address, ":")
	p, err := start(filepath.Join(k.dir, "out"), program, []string{"OS_KEYSTONE_CONFIG_FILES=" + k.config()}, "--host", "127.0.0.1", "--port", port)
	if err != nil {
		k.t.Fatal(err)
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	err = p.await(keystonePatience, func() error {
		res, err := client.Get(k.URL)
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
	if err != nil {
		p.stop(os.Kill, 0)
		k.t.Fatal(err)
	}
	k.proc = p
}

// Stop ends Keystone; its database stays. It may be called when it is stopped.
func (k *Keystone) Stop() {
	if k.proc != nil {
		k.proc.stop(os.Kill, 0)
		k.proc = nil
	}
}

// Lifetime sets how long tokens live that are made from now on.
func (k *Keystone) Lifetime(d time.Duration) {
	k.t.Helper()
	conf, err := os.ReadFile(k.config())
	if err != nil {
		k.t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(conf)) {
		if strings.HasPrefix(line, "expiration = ") {
			line = fmt.Sprintf("expiration = %d\n", int(d.Seconds()))
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(k.config(), []byte(strings.Join(lines, "")), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.Stop()
	k.Start()
}

// call sends a request as admin and returns the answer.
func (k *Keystone) call(method, path string, header http.Header, body any) (http.Header, map[string]any) {
	k.t.Helper()
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			k.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(k.t.Context(), method, k.URL+path, &content)
	if err != nil {
		k.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/json")
	if k.token != "" {
		req.Header.Set("X-Auth-Token", k.token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		said := ""
		if k.proc != nil {
			said = k.proc.tail()
		}
		k.t.Fatalf("keystone: %s %s: %s, %v\n%s\n%s", method, path, res.Status, err, text, said)
	}
	out := map[string]any{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			k.t.Fatal(err)
		}
	}
	return res.Header, out
}

func (k *Keystone) admin() {
	if k.token == "" {
		k.token = k.Token("admin", k.Password, "admin")
	}
}

// Project makes a project and returns its id.
func (k *Keystone) Project(name string) string {
	k.t.Helper()
	k.admin()
	_, got := k.call(http.MethodPost, "/projects", nil, map[string]any{"project": map[string]any{"name": name, "domain_id": "default"}})
	return got["project"].(map[string]any)["id"].(string)
}

// User makes a user with a role in a project, and returns its id. The bootstrap made the roles:
// admin, member and reader (over SQLite no further role can be made: Keystone locks itself out).
func (k *Keystone) User(name, password, project, role string) string {
	k.t.Helper()
	k.admin()
	_, got := k.call(http.MethodPost, "/users", nil, map[string]any{"user": map[string]any{"name": name, "password": password, "domain_id": "default"}})
	id := got["user"].(map[string]any)["id"].(string)
	_, got = k.call(http.MethodGet, "/roles?name="+role, nil, nil)
	roles := got["roles"].([]any)
	if len(roles) != 1 {
		k.t.Fatalf("keystone has no role %q", role)
	}
	roleID := roles[0].(map[string]any)["id"].(string)
	k.call(http.MethodPut, "/projects/"+project+"/users/"+id+"/roles/"+roleID, nil, nil)
	return id
}

// Token logs the user in to the project, of that name in the domain Default.
func (k *Keystone) Token(user, password, project string) string {
	k.t.Helper()
	domain := map[string]any{"id": "default"}
	was := k.token
	k.token = ""
	header, _ := k.call(http.MethodPost, "/auth/tokens", nil, map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": user, "password": password, "domain": domain},
		}},
		"scope": map[string]any{"project": map[string]any{"name": project, "domain": domain}},
	}})
	k.token = was
	return header.Get("X-Subject-Token")
}

// Revoke ends a token.
func (k *Keystone) Revoke(token string) {
	k.t.Helper()
	k.admin()
	k.call(http.MethodDelete, "/auth/tokens", http.Header{"X-Subject-Token": {token}}, nil)
}
