package obs_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
)

// TestPutKeepsNoReference unmaps the body right after Put returned, while the
// transport would still be sending it: a late read would kill the process.
func TestPutKeepsNoReference(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Answered before the body was read; the client's transport goes on sending for a moment.
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`<Error><Code>AccessDenied</Code><Message>no</Message></Error>`))
	}))
	defer server.Close()
	st, err := obs.Open(t.Context(), "s3://bucket/?region=r&endpoint="+server.URL, obs.Options{
		Getenv: func(k string) string {
			return map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}[k]
		},
		Retry: &obs.RetryPolicy{MaxAttempts: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for i := range 50 {
		p, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%10)*time.Millisecond+time.Millisecond)
		if err := st.Put(ctx, "key", p); err == nil {
			t.Error("a refused put succeeded")
		}
		cancel()
		if err := unix.Munmap(p); err != nil {
			t.Fatal(err)
		}
	}
}
