package obs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// env is an environment with only these variables.
func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

var keys = env("AWS_ACCESS_KEY_ID", "THEID", "AWS_SECRET_ACCESS_KEY", "verysecret", "AWS_SESSION_TOKEN", "secrettoken")

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct{ url, says string }{
		{"", "want file:///path"},
		{"/srv/backup", "want file:///path"},
		{"ftp://host/x", `scheme "ftp"`},
		{"file://host/x", "absolute path"},
		{"file:relative", "want file:///path"},
		{"file:///x?mode=0600", `unknown parameter "mode"`},
		{"s3://", "bucket"},
		{"s3://ab/x", "bucket"},
		{"s3://Upper/x", "bucket"},
		{"s3://bucket:9000/x", "bucket"},
		{"s3://bucket/a/../b", "prefix"},
		{"s3://bucket/a b", "prefix"},
		{"s3://bucket/x?regoin=r", `unknown parameter "regoin"`},
		{"s3://bucket/x?region=a&region=b", `"region"`},
		{"s3://bucket/x?region=", `"region"`},
		{"s3://bucket/x?region=evil.example/", "region"},
		{"s3://bucket/x?endpoint=host:9000", "endpoint"},
		{"s3://bucket/x?endpoint=https://host/path", "endpoint"},
		{"s3://bucket/x?endpoint=ftp://host", "endpoint"},
		{"s3://bucket/x?addressing=dns", `addressing "dns"`},
		{"s3://bucket/x?endpoint=http://127.0.0.1:9&addressing=virtual", "addressing=virtual"},
		{"s3://bucket/x#frag", "want file:///path"},
		{"obs://bucket/x", "region"},
		{"obs://bucket/x?region=r&addressing=path", `unknown parameter "addressing"`},
		{"obs://bucket/x?region=evil.example%2f", "region"},
		{"s3://THEID:verysecret@bucket/x", "user or password"},
		{"s3://bucket/x?key=verysecret", `unknown parameter "key"`},
		{"s3://bucket/x?endpoint=https://host/?key=verysecret", "endpoint"},
		{"s3://THEID:very%zzsecret@bucket/x", "parsed"},
		{"s3://bucket/x?endpoint=https://THEID:verysecret@host", "user or password"},
		{"s3://bucket/x?endpoint=https://THEID:verysecret%zz@host", "parse"},
	} {
		s, err := obs.Open(t.Context(), c.url, obs.Options{Getenv: keys})
		if s != nil || !errors.Is(err, obs.ErrUsage) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("open %q: error %v, want ErrUsage that says %s", c.url, err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("open %q: the message repeats the secret: %v", c.url, err)
		}
	}
}

func TestOpenTakes(t *testing.T) {
	for _, c := range []struct{ url, name string }{
		{"s3://bucket", "s3://bucket/"},
		{"s3://bucket/a/b/?region=eu-west-1", "s3://bucket/a/b?region=eu-west-1"},
		{"s3://bucket?endpoint=http://127.0.0.1:9", "s3://bucket/?endpoint=http://127.0.0.1:9"},
		{"s3://bucket?endpoint=https://minio.example/&addressing=virtual", "s3://bucket/?addressing=virtual&endpoint=https://minio.example/"},
		{"obs://bucket/x?region=cn-north-4", "obs://bucket/x?region=cn-north-4"},
	} {
		s := open(t, c.url, obs.Options{Getenv: keys})
		if s.String() != c.name {
			t.Errorf("open %s: its name is %s, want %s", c.url, s, c.name)
		}
		for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", s)} {
			if strings.Contains(text, "secret") {
				t.Errorf("open %s: printed, the store shows a secret: %s", c.url, text)
			}
		}
		// A store opened by its name is the same store.
		if again := open(t, s.String(), obs.Options{Getenv: keys}); again.String() != c.name {
			t.Errorf("open %s: its name is %s", c.name, again)
		}
	}
}

