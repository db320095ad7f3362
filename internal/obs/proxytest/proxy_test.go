package proxytest_test

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the digest that OBS verifies
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs/proxytest"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

const (
	unsigned  = "UNSIGNED-PAYLOAD"
	streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
)

var lasting = proxytest.Key{Secret: "verysecret"}

func start(t *testing.T, opts proxytest.Options) (p *proxytest.Proxy, bucket string) {
	t.Helper()
	m := testbed.StartMinIO(t)
	p = proxytest.Start(proxytest.Backend{
		Endpoint: m.Endpoint, Access: m.AccessKey, Key: proxytest.Key{Secret: m.SecretKey}, Region: "us-east-1",
	}, opts)
	t.Cleanup(p.Close)
	p.SetKey("LASTING", lasting)
	return p, m.Bucket(t)
}

// request is a plain PUT of a few bytes that OBS takes; tests break one rule each.
type request struct {
	method, host, path string
	body               []byte
	mode               string
	access             string
	key                proxytest.Key
	region             string
	at                 time.Time
	header             map[string]string // signed
	late               map[string]string // set after signing
	length             int64             // declared; 0 is the length of the body
}

func plain(bucket string) request {
	return request{
		method: http.MethodPut, host: bucket + ".obs.test-1.myhuaweicloud.com", path: "/a/k", body: []byte("content"),
		mode: unsigned, access: "LASTING", key: lasting, region: "test-1", at: time.Now(),
	}
}

