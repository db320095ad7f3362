package obs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// classes are all errors that a caller may ask for.
var classes = []error{
	obs.ErrNotFound, obs.ErrExists, obs.ErrNoBucket, obs.ErrAccess, obs.ErrNoKeys, obs.ErrWrongKeys, obs.ErrExpiredKeys,
	obs.ErrClockSkew, obs.ErrNoSpace, obs.ErrNoMoney, obs.ErrUnavailable, obs.ErrUsage, obs.ErrWrongRegion,
	obs.ErrCold, obs.ErrOdd, obs.ErrDamagedOnWay, obs.ErrPolicy, obs.ErrKMS, obs.ErrProxy, obs.ErrNoHost, obs.ErrQuota,
}

// wider has the classes that belong to another one.
var wider = map[error]error{
	obs.ErrNoKeys: obs.ErrAccess, obs.ErrWrongKeys: obs.ErrAccess, obs.ErrExpiredKeys: obs.ErrAccess,
	obs.ErrClockSkew: obs.ErrAccess, obs.ErrNoMoney: obs.ErrNoSpace, obs.ErrWrongRegion: obs.ErrUsage,
	obs.ErrPolicy: obs.ErrAccess, obs.ErrQuota: obs.ErrNoSpace,
}

// TestErrorClasses: each answer of S3 and of OBS that an operator has to tell apart.
func TestErrorClasses(t *testing.T) {
	var status int
	var code string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Amz-Request-Id", "REQ1")
		w.WriteHeader(status)
		if code != "" {
			_, _ = fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>%s</Code><Message>in words</Message>"+
				"<RequestId>REQ1</RequestId><HostId>H</HostId></Error>", code)
		}
	}))
	defer server.Close()
	for _, c := range []struct {
		status int
		code   string
		want   error
		hint   string // part of it
	}{
		{301, "PermanentRedirect", obs.ErrWrongRegion, "region"},
		{307, "TemporaryRedirect", obs.ErrWrongRegion, "region"},
		{400, "AuthorizationHeaderMalformed", obs.ErrWrongRegion, "region"},
		{400, "BadDigest", obs.ErrUnavailable, "try again"},
		{400, "EntityTooLarge", obs.ErrUsage, ""},
		{400, "ExpiredToken", obs.ErrExpiredKeys, "new temporary keys"},
		{400, "IllegalLocationConstraint", obs.ErrWrongRegion, "region"},
		{400, "IncompleteBody", obs.ErrUnavailable, "try again"},
		{400, "InvalidArgument", nil, ""},
		{400, "InvalidRegion", obs.ErrWrongRegion, "region"},
		{400, "InvalidToken", obs.ErrExpiredKeys, "new temporary keys"},
		{400, "RequestTimeout", obs.ErrUnavailable, "try again"},
		{401, "", obs.ErrAccess, "credentials"},
		{402, "", obs.ErrNoMoney, "owes"},
		{403, "", obs.ErrAccess, "credentials"},
		{403, "AccessDenied", obs.ErrAccess, "credentials"},
		{403, "InvalidObjectState", obs.ErrCold, "lifecycle"},
		{403, "AccountProblem", obs.ErrNoMoney, "owes"},
		{403, "InArrearOrInsufficientBalance", obs.ErrNoMoney, "owes"},
		{403, "InsufficientStorageSpace", obs.ErrNoSpace, "room"},
		{403, "InvalidAccessKeyId", obs.ErrWrongKeys, "secret"},
		{403, "RequestTimeTooSkewed", obs.ErrClockSkew, "clock"},
		{403, "SignatureDoesNotMatch", obs.ErrWrongKeys, "secret"},
		{403, "VirtualHostDomainRequired", obs.ErrUsage, ""},
		{404, "NoSuchBucket", obs.ErrNoBucket, "--store"},
		{404, "NoSuchKey", obs.ErrNotFound, ""},
		{405, "MethodNotAllowed", nil, ""},
		{408, "", obs.ErrUnavailable, "try again"},
		{409, "BucketNotEmpty", nil, ""},
		{409, "ConditionalRequestConflict", obs.ErrUnavailable, "try again"},
		{409, "OperationAborted", obs.ErrUnavailable, "try again"},
		{409, "QuotaExceeded", obs.ErrQuota, "quota"},
		{400, "KMS.DisabledException", obs.ErrKMS, "enabled"},
		{400, "XMinioKMSDefaultKeyNotFound", obs.ErrKMS, "enabled"},
		{407, "", obs.ErrProxy, "HTTPS_PROXY"},
		{429, "", obs.ErrUnavailable, "try again"},
		{500, "InternalError", obs.ErrUnavailable, "try again"},
		{502, "", obs.ErrUnavailable, "try again"},
		{503, "ServiceUnavailable", obs.ErrUnavailable, "try again"},
		{503, "SlowDown", obs.ErrUnavailable, "try again"},
		{504, "", obs.ErrUnavailable, "try again"},
		{507, "", obs.ErrNoSpace, "room"},
	} {
		status, code = c.status, c.code
		for _, url := range []string{"s3://bucket-7?endpoint=" + server.URL, "obs://bucket-7?region=r&endpoint=http://obs.test"} {
			s := open(t, url, toServer(server, obs.Options{Getenv: keys, Retry: &once}))
			_, read := s.ReadAt(t.Context(), "k", make([]byte, 1), 0)
			for what, err := range map[string]error{"put": s.Put(t.Context(), "k", []byte("x")), "read": read} {
				what = fmt.Sprintf("%d %s, %s of %s", c.status, c.code, what, url)
				checkClass(t, what, err, c.want)
				if err == nil {
					continue
				}
				if c.code != "" && !(strings.Contains(err.Error(), "in words") && strings.Contains(err.Error(), c.code) &&
					strings.Contains(err.Error(), "REQ1")) {
					t.Errorf("%s: %v lacks the server's words, code or request", what, err)
				}
				if errors.Is(c.want, obs.ErrNoBucket) && !strings.Contains(err.Error(), "no such bucket: bucket-7 at ") {
					t.Errorf("%s: %v does not name the bucket", what, err)
				}
				if hint := obs.Hint(err); !strings.Contains(hint, c.hint) || (hint == "") != (c.hint == "") {
					t.Errorf("%s: hint %q, want one with %q", what, hint, c.hint)
				}
				if strings.Contains(err.Error(), "verysecret") {
					t.Errorf("%v shows a secret", err)
				}
			}
		}
	}
}

