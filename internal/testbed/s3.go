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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// s3Patience is how long a server may take to answer; each needs under a second on an idle machine.
const s3Patience = 3 * time.Minute

// s3Region is the region that the servers sign for unless told otherwise.
const s3Region = "us-east-1"

// s3Program is a server that speaks S3.
type s3Program struct {
	name string
	env  func(*S3) []string
	args func(s *S3, data string) []string
	// ready is a path that answers 200 when the server is ready; "" takes any answer for one.
	ready string
}

var (
	minio = s3Program{
		name: "minio",
		env: func(s *S3) []string {
			return []string{
				"MINIO_ROOT_USER=" + s.AccessKey, "MINIO_ROOT_PASSWORD=" + s.SecretKey,
				"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CALLHOME_ENABLE=off",
			}
		},
		args:  func(s *S3, data string) []string { return []string{"server", "--quiet", "--address", s.address, data} },
		ready: "/minio/health/ready",
	}
	versity = s3Program{
		name: "versitygw",
		env: func(s *S3) []string {
			return []string{"ROOT_ACCESS_KEY_ID=" + s.AccessKey, "ROOT_SECRET_ACCESS_KEY=" + s.SecretKey}
		},
		// A side folder holds the metadata that would else be in extended attributes,
		// which the file system may lack.
		args: func(s *S3, data string) []string {
			return []string{"--quiet", "--keep-alive", "--port", s.address, "posix", "--sidecar", filepath.Join(s.dir, "side"), data}
		},
	}
	rclone = s3Program{
		name: "rclone",
		env:  func(*S3) []string { return nil },
		args: func(s *S3, data string) []string {
			return []string{"serve", "s3", "--addr", s.address, "--auth-key", s.AccessKey + "," + s.SecretKey, data}
		},
	}
)

// S3 is a running object store on 127.0.0.1. Its methods are for one goroutine at a time.
type S3 struct {
	Endpoint  string // http://127.0.0.1:port
	AccessKey string
	SecretKey string

	t       testing.TB
	kind    s3Program
	program string
	dir     string
	data    string
	address string
	proc    *process // nil while stopped
	buckets int
}

// StartMinIO starts MinIO, with its data in a folder of its own; it goes
// with the test. The program is looked for in HOLDFAST_TOOLS, in build/bin
// of this module, where "go install" puts programs, and on PATH.
func StartMinIO(t testing.TB) *S3 {
	t.Helper()
	return startS3(t, minio, "")
}

// StartMinIOIn is StartMinIO with the data in a folder that is
// there, such as one on a file system of its own.
func StartMinIOIn(t testing.TB, data string) *S3 {
	t.Helper()
	return startS3(t, minio, data)
}

// StartVersity starts the Versity gateway on a folder, as StartMinIO starts MinIO.
func StartVersity(t testing.TB) *S3 {
	t.Helper()
	return startS3(t, versity, "")
}

// StartRclone starts "rclone serve s3" on a folder, as StartMinIO starts MinIO.
func StartRclone(t testing.TB) *S3 {
	t.Helper()
	return startS3(t, rclone, "")
}

func startS3(t testing.TB, kind s3Program, data string) *S3 {
	t.Helper()
	program, err := GoProgram(kind.name)
	if err != nil {
		if MustRun() {
			t.Fatalf("this test needs %v", err)
		}
		t.Skipf("this test needs %v", err)
	}
	s := &S3{AccessKey: "holdfast-test", SecretKey: "holdfast-test-secret", t: t, kind: kind, program: program, dir: Dir(t), data: data}
	if s.data == "" {
		s.data = filepath.Join(s.dir, "data")
	}
	for _, d := range []string{s.data, filepath.Join(s.dir, "side")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.Kill)
	for try := 0; ; try++ {
		s.address, err = freeAddress()
		if err == nil {
			s.Endpoint = "http://" + s.address
			err = s.start()
		}
		if err == nil {
			return s
		}
		if try == 3 { // another process may have taken the port in between
			t.Fatal(err)
		}
	}
}

// Start runs the server again after Stop or Kill, on the same port with the same data.
func (s *S3) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *S3) start() error {
	if s.proc != nil {
		return nil
	}
	p, err := start(filepath.Join(s.dir, "log"), s.program, s.kind.env(s), s.kind.args(s, s.DataDir())...)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	err = p.await(s3Patience, func() error {
		res, err := client.Get(s.Endpoint + s.kind.ready)
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if s.kind.ready != "" && res.StatusCode != http.StatusOK {
			return fmt.Errorf("health: %s", res.Status)
		}
		return nil
	})
	if err != nil {
		p.stop(os.Kill, 0)
		return err
	}
	s.proc = p
	return nil
}