// send returns the status, the code of the error and the headers of the answer.
func (q request) send(t *testing.T, p *proxytest.Proxy) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), q.method, p.URL+q.path, bytes.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = q.host
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	proxytest.Sign(r, q.mode, q.access, q.key, q.region, q.at)
	for k, v := range q.late {
		if r.Header.Set(k, v); v == "" {
			r.Header.Del(k)
		}
	}
	if q.length > 0 { // it is refused before anybody sends it
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(zeros{}, q.length)), q.length
		r.Header.Set("Expect", "100-continue")
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}}
	res, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	defer func() { _ = res.Body.Close() }()
	var doc struct {
		Code, Message string
		RequestID     string `xml:"RequestId"`
	}
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode >= 300 && q.method != http.MethodHead {
		if err := xml.Unmarshal(body, &doc); err != nil || doc.RequestID != res.Header.Get("X-Obs-Request-Id") || doc.RequestID == "" || doc.Message == "" {
			t.Errorf("%s %s: the error is not in OBS's form: %q, %v", q.method, q.path, body, res.Header)
		}
	}
	return res.StatusCode, doc.Code, res.Header
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func md5Base64(p []byte) string {
	sum := md5.Sum(p) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

func sha256Hex(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// TestRules: a client that keeps the rules is served, and a client that breaks any of
// them is refused as OBS refuses it.
func TestRules(t *testing.T) {
	temporary := proxytest.Key{Secret: "s", Token: "tok", Ends: time.Now().Add(time.Hour)}
	p, bucket := start(t, proxytest.Options{WORM: true})
	p.SetKey("TEMPORARY", temporary)
	p.SetKey("ENDED", proxytest.Key{Secret: "s", Token: "tok", Ends: time.Now().Add(-time.Minute)})
	soon := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for _, c := range []struct {
		name   string
		change func(*request)
		status int
		code   string
	}{
		{"plain", func(*request) {}, 200, ""},
		{"MD5", func(q *request) { q.header = map[string]string{"Content-MD5": md5Base64(q.body)} }, 200, ""},
		{"SHA-256 of OBS", func(q *request) { q.header = map[string]string{"X-Obs-Content-Sha256": sha256Hex(q.body)} }, 200, ""},
		{"temporary keys", func(q *request) { q.access, q.key = "TEMPORARY", temporary }, 200, ""},
		{"encrypted", func(q *request) {
			q.header = map[string]string{"X-Obs-Server-Side-Encryption": "kms", "X-Obs-Server-Side-Encryption-Kms-Key-Id": "id"}
		}, 200, ""},
		{"traffic limit", func(q *request) { q.header = map[string]string{"X-Obs-Traffic-Limit": "819200"} }, 200, ""},
		{"storage class", func(q *request) { q.header = map[string]string{"X-Obs-Storage-Class": "WARM"} }, 200, ""},
		{"retention", func(q *request) {
			q.path = "/a/locked"
			q.header = map[string]string{"X-Obs-Object-Lock-Mode": "COMPLIANCE", "X-Obs-Object-Lock-Retain-Until-Date": soon}
		}, 200, ""},
		{"a GET with the digest of nothing", func(q *request) { q.method, q.body, q.mode = "GET", nil, sha256Hex(nil) }, 200, ""},

		{"path style", func(q *request) { q.path, q.host = "/"+bucket+"/a/k", "obs.test-1.myhuaweicloud.com" }, 403, "VirtualHostDomainRequired"},
		{"an address", func(q *request) { q.path, q.host = "/"+bucket+"/a/k", "" }, 403, "VirtualHostDomainRequired"},
		{"digest in the signature", func(q *request) { q.mode = sha256Hex(q.body) }, 400, "XAmzContentSHA256Mismatch"},
		{"unsigned trailer", func(q *request) { q.mode = "STREAMING-UNSIGNED-PAYLOAD-TRAILER" }, 400, "XAmzContentSHA256Mismatch"},
		{"signed trailer", func(q *request) { q.mode = streaming + "-TRAILER" }, 400, "XAmzContentSHA256Mismatch"},
		{"a trailer's name", func(q *request) { q.header = map[string]string{"X-Amz-Trailer": "x-amz-checksum-crc32c"} }, 400, "XAmzContentSHA256Mismatch"},
		{"clock behind", func(q *request) { q.at = q.at.Add(-16 * time.Minute) }, 403, "RequestTimeTooSkewed"},
		{"clock ahead", func(q *request) { q.at = q.at.Add(16 * time.Minute) }, 403, "RequestTimeTooSkewed"},
		{"no token", func(q *request) { q.access, q.key = "TEMPORARY", proxytest.Key{Secret: "s"} }, 403, "AccessDenied"},
		{"another token", func(q *request) { q.access, q.key = "TEMPORARY", proxytest.Key{Secret: "s", Token: "old"} }, 403, "AccessDenied"},
		{"keys that ended", func(q *request) { q.access, q.key = "ENDED", temporary }, 403, "ExpiredToken"},
		{"unknown key", func(q *request) { q.access = "NOBODY" }, 403, "InvalidAccessKeyId"},
		{"wrong secret", func(q *request) { q.key.Secret = "guess" }, 403, "SignatureDoesNotMatch"},
		{"another region", func(q *request) { q.region = "test-2" }, 403, "SignatureDoesNotMatch"},
		{"no signature", func(q *request) { q.late = map[string]string{"Authorization": ""} }, 403, "AccessDenied"},
		{"header not signed", func(q *request) { q.late = map[string]string{"X-Obs-Traffic-Limit": "819200"} }, 403, "SignatureDoesNotMatch"},
		{"signed header changed", func(q *request) {
			q.header, q.late = map[string]string{"X-Obs-Storage-Class": "WARM"}, map[string]string{"X-Obs-Storage-Class": "COLD"}
		}, 403, "SignatureDoesNotMatch"},
		{"more than 5 GB", func(q *request) { q.length = 5<<30 + 1 }, 400, "EntityTooLarge"},
		{"wrong MD5", func(q *request) { q.header = map[string]string{"Content-MD5": md5Base64([]byte("other"))} }, 400, "BadDigest"},
		{"no MD5 at all", func(q *request) { q.header = map[string]string{"Content-MD5": "????"} }, 400, "InvalidDigest"},
		{"wrong SHA-256 of OBS", func(q *request) { q.header = map[string]string{"X-Obs-Content-Sha256": sha256Hex(nil)} }, 400, "BadDigest"},
		{"If-None-Match", func(q *request) { q.header = map[string]string{"If-None-Match": "*"} }, 501, "NotImplemented"},
		{"If-Match", func(q *request) { q.header = map[string]string{"If-Match": `"x"`} }, 501, "NotImplemented"},
		{"unknown encryption", func(q *request) { q.header = map[string]string{"X-Obs-Server-Side-Encryption": "aws:kms"} }, 400, "InvalidEncryptionAlgorithmError"},
		{"unknown encryption of S3", func(q *request) { q.header = map[string]string{"X-Amz-Server-Side-Encryption": "kms"} }, 400, "InvalidEncryptionAlgorithmError"},
		{"unknown class", func(q *request) { q.header = map[string]string{"X-Obs-Storage-Class": "TEPID"} }, 400, "InvalidStorageClass"},
		{"too low a traffic limit", func(q *request) { q.header = map[string]string{"X-Obs-Traffic-Limit": "1000"} }, 400, "InvalidArgument"},
		{"retention in the past", func(q *request) {
			q.header = map[string]string{"X-Obs-Object-Lock-Mode": "COMPLIANCE", "X-Obs-Object-Lock-Retain-Until-Date": "2020-01-01T00:00:00Z"}
		}, 400, "InvalidRequest"},
		{"retention of another mode", func(q *request) {
			q.header = map[string]string{"X-Obs-Object-Lock-Mode": "GOVERNANCE", "X-Obs-Object-Lock-Retain-Until-Date": soon}
		}, 400, "InvalidRequest"},
		{"deletion of a locked object", func(q *request) { q.method, q.path, q.body, q.mode = "DELETE", "/a/locked", nil, unsigned }, 403, "AccessDenied"},
		{"no such object", func(q *request) { q.method, q.path, q.body = "GET", "/none", nil }, 404, "NoSuchKey"},
		{"no such bucket", func(q *request) { q.method, q.host, q.body = "GET", "none-1.obs.test-1.myhuaweicloud.com", nil }, 404, "NoSuchBucket"},
	} {
		q := plain(bucket)
		c.change(&q)
		status, code, header := q.send(t, p)
		if status != c.status || code != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.name, status, code, c.status, c.code)
		}
		if header.Get("X-Obs-Request-Id") == "" || header.Get("X-Amz-Request-Id") != "" || header.Get("Server") != "OBS" {
			t.Errorf("%s: the answer is not OBS's: %v", c.name, header)
		}
	}
}

