package testbed

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// minioPatience is how long MinIO may take to answer; it needs under a second on an idle machine.
const minioPatience = 60 * time.Second

// minioRegion is the region that MinIO signs for unless told otherwise.
const minioRegion = "us-east-1"

// MinIO is a running object store on 127.0.0.1. Its methods are for one goroutine at a time.
type MinIO struct {
	Endpoint  string // http://127.0.0.1:port
	AccessKey string
	SecretKey string

	t       testing.TB
	program string
	dir     string
	address string
	proc    *process // nil while stopped
	buckets int
}

// StartMinIO starts MinIO, with its data in a folder of its own; it goes with the test. The program is looked
// for in HOLDFAST_TOOLS, in build/bin of this module, where "go install" puts programs, and on PATH.
func StartMinIO(t testing.TB) *MinIO {
	t.Helper()
	Need(t, "minio")
	program, err := minioProgram()
	if err != nil {
		t.Fatal(err)
	}
	m := &MinIO{AccessKey: "holdfast-test", SecretKey: "holdfast-test-secret", t: t, program: program, dir: Dir(t)}
	if err := os.Mkdir(filepath.Join(m.dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	for try := 0; ; try++ {
		m.address, err = freeAddress()
		if err == nil {
			m.Endpoint = "http://" + m.address
			err = m.start()
		}
		if err == nil {
			return m
		}
		if try == 3 { // another process may have taken the port in between
			t.Fatal(err)
		}
	}
}

// Start runs MinIO again after Stop or Kill, on the same port with the same data.
func (m *MinIO) Start() {
	m.t.Helper()
	if err := m.start(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *MinIO) start() error {
	if m.proc != nil {
		return nil
	}
	env := []string{
		"MINIO_ROOT_USER=" + m.AccessKey, "MINIO_ROOT_PASSWORD=" + m.SecretKey,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CALLHOME_ENABLE=off",
	}
	p, err := start(filepath.Join(m.dir, "log"), m.program, env,
		"server", "--quiet", "--address", m.address, filepath.Join(m.dir, "data"))
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	err = p.await(minioPatience, func() error {
		res, err := client.Get(m.Endpoint + "/minio/health/ready")
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("health: %s", res.Status)
		}
		return nil
	})
	if err != nil {
		p.stop(os.Kill, 0)
		return err
	}
	m.proc = p
	return nil
}

// Stop ends MinIO in good order; the data stays. It may be called when MinIO is stopped.
func (m *MinIO) Stop() { m.end(syscall.SIGTERM) }

// Kill ends MinIO with SIGKILL; the data stays. It may be called when MinIO is stopped.
func (m *MinIO) Kill() { m.end(os.Kill) }

func (m *MinIO) end(sig os.Signal) {
	if m.proc != nil {
		m.proc.stop(sig, 10*time.Second)
		m.proc = nil
	}
}

// Bucket makes a new bucket and returns its name. MinIO must be running.
func (m *MinIO) Bucket(t testing.TB) string {
	t.Helper()
	m.buckets++
	name := fmt.Sprintf("bucket-%d", m.buckets)
	deadline := time.Now().Add(minioPatience)
	for {
		err := m.makeBucket(name)
		if err == nil {
			return name
		}
		if time.Now().After(deadline) { // it answers 503 for a moment after it says that it is ready
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// URL is the address of a bucket as Holdfast writes it; prefix may be empty.
func (m *MinIO) URL(bucket, prefix string) string {
	q := url.Values{"endpoint": {m.Endpoint}, "region": {minioRegion}}
	return (&url.URL{Scheme: "s3", Host: bucket, Path: "/" + prefix, RawQuery: q.Encode()}).String()
}

// Env is the environment with which a program may use the store.
func (m *MinIO) Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + m.AccessKey, "AWS_SECRET_ACCESS_KEY=" + m.SecretKey}
}

// Getenv looks a variable up in Env alone.
func (m *MinIO) Getenv(name string) string {
	for _, e := range m.Env() {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v
		}
	}
	return ""
}

// DataDir is the folder in which MinIO keeps its objects, for tests that damage them.
func (m *MinIO) DataDir() string { return filepath.Join(m.dir, "data") }

// makeBucket sends one PUT, signed by hand with AWS signature version 4: the client library has its home in
// internal/obs, whose tests use this package.
func (m *MinIO) makeBucket(name string) error {
	req, err := http.NewRequest(http.MethodPut, m.Endpoint+"/"+name, http.NoBody)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	empty := sha256.Sum256(nil)
	payload := hex.EncodeToString(empty[:])
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", payload)
	const signed = "host;x-amz-content-sha256;x-amz-date"
	canonical := strings.Join([]string{
		http.MethodPut, "/" + name, "",
		"host:" + m.address, "x-amz-content-sha256:" + payload, "x-amz-date:" + stamp, "",
		signed, payload,
	}, "\n")
	digest := sha256.Sum256([]byte(canonical))
	scope := day + "/" + minioRegion + "/s3/aws4_request"
	key := []byte("AWS4" + m.SecretKey)
	for _, part := range []string{day, minioRegion, "s3", "aws4_request"} {
		key = hmacSHA256(key, part)
	}
	signature := hmacSHA256(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(digest[:]))
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		m.AccessKey, scope, signed, signature))
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
		return fmt.Errorf("make bucket %s: %s: %s", name, res.Status, body)
	}
	return nil
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// freeAddress picks a port on 127.0.0.1 below those that the kernel hands out to clients, so that no other
// connection takes it while the server is stopped.
func freeAddress() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("no free port between 20000 and 32000 on 127.0.0.1")
}

func minioProgram() (string, error) {
	dirs := []string{os.Getenv("HOLDFAST_TOOLS")}
	if root := moduleRoot(); root != "" {
		dirs = append(dirs, filepath.Join(root, "build", "bin"))
	}
	dirs = append(dirs, os.Getenv("GOBIN"))
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, "go", "bin"))
	}
	for gopath := range strings.SplitSeq(os.Getenv("GOPATH"), ":") {
		dirs = append(dirs, filepath.Join(gopath, "bin"))
	}
	for _, d := range dirs {
		if p := filepath.Join(d, "minio"); filepath.IsAbs(p) && isProgram(p) {
			return p, nil
		}
	}
	if p, err := exec.LookPath("minio"); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("minio (\"make tools\" builds it)")
}

// moduleRoot is the folder of go.mod above the working folder, which for a test is that of its package.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	return ""
}
