package obs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

func names(t *testing.T, s obs.Store) []string {
	t.Helper()
	var got []string
	for in, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, in.Key)
	}
	return got
}

func TestFileNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "store")
	if _, err := obs.Open(t.Context(), "file://"+dir, obs.Options{}); !errors.Is(err, obs.ErrNoBucket) {
		t.Fatalf("open: %v, want ErrNoBucket", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a failed Open made the folder")
	}
	s := open(t, "file://"+dir, obs.Options{Create: true, Retry: &once})
	if err := s.Put(t.Context(), "a/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	// The folder goes away under an open store: a disk that was unmounted.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, stat := s.Stat(t.Context(), "a/k")
	errs := map[string]error{"Stat": stat, "Put": s.Put(t.Context(), "b", []byte("x")), "Delete": s.Delete(t.Context(), "a/k")}
	for _, err := range s.List(t.Context(), "") {
		errs["List"] = err
	}
	for what, err := range errs {
		if !errors.Is(err, obs.ErrNoBucket) {
			t.Errorf("%s: %v, want ErrNoBucket", what, err)
		}
	}
	if len(errs) != 4 {
		t.Error("List of a lost store gave no error")
	}
}

// TestFileHostile: a folder that somebody else may write to.
func TestFileHostile(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := errors.Join(
		os.WriteFile(secret, []byte("theirs"), 0o600),
		os.Symlink(secret, filepath.Join(dir, "link")),
		os.Symlink(outside, filepath.Join(dir, "folder")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		os.WriteFile(filepath.Join(dir, "not a key"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	s := open(t, "file://"+dir, obs.Options{Create: true, Retry: &once})
	for _, key := range []string{"link", "folder/secret", "fifo"} {
		if _, err := s.Stat(t.Context(), key); err == nil {
			t.Errorf("Stat %s: no error", key)
		}
		if n, err := s.ReadAt(t.Context(), key, make([]byte, 6), 0); err == nil || n > 0 {
			t.Errorf("ReadAt %s: %d bytes, %v", key, n, err)
		}
		if err := s.Put(t.Context(), key, []byte("ours")); err == nil {
			t.Errorf("Put %s: no error", key)
		}
	}
	if err := s.Put(t.Context(), "folder/new", []byte("ours")); err == nil {
		t.Error("Put wrote through a link out of the store")
	}
	if got := names(t, s); len(got) != 0 {
		t.Errorf("List: %q", got)
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "theirs" {
		t.Errorf("outside: %q, %v", got, err)
	}
}

func TestFileBelowAnObject(t *testing.T) {
	s := open(t, "file://"+t.TempDir(), obs.Options{Create: true, Retry: &once})
	if err := s.Put(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a/b", []byte("x")); !errors.Is(err, obs.ErrUsage) {
		t.Errorf("Put below an object: %v, want ErrUsage", err)
	}
	if err := s.Put(t.Context(), "folder/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"Put": s.Put(t.Context(), "folder", []byte("x")), "PutNew": s.PutNew(t.Context(), "folder", []byte("x")),
	} {
		if !errors.Is(err, obs.ErrUsage) {
			t.Errorf("%s above an object: %v, want ErrUsage", what, err)
		}
	}
}

// TestFileNoSpace fills a small file system: the error says so, no part of the object
// is visible, and the space that the object took is given back.
func TestFileNoSpace(t *testing.T) {
	testbed.Need(t, "ext4")
	dir := testbed.Filesystem(t, "ext4", 32<<20)
	s := open(t, "file://"+dir, obs.Options{Create: true})
	var stored []string
	for i := range 40 {
		key := fmt.Sprintf("packs/%02d", i)
		err := s.Put(t.Context(), key, obstest.Body(key, 3<<20))
		if err == nil {
			stored = append(stored, key)
			continue
		}
		if !errors.Is(err, obs.ErrNoSpace) || errors.Is(err, obs.ErrUnavailable) {
			t.Fatalf("Put on a full disk: %v, want ErrNoSpace", err)
		}
		break
	}
	if len(stored) == 0 || len(stored) == 40 {
		t.Fatalf("stored %d objects", len(stored))
	}
	if got := names(t, s); !slices.Equal(got, stored) {
		t.Errorf("List: %q, want %q", got, stored)
	}
	if left, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in .tmp: %v, %v", left, err)
	}
	for _, key := range stored {
		if got, err := obstest.ReadAll(t.Context(), s, key); err != nil || !bytes.Equal(got, obstest.Body(key, 3<<20)) {
			t.Errorf("read %s: %d bytes, %v", key, len(got), err)
		}
	}
	if err := s.Delete(t.Context(), stored[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "packs/next", obstest.Body("next", 2<<20)); err != nil {
		t.Errorf("Put after room was made: %v", err)
	}
}

// TestFileProcesses has several processes take the same names.
func TestFileProcesses(t *testing.T) {
	dir := t.TempDir()
	obstest.Folder(t, dir)
	var mu sync.Mutex
	winners := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), writerVariable+"=file://"+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("writer: %v\n%s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			for line := range strings.Lines(string(out)) {
				if key, ok := strings.CutPrefix(strings.TrimSpace(line), "won "); ok {
					winners[key]++
				}
			}
		})
	}
	wg.Wait()
	s := open(t, "file://"+dir, obs.Options{})
	all := names(t, s)
	if len(all) != 50 {
		t.Fatalf("%d objects, want 50", len(all))
	}
	for _, key := range all {
		if winners[key] != 1 {
			t.Errorf("%s was taken by %d writers", key, winners[key])
		}
	}
}

// writerVariable holds the store of a process that TestFileProcesses started.
const writerVariable = "HOLDFAST_OBS_TEST_WRITER"

// writer is the work of such a process: it tries to take each name, and prints the
// names that it got.
func writer(url string) error {
	s, err := obs.Open(context.Background(), url, obs.Options{})
	if err != nil {
		return err
	}
	for i := range 50 {
		key := fmt.Sprintf("n/%d/%02d", i%3, i)
		switch err := s.PutNew(context.Background(), key, fmt.Append(nil, os.Getpid())); {
		case err == nil:
			fmt.Println("won", key)
		case !errors.Is(err, obs.ErrExists):
			return err
		}
	}
	return s.Close()
}
