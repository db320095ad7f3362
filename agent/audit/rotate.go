package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A file of the log ends when it is full, or when another program (logrotate, an
// administrator) renames, removes or empties it. In each case the chain goes on:
// the first line of the new file has the hash of the last line of the old one.

// follow checks whether the file at the path is still the file that is open, and goes on in a new
// file where it is not. rotated says that it does. After an error the log goes on in the open file.
func (l *Log) follow() (rotated bool, err error) {
	there, err := os.Stat(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err == nil {
		open, err := l.file.Stat()
		if err != nil {
			return false, err
		}
		if os.SameFile(there, open) {
			if open.Size() < l.size { // emptied (copytruncate)
				l.size = open.Size()
				return true, nil
			}
			return false, nil
		}
	}
	next, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	size, err := l.takeOver(next)
	if err != nil {
		return false, errors.Join(err, next.Close())
	}
	old := l.file
	l.file, l.size = next, size
	return true, errors.Join(old.Close(), syncDir(l.path))
}

// takeOver makes a file that somebody else has put at the path fit
// for lines: it must end in a whole line, or be empty.
func (l *Log) takeOver(next *os.File) (size int64, err error) {
	if err := next.Chmod(0o600); err != nil {
		return 0, err
	}
	end, _, err := lastLine(next)
	if err != nil {
		return 0, err
	}
	info, err := next.Stat()
	if err == nil && info.Size() != end {
		err = fmt.Errorf("%s was put in the place of the log, and does not end in a line", l.path)
	}
	return end, err
}

// rotate renames the file and begins a new one, and tells whether one began. A crash in
// between leaves no current file, and Open goes on from the renamed. After an error the
// log goes on in the file that is open, which has its name again where that could be done.
func (l *Log) rotate() (began bool, err error) {
	renamed := fmt.Sprintf("%s.%0*d", l.path, seqDigits, l.head.Seq)
	if err := os.Rename(l.path, renamed); err != nil {
		return false, err
	}
	next, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, errors.Join(err, os.Rename(renamed, l.path))
	}
	old := l.file
	l.file, l.size = next, 0
	errs := []error{old.Close(), syncDir(l.path)}
	files, err := siblings(l.path)
	errs = append(errs, err)
	for len(files) > l.o.Keep {
		errs = append(errs, os.Remove(files[0]))
		files = files[1:]
	}
	if err := errors.Join(errs...); err != nil {
		return true, fmt.Errorf("a new file began, but: %w", err)
	}
	return true, nil
}

// newestOf returns the last line of the chain among the renamed files: the files of
// this package, and the files that logrotate names (audit.log.1, audit.log-20261130).
// It is nil where there is no such line.
func newestOf(path string) (line []byte, err error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var newest Entry
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok || rest == "" || rest[0] != '.' && rest[0] != '-' || strings.HasPrefix(rest, ".damaged-") || !e.Type().IsRegular() {
			continue
		}
		last, err := lastLineOf(filepath.Join(filepath.Dir(path), e.Name()))
		if err != nil || last == nil {
			continue // another program's, or compressed
		}
		var entry Entry
		if json.Unmarshal(last, &entry) == nil && entry.Seq > newest.Seq {
			newest, line = entry, last
		}
	}
	return line, nil
}
