package obs

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// FuzzListPage: no answer of a server makes the parser panic, and an accepted page has
// only keys that begin with the prefix, with sizes.
func FuzzListPage(f *testing.F) {
	const row = "<Contents><Key>%s</Key><Size>%s</Size><LastModified>2026-01-02T03:04:05Z</LastModified></Contents>"
	for _, body := range []string{
		"", "<", "{}", "<ListBucketResult/>", "<ListBucketResult></ListBucketResult><x/>", "<html><body></body></html>",
		"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>" + fmt.Sprintf(row, "v/a", "1") + "</ListBucketResult>",
		"<ListBucketResult><EncodingType>url</EncodingType>" + fmt.Sprintf(row, "v%2Fa", "1") + "</ListBucketResult>",
		"<ListBucketResult>" + fmt.Sprintf(row, "v%2", "-1") + fmt.Sprintf(row, "", "") + "</ListBucketResult>",
		"<ListBucketResult><KeyCount>7</KeyCount><MaxKeys>-5</MaxKeys></ListBucketResult>",
		"<ListBucketResult><CommonPrefixes><Prefix>v/</Prefix></CommonPrefixes></ListBucketResult>",
		"<Error><Code>InternalError</Code></Error>", "<Error></Error>",
		"<ListBucketResult>" + fmt.Sprintf(row, "v/\xff", "99999999999999999999") + "</ListBucketResult>",
	} {
		f.Add([]byte(body), "v/")
		f.Add([]byte(body), "")
	}
	f.Fuzz(func(t *testing.T, body []byte, prefix string) {
		p := &listPage{}
		if err := p.parse(body, prefix); err != nil {
			return
		}
		for _, r := range p.rows {
			if !strings.HasPrefix(r.Key, prefix) || r.size < 0 || r.Key == "" {
				t.Errorf("row %+v for the prefix %q", r, prefix)
			}
		}
		// For any rows, the accepted rows are in order, and the list can't stay at an
		// accepted page without rows.
		l := &listing{prefix: prefix, tokens: map[string]bool{}}
		for range 3 {
			before := l.last
			page := *p
			if err := l.accept(&page); err != nil {
				var again interface{ Tries() int }
				if !errors.As(err, &again) {
					t.Errorf("%v is repeated without end", err)
				}
				break
			}
			for _, r := range page.rows {
				if r.Key <= before {
					t.Errorf("key %q behind %q", r.Key, before)
				}
				before = r.Key
			}
		}
	})
}

// FuzzRange: for any range in a server's answer, the reader takes no more bytes than it asked for.
func FuzzRange(f *testing.F) {
	for _, text := range []string{"bytes 0-9/10", "bytes 0-9/*", "bytes */10", "bytes 9-0/10", "bytes 0-99999999999999999999/1", "Bytes 5-6/7", "", "x", "bytes -1-5/6"} {
		f.Add(text, "10", int64(0), 10)
		f.Add(text, "", int64(5), 2)
	}
	f.Fuzz(func(t *testing.T, text, length string, off int64, n int) {
		if off < 0 || n <= 0 {
			return
		}
		h := map[string][]string{"Content-Range": {text}, "Content-Length": {length}}
		if got, _, err := rangeOf(h, off, n); err == nil && (got < 0 || got > n) {
			t.Errorf("%d bytes of %d from the range %q and the length %q", got, n, text, length)
		}
	})
}
