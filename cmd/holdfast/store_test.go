package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// The verbs against a real S3 store: the way there and back, and the messages when a verb fails.
func TestVerbsOnS3(t *testing.T) {
	minio := testbed.StartMinIO(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fillVolume(tree); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		envStore: minio.URL(minio.Bucket(t), "some/prefix"), envKey: filepath.Join(dir, "key"),
		"AWS_ACCESS_KEY_ID": minio.AccessKey, "AWS_SECRET_ACCESS_KEY": minio.SecretKey,
	}
	expect := func(want int, part string, args ...string) {
		t.Helper()
		code, stdout, stderr := runWith(t, env, args...)
		if code != want || !strings.Contains(stdout+stderr, part) {
			t.Fatalf("holdfast %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), code, want, part, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, minio.SecretKey) {
			t.Fatalf("holdfast %s prints the store's secret", strings.Join(args, " "))
		}
	}
	expect(exitDone, "age1", "key", "new", "--out", env[envKey])
	expect(exitNone, "there is no vault default (s3://", "list")
	expect(exitDone, "made vault default (s3://", "vault", "create")
	expect(exitDone, "sent", "backup", "--instance", "cp-7", tree)
	expect(exitDone, "cp-7", "list")
	expect(exitDone, "checked 1 backup", "verify", "--read-data", "100")
	expect(exitDone, "restored backup", "restore", "--instance", "cp-7", filepath.Join(dir, "out"))
	if _, err := difference(t.Context(), tree, filepath.Join(dir, "out")); err != nil {
		t.Error(err)
	}
	expect(exitNone, "hint: make the bucket", "list", "--store", minio.URL("no-such-bucket", ""))

	secret := env["AWS_SECRET_ACCESS_KEY"]
	env["AWS_SECRET_ACCESS_KEY"] = "wrong"
	expect(exitFailed, "hint: check the access key and its secret", "list")
	env["AWS_SECRET_ACCESS_KEY"] = secret

	minio.Stop()
	interruptWaiting(t, env)
}

// interruptWaiting runs a verb against a store that is away: it
// says so, and Ctrl-C ends it at once.
func interruptWaiting(t *testing.T, env map[string]string) {
	t.Helper()
	program, err := exec.LookPath("holdfast") // this test's own binary, which testscript put there
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "list")
	cmd.Env = os.Environ()
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var stderr buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := func(words string) bool {
		stderr.mu.Lock()
		defer stderr.mu.Unlock()
		return bytes.Contains(stderr.b.Bytes(), []byte(words))
	}
	for end := time.Now().Add(time.Minute); !said("waiting for the store, next try in "); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			t.Fatal("says nothing of the wait")
		}
	}
	start := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted || !said("holdfast: list: interrupted\n") {
		t.Errorf("exit code %d, want %d: %s", code, exitInterrupted, stderr.b.String())
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("ended %v after the interrupt", took)
	}
}

// runWith runs one command line inside this process.
func runWith(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(args, world{stdout: &out, stderr: &err, getenv: func(k string) string { return env[k] }})
	return code, out.String(), err.String()
}
