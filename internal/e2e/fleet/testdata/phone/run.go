package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a volume: records is appended to; pages is written in place, a page for each
// of the last records; lives has a file for each of the last lives, named by its digest.
const (
	pageSize  = 4096
	pageCount = 64
	lifeSize  = 300 << 10
	livesKept = 3
	pause     = 150 * time.Millisecond
)

// run is one life: it looks whether the volume is whole, says what
// it found, and goes on where the last life ended.
func run(dir, volume, life string) error {
	if what, err := os.ReadFile(filepath.Join(dir, "tablet")); err == nil {
		return runTablet(dir, volume, life, string(what))
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("the phone runs already: %w", err)
	}
	count, fault := examineVolume(volume)
	if fault == nil {
		fault = addLife(volume)
	}
	found := "ok"
	if fault != nil {
		found = fault.Error()
	}
	if err := appendLine(filepath.Join(dir, "starts"), fmt.Sprintf("%s %d %d %s\n", life, count, time.Now().UnixNano(), found)); err != nil {
		return err
	}
	if err := writePID(dir); err != nil {
		return err
	}
	if fault != nil {
		return fault
	}
	return write(dir, volume, life, count)
}

// writePID says which process lives.
func writePID(dir string) error {
	_, began := stat("/proc/self")
	pid := filepath.Join(dir, "pid")
	if err := os.WriteFile(pid+".new", fmt.Appendf(nil, "%d %s\n", os.Getpid(), began), 0o600); err != nil {
		return err
	}
	return os.Rename(pid+".new", pid)
}

func write(dir, volume, life string, n int) error {
	const flags = os.O_CREATE | os.O_APPEND | os.O_WRONLY
	records, err := os.OpenFile(filepath.Join(volume, "records"), flags, 0o600)
	if err != nil {
		return err
	}
	pages, err := os.OpenFile(filepath.Join(volume, "pages"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	told, err := os.OpenFile(filepath.Join(dir, "told"), flags, 0o600)
	if err != nil {
		return err
	}
	for ; ; n++ {
		if _, err := pages.WriteAt(page(n), int64(n%pageCount)*pageSize); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(pages.Fd())); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(records, "%d %s\n", n, life); err != nil {
			return err
		}
		if err := records.Sync(); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(told, "%d %s\n", n, life); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// page is the page of record n.
func page(n int) []byte {
	line := fmt.Appendf(nil, "page of record %d\n", n)
	return bytes.Repeat(line, pageSize/len(line)+1)[:pageSize]
}

// examineVolume counts the records and looks whether all that belongs to them is there.
func examineVolume(volume string) (count int, err error) {
	text, err := os.ReadFile(filepath.Join(volume, "records"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // the first life
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var n int
		var life string
		if _, err := fmt.Sscanf(line, "%d %s\n", &n, &life); err != nil || n != count || !strings.HasSuffix(line, "\n") {
			return count, fmt.Errorf("record %d is %q", count, line)
		}
		count++
	}
	pages, err := os.ReadFile(filepath.Join(volume, "pages"))
	if err != nil {
		return count, err
	}
	for n := max(0, count-pageCount); n < count; n++ {
		at := n % pageCount * pageSize
		if len(pages) < at+pageSize {
			return count, fmt.Errorf("pages ends before that of record %d", n)
		}
		got := pages[at : at+pageSize]
		// The page of the next record is durable before the record is.
		if !bytes.Equal(got, page(n)) && (n+pageCount != count || !bytes.Equal(got, page(count))) {
			return count, fmt.Errorf("the page of record %d begins with %q", n, got[:24])
		}
	}
	return count, examineLives(volume)
}

func examineLives(volume string) error {
	files, err := filepath.Glob(filepath.Join(volume, "lives", "*-*"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("the files of the lives are gone")
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if _, digest, _ := strings.Cut(filepath.Base(f), "-"); digest != digestOf(content) {
			return fmt.Errorf("the content of %s is not what its name says", f)
		}
	}
	return nil
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16])
}

// addLife adds the file of this life, and removes the oldest.
func addLife(volume string) error {
	lives := filepath.Join(volume, "lives")
	if err := os.MkdirAll(lives, 0o700); err != nil {
		return err
	}
	content := make([]byte, lifeSize)
	_, _ = rand.Read(content)
	name := fmt.Sprintf("%020d-%s", time.Now().UnixNano(), digestOf(content))
	temporary := filepath.Join(lives, "new")
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(lives, name)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(lives, "*-*")) // sorted, so the oldest first
	if err != nil {
		return err
	}
	for _, old := range files[:max(0, len(files)-livesKept)] {
		if err := os.Remove(old); err != nil {
			return err
		}
	}
	return nil
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Sync()
}