// TestRecords: retention and encryption of an object can be looked up, in the words of OBS.
func TestRecords(t *testing.T) {
	p, bucket := start(t, proxytest.Options{WORM: true})
	q := plain(bucket)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	q.header = map[string]string{
		"X-Obs-Server-Side-Encryption": "kms", "X-Obs-Server-Side-Encryption-Kms-Key-Id": "id-1", "X-Obs-Traffic-Limit": "819200",
		"X-Obs-Object-Lock-Mode": "COMPLIANCE", "X-Obs-Object-Lock-Retain-Until-Date": until.Format(time.RFC3339),
	}
	_, _, header := q.send(t, p)
	if header.Get("X-Obs-Server-Side-Encryption") != "kms" {
		t.Errorf("the answer does not tell of the encryption: %v", header)
	}
	sum := md5.Sum(q.body) //nolint:gosec // see the import
	if strings.Contains(header.Get("Etag"), hex.EncodeToString(sum[:])) {
		t.Error("the ETag of an encrypted object is its MD5")
	}
	seen := p.Seen()
	if len(seen) != 1 || seen[0].Key != "a/k" || seen[0].Bucket != bucket || seen[0].Size != int64(len(q.body)) || seen[0].Status != 200 {
		t.Errorf("seen %+v", seen)
	}
	for name, want := range q.header {
		if got := seen[0].Header.Get(name); got != want {
			t.Errorf("%s: recorded %q, want %q", name, got, want)
		}
	}
	q = plain(bucket)
	q.method, q.body = http.MethodHead, nil
	_, _, header = q.send(t, p)
	if header.Get("X-Obs-Object-Lock-Retain-Until-Date") != fmt.Sprint(until.UnixMilli()) {
		t.Errorf("HEAD does not tell of the retention: %v", header)
	}
}

func TestRate(t *testing.T) {
	now := time.Now()
	p, bucket := start(t, proxytest.Options{PerSecond: 3, Now: func() time.Time { return now }})
	var got []int
	for range 5 {
		status, code, _ := plain(bucket).send(t, p)
		if got = append(got, status); status != 200 && code != "SlowDown" {
			t.Errorf("%d %s", status, code)
		}
	}
	now = now.Add(time.Second)
	status, _, _ := plain(bucket).send(t, p)
	if want := "[200 200 200 503 503]"; fmt.Sprint(got) != want || status != 200 {
		t.Errorf("statuses %v, then %d; want %s, then 200", got, status, want)
	}
}
