package obs_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// TestColdObjects: an object that a lifecycle rule moved to an
// archive class answers HEAD, and no GET.
func TestColdObjects(t *testing.T) {
	const ended, goesOn = `ongoing-request="false", expiry-date="Fri, 21 Dec 2046 00:00:00 GMT"`, `ongoing-request="true"`
	header := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		switch {
		case r.URL.Query().Has("prefix"):
			_, _ = fmt.Fprintf(w, `<ListBucketResult><Name>bucket</Name><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><Contents>`+
				`<Key>k</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>%s</StorageClass></Contents></ListBucketResult>`,
				header["X-Amz-Storage-Class"]+header["X-Obs-Storage-Class"])
		case r.Method == http.MethodHead:
			h.Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			h.Set("Content-Length", "1")
			for name, value := range header {
				h.Set(name, value)
			}
		default:
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>InvalidObjectState</Code><Message>The operation is not valid for the object's storage class</Message></Error>")
		}
	}))
	defer server.Close()
	for _, url := range []string{"s3://bucket-7?region=r&endpoint=" + server.URL, "obs://bucket-7?region=r&endpoint=http://obs.test"} {
		s := open(t, url, toServer(server, obs.Options{Getenv: keys, Retry: &once}))
		if _, err := s.ReadAt(t.Context(), "k", make([]byte, 1), 0); !errors.Is(err, obs.ErrCold) || obs.Hint(err) == "" {
			t.Errorf("read of a cold object: %v, want ErrCold", err)
		}
		for _, c := range []struct {
			header map[string]string
			class  string
			// as HEAD tells, and as a row of a list tells, which has the class alone
			cold, rows bool
		}{
			{nil, "", false, false},
			{map[string]string{"X-Amz-Storage-Class": "STANDARD_IA"}, "STANDARD_IA", false, false},
			{map[string]string{"X-Amz-Storage-Class": "GLACIER_IR"}, "GLACIER_IR", false, false},
			{map[string]string{"X-Amz-Storage-Class": "GLACIER"}, "GLACIER", true, true},
			{map[string]string{"X-Amz-Storage-Class": "DEEP_ARCHIVE"}, "DEEP_ARCHIVE", true, true},
			{map[string]string{"X-Obs-Storage-Class": "WARM"}, "WARM", false, false},
			{map[string]string{"X-Obs-Storage-Class": "COLD"}, "COLD", true, true},
			{map[string]string{"X-Obs-Storage-Class": "COLD", "X-Obs-Restore": goesOn}, "COLD", true, true},
			{map[string]string{"X-Obs-Storage-Class": "COLD", "X-Obs-Restore": ended}, "COLD", false, true},
			{map[string]string{"X-Amz-Storage-Class": "GLACIER", "X-Amz-Restore": ended}, "GLACIER", false, true},
			{map[string]string{"X-Amz-Storage-Class": "INTELLIGENT_TIERING"}, "INTELLIGENT_TIERING", false, false},
			{map[string]string{"X-Amz-Storage-Class": "INTELLIGENT_TIERING", "X-Amz-Archive-Status": "DEEP_ARCHIVE_ACCESS"}, "INTELLIGENT_TIERING", true, false},
		} {
			header = c.header
			in, err := s.Stat(t.Context(), "k")
			if err != nil || in.Class != c.class || in.Cold != c.cold {
				t.Errorf("%s: Stat of %v: %+v, %v, want class %q and cold %v", url, c.header, in, err, c.class, c.cold)
			}
			n := 0
			for in, err := range s.List(t.Context(), "k") {
				if n++; err != nil || in.Class != c.class || in.Cold != c.rows {
					t.Errorf("%s: List of %v: %+v, %v, want class %q and cold %v", url, c.header, in, err, c.class, c.rows)
				}
			}
			if n != 1 {
				t.Errorf("%s: List gave %d rows", url, n)
			}
		}
	}
}
