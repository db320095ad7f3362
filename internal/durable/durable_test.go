package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"holdfast/internal/durable"
)

func content(t *testing.T, path string) string {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func onlyNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func TestWriteFileReplaces(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for i, perm := range []fs.FileMode{0o600, 0o644, 0o400} {
		if err := durable.WriteFile(path, fmt.Append(nil, i), perm); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if content(t, path) != fmt.Sprint(i) || fi.Mode().Perm() != perm {
			t.Errorf("after write %d: %q with permissions %v, want %v", i, content(t, path), fi.Mode().Perm(), perm)
		}
	}
	onlyNames(t, dir, "f")
}

func TestWriteFileDoesNotFollowLinks(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "f")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(link, []byte("ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if content(t, outside) != "theirs" || content(t, link) != "ours" {
		t.Errorf("outside %q, ours %q", content(t, outside), content(t, link))
	}
}

func TestPublishOneWinner(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var won atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			switch err := durable.Publish(path, fmt.Append(nil, w), 0o600); {
			case err == nil:
				won.Add(int64(1 + 100*w))
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("writer %d: %v", w, err)
			}
		})
	}
	wg.Wait()
	if won.Load()%100 != 1 || content(t, path) != fmt.Sprint(won.Load()/100) {
		t.Errorf("winners %d, content %q", won.Load(), content(t, path))
	}
	onlyNames(t, dir, "f")
}

func TestMissingFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "f")
	if err := durable.WriteFile(path, nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := durable.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(path); err != nil || !fi.IsDir() {
		t.Errorf("%v, %v", fi, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"f", "f/below"} {
		if err := durable.MkdirAll(filepath.Join(dir, p), 0o700); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("%s: error %v", p, err)
		}
	}
}