func TestNoCredentials(t *testing.T) {
	start := time.Now()
	// The metadata service never answers.
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	for _, e := range []func(string) string{
		env("AWS_EC2_METADATA_DISABLED", "true"),
		env("AWS_EC2_METADATA_SERVICE_ENDPOINT", silent.URL, "HOME", t.TempDir()),
		env("AWS_ACCESS_KEY_ID", "THEID", "AWS_EC2_METADATA_DISABLED", "true"),
	} {
		for _, url := range []string{"s3://bucket", "obs://bucket?region=r"} {
			_, err := obs.Open(t.Context(), url, obs.Options{Getenv: e})
			if !errors.Is(err, obs.ErrAccess) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("open %s: error %v, want ErrAccess", url, err)
			}
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v to see that there are none", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := obs.Open(ctx, "s3://bucket", obs.Options{Getenv: env("AWS_EC2_METADATA_SERVICE_ENDPOINT", silent.URL)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while it asked: %v", err)
	}
}

// TestCredentials looks at the access key with which a request is signed.
func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = FILEID\naws_secret_access_key = s1\n" +
		"[other]\naws_access_key_id = OTHERID\naws_secret_access_key = s2\naws_session_token = tok\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/openstack/latest/securitykey":
			_, _ = fmt.Fprintf(w, `{"credential":{"access":"ECSID","secret":"s","securitytoken":"ecstok","expires_at":%q}}`, soon)
		case "/latest/api/token":
			_, _ = fmt.Fprint(w, "session")
		case "/latest/meta-data/iam/security-credentials/":
			_, _ = fmt.Fprint(w, "role")
		case "/latest/meta-data/iam/security-credentials/role":
			_, _ = fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"EC2ID","SecretAccessKey":"s","Token":"ec2tok","Expiration":%q}`, soon)
		default:
			http.NotFound(w, r)
		}
	}))
	defer metadata.Close()
	var auth, token string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth, token = r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	at := "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	for _, c := range []struct {
		scheme    string
		env       func(string) string
		id, token string
	}{
		{"s3", keys, "THEID", "secrettoken"},
		{"s3", env("OBS_ACCESS_KEY_ID", "OBSID", "OBS_SECRET_ACCESS_KEY", "s", "OBS_SECURITY_TOKEN", "tok"), "OBSID", "tok"},
		{"obs", env("OBS_ACCESS_KEY_ID", "OBSID", "OBS_SECRET_ACCESS_KEY", "s", "AWS_ACCESS_KEY_ID", "A", "AWS_SECRET_ACCESS_KEY", "s"), "OBSID", ""},
		{"s3", env("AWS_SHARED_CREDENTIALS_FILE", file), "FILEID", ""},
		{"s3", env("AWS_SHARED_CREDENTIALS_FILE", file, "AWS_PROFILE", "other"), "OTHERID", "tok"},
		{"s3", env(at, metadata.URL), "EC2ID", "ec2tok"},
		{"obs", env(at, metadata.URL), "ECSID", "ecstok"},
	} {
		s := open(t, c.scheme+"://bucket?region=r&endpoint="+server.URL, toServer(server, obs.Options{Getenv: c.env}))
		if _, err := s.Stat(t.Context(), "k"); err == nil {
			t.Error("Stat: no error")
		}
		if !strings.Contains(auth, "Credential="+c.id+"/") || token != c.token {
			t.Errorf("%s: signed with %q and token %q, want %s and %q", c.scheme, auth, token, c.id, c.token)
		}
	}
	// Keys that everybody can read count as no keys, and the later sources of keys are
	// not used in their place.
	if err := os.Chmod(file, 0o604); err != nil {
		t.Fatal(err)
	}
	_, err := obs.Open(t.Context(), "s3://bucket?region=r&endpoint="+server.URL,
		obs.Options{Getenv: env("AWS_SHARED_CREDENTIALS_FILE", file, at, metadata.URL)})
	if !errors.Is(err, obs.ErrNoKeys) || !strings.Contains(err.Error(), "mode 0604 gives them to everybody; chmod o= "+file) {
		t.Errorf("keys that everybody can read: %v", err)
	}
}