// checkClass wants err to be of class want and of the classes that contain want, and of no other.
func checkClass(t *testing.T, what string, err, want error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, class := range classes {
		if errors.Is(err, class) != (class == want || want != nil && class == wider[want]) { //nolint:errorlint // sentinels
			t.Errorf("%s: %v, want class %v", what, err, want)
		}
	}
}

// TestClockSkewOfHead: the answer to HEAD has no body with a code, but it has the server's time.
func TestClockSkewOfHead(t *testing.T) {
	var ahead time.Duration
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	s := open(t, "s3://bucket?endpoint="+server.URL, obs.Options{Getenv: keys, Retry: &once})
	for _, c := range []struct {
		ahead time.Duration
		want  error
	}{
		{0, obs.ErrAccess},
		{10 * time.Minute, obs.ErrAccess},
		{time.Hour, obs.ErrClockSkew},
		{-time.Hour, obs.ErrClockSkew},
	} {
		ahead = c.ahead
		_, err := s.Stat(t.Context(), "k")
		checkClass(t, fmt.Sprintf("server ahead by %v", c.ahead), err, c.want)
	}
}

func TestHint(t *testing.T) {
	for _, class := range classes {
		hint := obs.Hint(fmt.Errorf("put k: %w: %w", class, errors.New("words")))
		quiet := class == obs.ErrNotFound || class == obs.ErrExists || class == obs.ErrUsage //nolint:errorlint // sentinels
		if (hint == "") != quiet {
			t.Errorf("%v: hint %q", class, hint)
		}
	}
	if hint := obs.Hint(errors.New("other")); hint != "" {
		t.Errorf("hint %q for an error of others", hint)
	}
}

func TestKind(t *testing.T) {
	seen := map[string]bool{}
	for _, class := range classes {
		kind := obs.Kind(fmt.Errorf("put k: %w: %w", class, errors.New("words")))
		if kind == "" || kind == "other" || seen[kind] {
			t.Errorf("%v: %q, want a word of its own", class, kind)
		}
		seen[kind] = true
	}
	for err, want := range map[error]string{
		nil: "", errors.New("x"): "other", context.Canceled: "canceled", os.ErrClosed: "canceled",
		obs.SlowDownError(errors.New("x")): "slow_down",
	} {
		if got := obs.Kind(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
