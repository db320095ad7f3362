// Package audit keeps the log of all commands and their callers: one JSON object a line, each
// with the SHA-256 of the line before, so that a changed, added or removed line shows (Verify).
//
// Package agent appends an Entry for each command before the command is answered; the command
// line verifies. A chain can't show that somebody who may write the file cut off its end, or
// wrote all of it anew: to show that, the head (the number and hash of the last line) must be
// kept elsewhere. The agent writes the head to its own log at each start, stop and rotation.
//
// The package starts no goroutine. A crash may leave a part of a line at the end, of a
// command that was not answered; Open removes it.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/plain"
)

// MaxLineBytes bounds a line: a hundred instance ids and all the rest take a tenth of it.
const MaxLineBytes = 64 << 10

// seqDigits is the length of the number at the end of a rotated file's name: the Seq of the
// file's last line, padded with zeros, so that names sort as lines do.
const seqDigits = 20

// Entry is one command and its answer. It holds no token and no content of a backup.
type Entry struct {
	Seq uint64 `json:"seq"` // from 1, without gaps; set by Append
	// SHA-256 of the line before, in hex; zeros for the first; set by Append
	Prev      string    `json:"prev"`
	Time      time.Time `json:"time"` // UTC, of the call
	From      string    `json:"from"` // address of the peer, or socket
	Via       string    `json:"via,omitempty"`
	Role      string    `json:"role,omitempty"` // "" of a caller that nobody knew
	Tenant    string    `json:"tenant,omitempty"`
	User      string    `json:"user,omitempty"`
	Call      string    `json:"call"` // POST /v1/instances/backup
	RequestID string    `json:"request_id,omitempty"`
	Instances []string  `json:"instances,omitempty"`
	Task      string    `json:"task,omitempty"` // that it made, or was about
	Status    int       `json:"status"`
	Code      string    `json:"code"`
	Reference string    `json:"reference,omitempty"`
	// Unlisted counts the calls of callers that nobody knew which
	// were left out since the line before.
	Unlisted uint64 `json:"unlisted,omitempty"`
}

// Head is the end of a chain. The zero value is the head of an empty chain.
type Head struct {
	Seq  uint64
	Hash [sha256.Size]byte
}

// String is SEQ:HASH, the hash in hex.
func (h Head) String() string {
	return strconv.FormatUint(h.Seq, 10) + ":" + hex.EncodeToString(h.Hash[:])
}

// ParseHead reads what Head.String writes.
func ParseHead(text string) (h Head, err error) {
	seq, hash, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	sum, err2 := hex.DecodeString(hash)
	if err != nil || err2 != nil || len(sum) != sha256.Size {
		return h, fmt.Errorf("%q is not NUMBER:HASH, with the hash as 64 hex digits", text)
	}
	h.Seq = n
	copy(h.Hash[:], sum)
	return h, nil
}

// Options of Open.
type Options struct {
	MaxBytes int64 // of one file; beyond it a new one begins
	Keep     int   // files beside the current one; older ones are deleted
}

// Log appends. It is safe for concurrent use; one process may have a log open.
type Log struct {
	path string
	o    Options

	mu    sync.Mutex
	file  *os.File
	size  int64
	head  Head
	aside string
}

// ErrNotRotated says that the entry is in the log, and that a file which is full could not be
// followed by a new one. The log goes on in the full file, and the next Append tries again.
var ErrNotRotated = errors.New("a new file could not be begun")

// Open opens the log at path, or makes one (mode 0600), and goes on with
// its chain. A file whose end is no line of a log is set aside, see Aside.
func Open(path string, o Options) (*Log, error) {
	l := &Log{path: path, o: o}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return l, nil
}

func (l *Log) open() (err error) {
	if l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return err
	}
	end, last, err := lastLine(l.file)
	if err == nil && last == nil {
		// Empty: the chain goes on from the newest file that was
		// renamed, by this package or by another program.
		var findErr error
		if last, findErr = newestOf(l.path); findErr != nil {
			return errors.Join(findErr, l.file.Close())
		}
	}
	if err == nil && last != nil {
		var e Entry
		if err = json.Unmarshal(last, &e); err == nil {
			l.head = Head{e.Seq, sha256.Sum256(last)}
		}
	}
	if err != nil {
		aside := fmt.Sprintf("%s.damaged-%d", l.path, time.Now().UnixNano())
		l.aside = fmt.Sprintf("%v; set aside as %s", err, aside)
		if err := errors.Join(l.file.Close(), os.Rename(l.path, aside)); err != nil {
			return err
		}
		end, l.head = 0, Head{}
		if l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
			return err
		}
	}
	// The bytes behind the last line end are a line that was not written whole.
	if err := l.file.Truncate(end); err != nil {
		return errors.Join(err, l.file.Close())
	}
	l.size = end
	return syncDir(l.path)
}

// Aside names the fault of a damaged log that Open found, and its new path; empty when
// Open found none.
func (l *Log) Aside() string { return l.aside }

// Head is the end of the chain as it is now.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Append writes e and returns when it is on disk. rotated tells that a new file began:
// the one before was full, or another program renamed or removed it. After an error
// that is not ErrNotRotated the entry is not in the log, and the next may succeed.
func (l *Log) Append(e Entry) (rotated bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq, e.Prev, e.Time = l.head.Seq+1, hex.EncodeToString(l.head.Hash[:]), e.Time.UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return false, fmt.Errorf("audit log: %w", err)
	}
	line = plain.JSON(line)
	if len(line) >= MaxLineBytes {
		return false, fmt.Errorf("audit log: a line of %d bytes", len(line))
	}
	rotated, turn := l.follow()
	if l.size > 0 && l.size+int64(len(line))+1 > l.o.MaxBytes {
		began, err := l.rotate()
		rotated, turn = rotated || began, errors.Join(turn, err)
	}
	if _, err = l.file.Write(append(line, '\n')); err == nil {
		err = l.file.Sync()
	}
	if err != nil { // nothing of it may stay before the next line
		return rotated, fmt.Errorf("audit log: %w", errors.Join(err, l.file.Truncate(l.size)))
	}
	l.size += int64(len(line)) + 1
	l.head = Head{e.Seq, sha256.Sum256(line)}
	if turn != nil {
		return rotated, fmt.Errorf("audit log: %w: %w", ErrNotRotated, turn)
	}
	return rotated, nil
}

// Close closes the file. It is idempotent.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// siblings lists the rotated files of path, the oldest first.
func siblings(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if ok && len(digits) == seqDigits && strings.Trim(digits, "0123456789") == "" {
			files = append(files, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(files)
	return files, nil
}

func lastLineOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, line, err := lastLine(f)
	return line, err
}

// lastLine gives the last whole line, without its end, and where
// that ends in the file; nil when there is none.
func lastLine(f *os.File) (end int64, line []byte, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, nil, err
	}
	begin := max(info.Size()-2*MaxLineBytes, 0)
	tail, err := io.ReadAll(io.NewSectionReader(f, begin, info.Size()-begin))
	if err != nil {
		return 0, nil, err
	}
	n := bytes.LastIndexByte(tail, '\n') + 1
	if n == 0 {
		if begin > 0 || len(tail) > MaxLineBytes {
			return 0, nil, fmt.Errorf("%s does not end in a line", f.Name())
		}
		return 0, nil, nil
	}
	line = tail[:n-1]
	return begin + int64(n), line[bytes.LastIndexByte(line, '\n')+1:], nil
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
