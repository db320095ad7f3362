package obs_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/obs"
	"holdfast/internal/obs/proxytest"
	"holdfast/internal/testbed"
)

// TestRenewal follows keys of 15 minutes by a clock of its own.
func TestRenewal(t *testing.T) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	now, away, asked := start, false, 0
	creds := obs.NewCredentials(func() time.Time { return now }, func() (credentials.Value, error) {
		asked++
		if away {
			return credentials.Value{}, errors.New("away")
		}
		return credentials.Value{AccessKeyID: fmt.Sprint("key", asked), SecretAccessKey: "s", Expiration: now.Add(15 * time.Minute)}, nil
	})
	for _, step := range []struct {
		at    time.Duration
		away  bool
		key   string // "" for an error
		asked int
	}{
		{0, false, "key1", 1},
		{11 * time.Minute, false, "key1", 1},
		{12 * time.Minute, false, "key2", 2}, // a fifth of their life is left
		{23 * time.Minute, true, "key2", 2},
		// it tried, and the old ones are still good
		{24 * time.Minute, true, "key2", 3},
		{24*time.Minute + 29*time.Second, true, "key2", 3}, // it does not ask for each request
		{24*time.Minute + 30*time.Second, true, "key2", 4},
		{26*time.Minute + 59*time.Second, true, "key2", 5},
		{27*time.Minute + time.Second, true, "", 6},
		{28 * time.Minute, false, "key7", 7},
		{28 * time.Minute, true, "key7", 7},
	} {
		now, away = start.Add(step.at), step.away
		v, err := creds.GetWithContext(nil)
		if v.AccessKeyID != step.key || (err == nil) != (step.key != "") || asked != step.asked {
			t.Errorf("after %v: key %q, asked %d times, %v; want %q and %d", step.at, v.AccessKeyID, asked, err, step.key, step.asked)
		}
	}
}

// TestKeysEndWhileUploading: a metadata service gives keys that live for six seconds,
// and is away now and then while the last ones live; a strict OBS refuses each after
// its end. No put fails, and hardly any is refused: on a host that is so busy that a
// request takes a fifth of the keys' life, their end catches each worker once.
func TestKeysEndWhileUploading(t *testing.T) {
	m := testbed.StartMinIO(t)
	p := strict(t, m, proxytest.Options{})
	var given atomic.Int64
	var mu sync.Mutex
	var last time.Time // when the last keys end
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := given.Add(1)
		mu.Lock()
		defer mu.Unlock()
		if n%3 == 0 && time.Until(last) > 200*time.Millisecond {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		id, ends := fmt.Sprintf("KEY%d", n), time.Now().Add(6*time.Second)
		last = ends
		p.SetKey(id, proxytest.Key{Secret: "s", Token: "tok", Ends: ends})
		_, _ = fmt.Fprintf(w, `{"credential":{"access":%q,"secret":"s","securitytoken":"tok","expires_at":%q}}`, id, ends.UTC().Format(time.RFC3339Nano))
	}))
	defer metadata.Close()
	s := open(t, atStrict(m.Bucket(t), ""), viaStrict(p, obs.Options{
		Getenv: env("OBS_METADATA_SERVICE_ENDPOINT", metadata.URL),
	}))
	var wg sync.WaitGroup
	deadline := time.Now().Add(15 * time.Second)
	const workers = 3
	for w := range workers {
		wg.Go(func() {
			for i := 0; time.Now().Before(deadline); i++ {
				if err := s.Put(t.Context(), fmt.Sprintf("k/%d/%d", w, i), make([]byte, 1000)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := given.Load(); n < 3 || n > 60 {
		t.Errorf("the metadata service was asked %d times in 15 s", n)
	}
	refused, seen := 0, p.Seen()
	for _, r := range seen {
		if r.Status >= 300 {
			refused++
		}
	}
	if n := int(given.Load()); refused > workers*n {
		t.Errorf("%d of %d requests were refused, with keys asked for %d times", refused, len(seen), n)
	}
}

// TestKeysThatAreWrittenAnew: a file of credentials is read again when
// it changes, also when the store refuses the old keys before that.
func TestKeysThatAreWrittenAnew(t *testing.T) {
	m := testbed.StartMinIO(t)
	p := strict(t, m, proxytest.Options{})
	dir := t.TempDir()
	write := func(id string) {
		t.Helper()
		p.SetKey(id, proxytest.Key{Secret: "s-" + id, Token: "tok"})
		text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = s-%s\naws_session_token = tok\n", id, id)
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "store-credentials")); err != nil {
			t.Fatal(err)
		}
	}
	write("FIRST")
	s := open(t, atStrict(m.Bucket(t), ""), viaStrict(p, obs.Options{
		Getenv: env("CREDENTIALS_DIRECTORY", dir, "AWS_EC2_METADATA_DISABLED", "true"), Retry: &once,
	}))
	for _, id := range []string{"FIRST", "SECOND-LONGER", "THIRD"} {
		if id != "FIRST" {
			write(id)
		}
		if err := s.Put(t.Context(), "k-"+id, []byte("x")); err != nil {
			t.Fatal(err)
		}
		seen := p.Seen()
		if auth := seen[len(seen)-1].Header.Get("Authorization"); !strings.Contains(auth, "Credential="+id+"/") {
			t.Errorf("signed with %s, want %s", auth, id)
		}
	}
}

// TestKeysThatTheStoreEnded: the store ends keys before their time; others are got at once.
func TestKeysThatTheStoreEnded(t *testing.T) {
	m := testbed.StartMinIO(t)
	p := strict(t, m, proxytest.Options{})
	n := 0
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n++
		id := fmt.Sprintf("KEY%d", n)
		p.SetKey(id, proxytest.Key{Secret: "s", Token: "tok"})
		_, _ = fmt.Fprintf(w, `{"credential":{"access":%q,"secret":"s","securitytoken":"tok","expires_at":%q}}`,
			id, time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano))
	}))
	defer metadata.Close()
	var retries []error
	s := open(t, atStrict(m.Bucket(t), ""), viaStrict(p, obs.Options{
		Getenv: env("OBS_METADATA_SERVICE_ENDPOINT", metadata.URL),
		Retry:  &obs.RetryPolicy{Base: time.Millisecond, OnRetry: func(e obs.RetryEvent) { retries = append(retries, e.Err) }},
	}))
	if err := s.Put(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.SetKey("KEY1", proxytest.Key{Secret: "s", Token: "tok", Ends: time.Now().Add(-time.Minute)})
	if err := s.Put(t.Context(), "b", []byte("x")); err != nil || len(retries) != 1 || !errors.Is(retries[0], obs.ErrExpiredKeys) {
		t.Errorf("%v after the retries %v", err, retries)
	}
	// Keys that can't be had anew are the operator's business, at once.
	lasting := open(t, atStrict(m.Bucket(t), ""), viaStrict(p, obs.Options{
		Getenv: env("OBS_ACCESS_KEY_ID", "KEY1", "OBS_SECRET_ACCESS_KEY", "s", "OBS_SECURITY_TOKEN", "tok"),
	}))
	err := lasting.Put(t.Context(), "c", []byte("x"))
	checkClass(t, "ended keys of the environment", err, obs.ErrExpiredKeys)
}
