package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Summary is the result of Verify.
type Summary struct {
	Files int
	Lines uint64
	// number of the first line that is there: above 1 where older files were deleted
	First       uint64
	Begin, End  time.Time
	Head        Head
	Incomplete  bool // the last line was not written whole, as by a crash
	sawExpected bool
}

// ChainError names the place where a log differs from the log that the agent wrote.
type ChainError struct {
	File string
	Line int // from 1
	Why  string
}

// Error gives file:line: why.
func (e *ChainError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Why) }

// ErrHead says that a log does not hold the line that was noted as
// the head of its chain: its end was cut off, or it was written anew.
var ErrHead = errors.New("the line that was noted as the head is not in the log")

// Verify reads the log at path and its rotated files, and checks that each line
// follows the one before. A *ChainError says where that ends. With a head that
// was noted before (not the zero value), that line must be in it, else ErrHead.
func Verify(path string, noted Head) (Summary, error) {
	files, err := siblings(path)
	if err != nil {
		return Summary{}, err
	}
	if _, err := os.Stat(path); err == nil || len(files) == 0 {
		files = append(files, path)
	}
	s := Summary{Files: len(files)}
	for i, file := range files {
		if err := s.file(file, noted, i == len(files)-1); err != nil {
			return s, err
		}
	}
	if noted.Seq > 0 && !s.sawExpected {
		return s, fmt.Errorf("%w: %s", ErrHead, noted)
	}
	return s, nil
}

func (s *Summary) file(path string, noted Head, last bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, MaxLineBytes)
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		wrong := func(format string, args ...any) error {
			return &ChainError{File: path, Line: n, Why: fmt.Sprintf(format, args...)}
		}
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF) && last:
			s.Incomplete = true
			return nil
		case errors.Is(err, io.EOF):
			return wrong("the line ends too early")
		case errors.Is(err, bufio.ErrBufferFull):
			return wrong("the line is longer than %d bytes", MaxLineBytes)
		case err != nil:
			return err
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		var e Entry
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			return wrong("is no line of an audit log")
		}
		prev := hex.EncodeToString(s.Head.Hash[:])
		switch {
		case s.Lines == 0 && e.Seq == 1 && e.Prev != prev, s.Lines > 0 && e.Prev != prev:
			return wrong("line %d does not follow the one before: that was changed, or lines are missing or were added", e.Seq)
		case e.Seq == 0, s.Lines > 0 && e.Seq != s.Head.Seq+1:
			return wrong("line %d follows line %d", e.Seq, s.Head.Seq)
		}
		if s.Lines == 0 {
			s.First, s.Begin = e.Seq, e.Time
		}
		s.Lines++
		s.End = e.Time
		s.Head = Head{e.Seq, sha256.Sum256(line)}
		if s.Head == noted {
			s.sawExpected = true
		}
	}
}
