package obs_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/obs/proxytest"
)

// TestServerLosesAProperty: a server that did a thing and later refuses it (it
// was rolled back, or is an older one behind the same name) is asked in the way
// that servers without the property understand, also in the middle of a list.
func TestServerLosesAProperty(t *testing.T) {
	lost := func(m proxytest.Misbehaviour) bool {
		return m.Works && (strings.HasPrefix(m.Fault, "version 2 is") || m.Fault == "the checksum is an invalid request" ||
			m.Op == proxytest.OpDeleteBatch)
	}
	met := 0
	for _, m := range proxytest.Misbehaviours() {
		if !lost(m) {
			continue
		}
		met++
		t.Run(m.Name(), func(t *testing.T) {
			b := proxytest.NewBucket()
			b.PageSize = 2
			var want []string
			for i := range 6 {
				want = append(want, fmt.Sprintf("a/%d", i))
				b.Set("v/"+want[i], obstest.Body(want[i], 100))
			}
			for i := range 4 {
				b.Set(fmt.Sprintf("v/b/%d", i), []byte("x"))
			}
			bad, isBad := m.Handler(b), atomic.Bool{}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if isBad.Load() {
					bad.ServeHTTP(w, r)
					return
				}
				b.ServeHTTP(w, r)
			}))
			defer server.Close()
			s := open(t, "s3://"+proxytest.BucketName+"/v?region=r&endpoint="+server.URL,
				toServer(server, obs.Options{Getenv: keys, Retry: &obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 3, MaxElapsed: time.Minute}}))
			ctx := t.Context()
			put := func(key string) {
				if err := s.Put(ctx, key, obstest.Body(key, 1000)); err != nil {
					t.Errorf("put %s: %v", key, err)
				}
			}
			put("before")
			if err := s.Delete(ctx, "b/0", "b/1"); err != nil {
				t.Fatal(err)
			}
			// in the middle of the first list, and from the beginning of the second one
			for range 2 {
				var got []string
				for in, err := range s.List(ctx, "a/") {
					if err != nil {
						t.Fatalf("list after %q: %v", got, err)
					}
					got = append(got, in.Key)
					isBad.Store(true)
				}
				if !slices.Equal(got, want) {
					t.Errorf("list %q, want %q", got, want)
				}
			}
			put("after")
			if err := s.Delete(ctx, "b/2", "b/3"); err != nil {
				t.Errorf("delete: %v", err)
			}
			if got := b.Keys(); !slices.Contains(got, "v/after") || slices.ContainsFunc(got, func(key string) bool { return strings.HasPrefix(key, "v/b/") }) {
				t.Errorf("the server has %q", got)
			}
		})
	}
	if met < 7 {
		t.Errorf("the catalogue has %d such servers", met)
	}
}
