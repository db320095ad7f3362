// Package mounts reads the kernel's tables of mounts (proc_pid_mountinfo(5)).
//
// internal/tree asks which places of a tree are mount points, and internal/snapshot asks
// on which storage a volume lies and which mounts stand on it. The package starts no
// goroutine, and asks no file system anything: a table tells about dead file systems too.
package mounts

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Own is the table of the mounts that this process sees.
const Own = "/proc/self/mountinfo"

// Mount is one line of a table.
type Mount struct {
	ID     uint64 // of the mount, which the kernel gives again after the mount is gone
	Device uint64 // number of the device, as unix.Mkdev makes it
	Root   string // the folder of the file system that is mounted
	Point  string // where it is mounted
	Kind   string // of the file system
	Source string // a device or another name, as the file system gives it; "" where it gives none
	Super  string // options of the file system; "" where it has none
}

// Read reads a table, such as Own. Where several mounts lie on one point, the lowest comes first.
func Read(table string) ([]Mount, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	var all []Mount
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		front, back, ok := strings.Cut(sc.Text(), " - ")
		fields, kind := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(kind) < 1 {
			continue
		}
		m := Mount{Root: unescape(fields[3]), Point: unescape(fields[4]), Kind: kind[0]}
		if len(kind) > 1 {
			m.Source = unescape(kind[1])
		}
		if len(kind) > 2 {
			m.Super = unescape(kind[2])
		}
		device, derr := ParseDevice(fields[2])
		id, ierr := strconv.ParseUint(fields[0], 10, 64)
		if err := errors.Join(derr, ierr); err != nil {
			return nil, fmt.Errorf("line %q of %s: %w", sc.Text(), table, err)
		}
		m.ID, m.Device = id, device
		all = append(all, m)
	}
	return all, sc.Err()
}

// ParseDevice reads a device number that is written as major:minor.
func ParseDevice(text string) (uint64, error) {
	major, minor, ok := strings.Cut(strings.TrimSpace(text), ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(err1, err2); err != nil || !ok {
		return 0, fmt.Errorf("device number %q: %w", text, err)
	}
	return unix.Mkdev(uint32(ma), uint32(mi)), nil
}

// unescape undoes that the kernel writes white space, backslashes
// and number signs as a backslash and three octal digits.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool { return strings.Trim(s, "01234567") == "" }
