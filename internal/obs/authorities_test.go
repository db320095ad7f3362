package obs_test

import (
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/proxytest"
)

// TestAuthoritiesOfStoreAreReadAgain: ca-file counts as it is now; while it
// is no good the store is not reached, and no other error is made of that.
func TestAuthoritiesOfStoreAreReadAgain(t *testing.T) {
	other, _, _ := clientPair(t)
	server := httptest.NewUnstartedServer(proxytest.NewBucket())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	ca := writePEM(t, "ca.pem", "CERTIFICATE", server.Certificate().Raw, 0o644)
	own, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, "s3://"+proxytest.BucketName+"?region=r&endpoint="+server.URL+"&ca-file="+ca, obs.Options{Getenv: keys, Retry: &once})
	put := func() error { return s.Put(t.Context(), "k", []byte("x")) }
	if err := put(); err != nil {
		t.Fatal(err)
	}
	becomes := func(what string, good bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if err := put(); (err == nil) == good {
				return
			}
		}
		t.Fatalf("in vain: %s", what)
	}
	write := func(data []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(ca+".new", data, 0o600), os.Rename(ca+".new", ca)); err != nil {
			t.Fatal(err)
		}
	}
	another, err := os.ReadFile(writePEM(t, "other.pem", "CERTIFICATE", other.Raw, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	write(another)
	becomes("another authority is not the store's", false)
	write([]byte("no certificate"))
	time.Sleep(1100 * time.Millisecond)
	becomes("a broken file", false)
	write(own)
	becomes("its authority is back", true)
}