// Stop ends the server in good order; the data stays. It may be called when it is stopped.
func (s *S3) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server with SIGKILL; the data stays. It may be called when it is stopped.
func (s *S3) Kill() { s.end(os.Kill) }

func (s *S3) end(sig os.Signal) {
	if s.proc != nil {
		s.proc.stop(sig, 10*time.Second)
		s.proc = nil
	}
}

// PID is the process of a server that is running.
func (s *S3) PID() int { return s.proc.cmd.Process.Pid }

// Bucket makes a new bucket and returns its name. The server must be running.
func (s *S3) Bucket(t testing.TB) string {
	t.Helper()
	return s.newBucket(t, false)
}

// LockedBucket is Bucket with object lock, which objects may ask for.
func (s *S3) LockedBucket(t testing.TB) string {
	t.Helper()
	return s.newBucket(t, true)
}

func (s *S3) newBucket(t testing.TB, lock bool) string {
	t.Helper()
	s.buckets++
	name := fmt.Sprintf("bucket-%d", s.buckets)
	deadline := time.Now().Add(s3Patience)
	for {
		err := s.makeBucket(name, lock)
		if err == nil {
			return name
		}
		// MinIO answers 503 for a moment after it says that it is ready
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// URL is the address of a bucket as Holdfast writes it; prefix may be empty.
func (s *S3) URL(bucket, prefix string) string { return s.URLVia(s.Endpoint, bucket, prefix) }

// URLVia is URL by way of another address of the server, such as the address of a Toxic.
func (s *S3) URLVia(endpoint, bucket, prefix string) string {
	q := url.Values{"endpoint": {endpoint}, "region": {s3Region}}
	return (&url.URL{Scheme: "s3", Host: bucket, Path: "/" + prefix, RawQuery: q.Encode()}).String()
}

// Env is the environment with which a program may use the store.
func (s *S3) Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey}
}

// Getenv looks a variable up in Env alone.
func (s *S3) Getenv(name string) string {
	for _, e := range s.Env() {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v
		}
	}
	return ""
}

// DataDir is the folder in which the server keeps its objects, for tests that damage them.
func (s *S3) DataDir() string { return s.data }

// makeBucket sends one PUT, signed by hand with AWS signature version 4: the
// client library has its home in internal/obs, whose tests use this package.
func (s *S3) makeBucket(name string, lock bool) error {
	req, err := http.NewRequest(http.MethodPut, s.Endpoint+"/"+name, http.NoBody)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	empty := sha256.Sum256(nil)
	payload := hex.EncodeToString(empty[:])
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", payload)
	req.Header.Set("X-Amz-Bucket-Object-Lock-Enabled", strconv.FormatBool(lock))
	const signed = "host;x-amz-bucket-object-lock-enabled;x-amz-content-sha256;x-amz-date"
	canonical := strings.Join([]string{
		http.MethodPut, "/" + name, "",
		"host:" + s.address, "x-amz-bucket-object-lock-enabled:" + strconv.FormatBool(lock),
		"x-amz-content-sha256:" + payload, "x-amz-date:" + stamp, "",
		signed, payload,
	}, "\n")
	digest := sha256.Sum256([]byte(canonical))
	scope := day + "/" + s3Region + "/s3/aws4_request"
	key := []byte("AWS4" + s.SecretKey)
	for _, part := range []string{day, s3Region, "s3", "aws4_request"} {
		key = hmacSHA256(key, part)
	}
	signature := hmacSHA256(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(digest[:]))
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		s.AccessKey, scope, signed, signature))
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

// handedOut has the addresses that freeAddress gave.
var handedOut sync.Map

// freeAddress picks a port on 127.0.0.1 below the ports that the kernel hands out to
// clients, so that no other connection takes it while the server is stopped. It never
// returns a port twice, since the first caller may not listen on it yet.
func freeAddress() (string, error) {
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(22000))
		if _, given := handedOut.LoadOrStore(address, true); given {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("no free port between 10000 and 32000 on 127.0.0.1")
}

// FreeAddress is an address on 127.0.0.1 for a server that is started later, or again and again.
func FreeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// GoProgram finds a program that "make tools" builds from source.
func GoProgram(name string) (string, error) {
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
		if p := filepath.Join(d, name); filepath.IsAbs(p) && isProgram(p) {
			return p, nil
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("%s (\"make tools\" builds it)", name)
}

// moduleRoot is the folder of go.mod above the working folder, which for a test is the
// folder of its package.
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
