package obs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// fileClass checks that an error of a file store is of a class and does not speak
// of the store's inside, and that its hint speaks of the folder and the disk.
func fileClass(t *testing.T, what string, err, class error, hint string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: %v, want class %v", what, err, class)
		return
	}
	got := obs.Hint(err)
	if !strings.Contains(got, hint) || got == "" {
		t.Errorf("%s: hint %q, want one with %q", what, got, hint)
	}
	for _, word := range []string{"credential", "bucket", "access key", "region"} {
		if strings.Contains(strings.ReplaceAll(got, "or in a bucket", "")+err.Error(), word) {
			t.Errorf("%s: %v (hint: %s) speaks of %q", what, err, got, word)
		}
	}
	for _, inside := range []string{".holdfast+", "openat", "statat", "linkat", "/.tmp"} {
		if strings.Contains(err.Error(), inside) {
			t.Errorf("%s: %v speaks of %q", what, err, inside)
		}
	}
}

// TestFileFaults: each refusal of a file system has its class and its hint.
func TestFileFaults(t *testing.T) {
	f := testbed.StartFUSE(t)
	url := "file://" + f.Point
	s := open(t, url, obs.Options{Create: true, Retry: &once})
	if err := s.Put(t.Context(), "a/old", []byte("content")); err != nil {
		t.Fatal(err)
	}
	put := func() error { return s.Put(t.Context(), "a/new", []byte("x")) }
	read := func() error { _, err := s.ReadAt(t.Context(), "a/old", make([]byte, 7), 0); return err }
	stat := func() error { _, err := s.Stat(t.Context(), "a/old"); return err }
	list := func() error {
		for _, err := range s.List(t.Context(), "") {
			if err != nil {
				return err
			}
		}
		return nil
	}
	remove := func() error { return s.Delete(t.Context(), "a/old") }
	reopen := func() error {
		again, err := obs.Open(t.Context(), url, obs.Options{Create: true, Retry: &once})
		if err == nil {
			return again.Close()
		}
		return err
	}
	for _, c := range []struct {
		errno syscall.Errno
		class error
		hint  string
	}{
		{unix.EROFS, obs.ErrReadOnly, "dmesg"},
		{unix.EACCES, obs.ErrFolderAccess, "permissions of the store's folder"},
		{unix.EPERM, obs.ErrFolderAccess, "permissions of the store's folder"},
		{unix.ENOSPC, obs.ErrDiskFull, "df shows"},
		{unix.EDQUOT, obs.ErrDiskQuota, "quota"},
		{unix.EFBIG, obs.ErrFileSize, "FAT"},
		{unix.EIO, obs.ErrDisk, "dmesg"},
		{unix.EUCLEAN, obs.ErrDisk, "dmesg"},
		{unix.ESTALE, obs.ErrDisk, "server"},
		{unix.ENOTCONN, obs.ErrDisk, "server"},
		{unix.ENOMEM, obs.ErrHostBusy, "memory"},
		{unix.EMFILE, obs.ErrHostBusy, "open files"},
	} {
		for _, o := range []struct {
			op testbed.FUSEOp
			do map[string]func() error
		}{
			{testbed.FUSECreate, map[string]func() error{"put": put, "open": reopen}},
			{testbed.FUSEWrite, map[string]func() error{"put": put, "open": reopen}},
			{testbed.FUSEFlush, map[string]func() error{"put": put, "open": reopen}},
			{testbed.FUSESync, map[string]func() error{"put": put, "open": reopen}},
			{testbed.FUSERead, map[string]func() error{"read": read}},
			{testbed.FUSEOpen, map[string]func() error{"read": read}},
			{testbed.FUSELookup, map[string]func() error{"stat": stat}},
			{testbed.FUSEReadFolder, map[string]func() error{"list": list}},
			{testbed.FUSEUnlink, map[string]func() error{"delete": remove}},
		} {
			f.Set(testbed.FUSERefuses(c.errno, o.op))
			for what, do := range o.do {
				err := do()
				fileClass(t, fmt.Sprintf("%v at %s, %s", c.errno, o.op, what), err, c.class, c.hint)
			}
			f.Set()
			if err := s.Delete(t.Context(), "a/new"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := names(t, s); !slices.Equal(got, []string{"a/old"}) {
		t.Errorf("List: %q", got)
	}
}

// TestFileFaultsOfDisks: a read-only mount, a folder without rights
// and a disk without inodes, for real.
func TestFileFaultsOfDisks(t *testing.T) {
	testbed.Need(t, "ext4")
	dir := testbed.Filesystem(t, "ext4", 16<<20)
	folder := filepath.Join(dir, "store")
	s := open(t, "file://"+folder, obs.Options{Create: true, Retry: &once})
	if err := s.Put(t.Context(), "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fileClass(t, "without inodes", s.Put(t.Context(), "l", []byte("x")), obs.ErrNoInodes, "df -i")
	for i := range 10 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), "l", []byte("x")); err != nil {
		t.Errorf("with inodes: %v", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	fileClass(t, "put, read-only", s.Put(t.Context(), "m", []byte("x")), obs.ErrReadOnly, "mount the disk")
	fileClass(t, "delete, read-only", s.Delete(t.Context(), "k"), obs.ErrReadOnly, "mount the disk")
	if _, err := obs.Open(t.Context(), "file://"+folder, obs.Options{Create: true, Retry: &once}); err == nil {
		t.Error("a vault may be made on a read-only disk")
	} else {
		fileClass(t, "create, read-only", err, obs.ErrReadOnly, "mount the disk")
	}
	// The objects that are there can be read.
	r := open(t, "file://"+folder, obs.Options{Retry: &once})
	if got := names(t, r); !slices.Equal(got, []string{"k", "l"}) {
		t.Errorf("List: %q", got)
	}
	_, err := obs.Open(t.Context(), "file://"+filepath.Join(dir, "none"), obs.Options{Retry: &once})
	fileClass(t, "no folder", err, obs.ErrNoFolder, "mounted")
}

// oddFileSystems are file systems that can hold a store, each with the warnings of that store.
var oddFileSystems = map[string]struct {
	odd   []testbed.Oddity
	warns []string
}{
	"no links":        {[]testbed.Oddity{testbed.FUSERefuses(unix.EPERM, testbed.FUSELink)}, []string{"no hard links"}},
	"no permissions":  {[]testbed.Oddity{testbed.FUSERefuses(unix.EPERM, testbed.FUSEChmod)}, []string{"no permissions"}},
	"no folder flush": {[]testbed.Oddity{testbed.FUSERefuses(unix.EINVAL, testbed.FUSESyncFolder)}, []string{"does not flush folders"}},
	"no locks":        {[]testbed.Oddity{testbed.FUSERefuses(unix.ENOLCK, testbed.FUSELock)}, []string{"no locks"}},
	"numbers change":  {[]testbed.Oddity{testbed.FUSENumbersChange()}, nil},
	"nothing": {[]testbed.Oddity{
		testbed.FUSERefuses(unix.EOPNOTSUPP, testbed.FUSELink, testbed.FUSEChmod, testbed.FUSESyncFolder, testbed.FUSELock), testbed.FUSENumbersChange(),
	}, []string{"does not flush folders", "no hard links", "no locks", "no permissions"}},
}

// TestFileOnOddFileSystems runs the suite of the contract where a file system lacks something.
func TestFileOnOddFileSystems(t *testing.T) {
	for name, c := range oddFileSystems {
		t.Run(name, func(t *testing.T) {
			obstest.Run(t, func(t *testing.T) obs.Store {
				f := testbed.StartFUSE(t)
				f.Set(c.odd...)
				w := &warnings{}
				s := open(t, "file://"+f.Point, obs.Options{Create: true, Warn: w.add})
				t.Cleanup(func() { w.check(t, c.warns...) })
				return s
			}, "ListMany") // takes seconds in user space
		})
	}
}

// warnings collects the warnings of a store.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) add(message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, message)
}

// check wants one warning with each of these words and no other.
func (w *warnings) check(t *testing.T, words ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.all)
	ok := len(w.all) == len(words)
	for _, word := range words {
		ok = ok && slices.ContainsFunc(w.all, func(m string) bool { return strings.Contains(m, word) })
	}
	if !ok {
		t.Errorf("warnings %q, want %q", w.all, words)
	}
}

// TestFileSystemThatHoldsNoStore: refused at creation, with the
// reason and the remedy, and nothing is left in the folder.
func TestFileSystemThatHoldsNoStore(t *testing.T) {
	for name, ops := range map[string][]testbed.FUSEOp{
		"neither links nor the rename": {testbed.FUSELink, testbed.FUSERenameNew}, "no flush of files": {testbed.FUSESync},
	} {
		f := testbed.StartFUSE(t)
		f.Set(testbed.FUSERefuses(unix.EINVAL, ops...))
		_, err := obs.Open(t.Context(), "file://"+f.Point, obs.Options{Create: true, Retry: &once})
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		fileClass(t, name, err, obs.ErrFileSystem, "ext4")
		if left, err := os.ReadDir(filepath.Join(f.Folder, ".tmp")); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
		// A store that was made elsewhere and copied there is refused at its first write.
		obstest.Folder(t, f.Folder)
		s := open(t, "file://"+f.Point, obs.Options{Retry: &once})
		fileClass(t, name+", put", s.Put(t.Context(), "k", []byte("x")), obs.ErrFileSystem, "ext4")
	}
}

// TestFileTemporaryOfLiveWriter: the temporary file of a writer at work stays, and the
// file of a dead writer is removed, at any time of the clock.
func TestFileTemporaryOfLiveWriter(t *testing.T) {
	f := testbed.StartFUSE(t)
	dir := f.Point
	obstest.Folder(t, f.Folder)
	s := open(t, "file://"+dir, obs.Options{Retry: &once})
	begun, goOn := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	f.Set(testbed.Oddity{Fail: func(op testbed.FUSEOp, _ string) syscall.Errno {
		// while it waits, the file can still be looked at
		if op == testbed.FUSEFlush && first.CompareAndSwap(false, true) {
			close(begun)
			<-goOn
		}
		return 0
	}})
	stored := make(chan error, 1)
	go func() { stored <- s.Put(context.Background(), "k", []byte("content")) }()
	<-begun
	tmp := filepath.Join(f.Folder, ".tmp")
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 1 {
		t.Fatalf("in .tmp: %v, %v", left, err)
	}
	for _, when := range []time.Time{time.Unix(0, 0), time.Now().AddDate(50, 0, 0)} {
		if err := os.WriteFile(filepath.Join(tmp, ".holdfast+DEAD"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{left[0].Name(), ".holdfast+DEAD"} {
			if err := os.Chtimes(filepath.Join(tmp, name), when, when); err != nil {
				t.Fatal(err)
			}
		}
		open(t, "file://"+dir, obs.Options{})
		if now, err := os.ReadDir(tmp); err != nil || len(now) != 1 || now[0].Name() != left[0].Name() {
			t.Errorf("%v: in .tmp there are %v, %v", when, now, err)
		}
	}
	close(goOn)
	if err := <-stored; err != nil {
		t.Errorf("the writer: %v", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("after Put there are %v in .tmp, %v", left, err)
	}
	if got, err := obstest.ReadAll(t.Context(), s, "k"); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestFileKilledWriter kills a process while it writes: the next Open removes the
// temporary file that the process left, even if its date is in the future.
func TestFileKilledWriter(t *testing.T) {
	dir := t.TempDir()
	obstest.Folder(t, dir)
	tmp := filepath.Join(dir, ".tmp")
	for round := 0; ; round++ {
		if round == 200 {
			t.Fatal("no kill came while a file was being written")
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), endlessVariable+"=file://"+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(out, make([]byte, 1)) // it is about to write
		var left []os.DirEntry
		for end := time.Now().Add(time.Minute); err == nil && len(left) == 0 && time.Now().Before(end); {
			if left, err = os.ReadDir(tmp); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		}
		if kerr := cmd.Process.Kill(); err != nil || kerr != nil {
			t.Fatal(err, kerr)
		}
		_ = cmd.Wait()
		if left, err = os.ReadDir(tmp); err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			continue
		}
		for _, e := range left {
			when := time.Now().AddDate(20, 0, 0)
			if err := os.Chtimes(filepath.Join(tmp, e.Name()), when, when); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, "file://"+dir, obs.Options{})
		if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
			t.Errorf("after Open there are %v in .tmp, %v", left, err)
		}
		// Each object that the killed writer confirmed or named is whole.
		for _, key := range names(t, s) {
			if got, err := obstest.ReadAll(t.Context(), s, key); err != nil || !bytes.Equal(got, endlessBody()) {
				t.Errorf("%s: %d bytes, %v", key, len(got), err)
			}
		}
		return
	}
}

// endlessVariable holds the store of a process that TestFileKilledWriter started.
const endlessVariable = "HOLDFAST_OBS_TEST_ENDLESS"

func endlessBody() []byte { return obstest.Body("endless", 4<<20) }

// endless is the work of such a process: it writes until it is killed.
func endless(url string) error {
	s, err := obs.Open(context.Background(), url, obs.Options{})
	if err != nil {
		return err
	}
	body := endlessBody()
	for i := 0; ; i++ {
		fmt.Print(".")
		key := fmt.Sprintf("e/%d", i%3)
		if err := errors.Join(s.Delete(context.Background(), key), s.Put(context.Background(), key, body)); err != nil {
			return err
		}
	}
}

// TestFileLeftWithoutLocks: without locks the store can't tell whether the writer of a
// temporary file is alive, so the file stays and the store warns the operator.
func TestFileLeftWithoutLocks(t *testing.T) {
	f := testbed.StartFUSE(t)
	left := filepath.Join(f.Folder, ".tmp", ".holdfast+LEFT")
	obstest.Folder(t, f.Folder)
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Set(testbed.FUSERefuses(unix.ENOSYS, testbed.FUSELock))
	w := &warnings{}
	open(t, "file://"+f.Point, obs.Options{Warn: w.add})
	w.check(t, "1 temporary files lie in its folder .tmp")
	if _, err := os.Stat(left); err != nil {
		t.Error(err)
	}
}
