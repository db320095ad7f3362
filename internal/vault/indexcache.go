package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// segmentDir is a vault's folder of index segments on the local disk: files with the very bytes of the stored
// objects and their ids as names. They are sealed, so whoever can read or write the disk can neither read nor
// forge a row. Any number of processes may use a folder at once: a file comes to its name by a rename, is
// never changed, and may be removed while others have it mapped. Without a path, files have no names and are
// gone with the process.
//
// Nothing is synced: after a power loss a file may be torn, which its length or its seal tells, and then it is
// fetched again.
type segmentDir struct{ path string }

const (
	// staleFile is the age at which an unfinished file is taken for a killed process's.
	staleFile = 24 * time.Hour
	// staleVault is the age at which the folder of a vault that nobody opened any more is removed.
	staleVault = 30 * 24 * time.Hour
)

// openSegmentDir returns the vault's folder in dir, and removes those of vaults not used for long; "" keeps nothing.
func (v *Vault) openSegmentDir(dir string) (segmentDir, error) {
	if dir == "" {
		return segmentDir{}, nil
	}
	path := filepath.Join(dir, v.Fingerprint())
	if err := os.MkdirAll(path, 0o700); err != nil {
		return segmentDir{}, err
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // at worst it is fetched again
	others, err := os.ReadDir(dir)
	if err != nil {
		return segmentDir{}, err
	}
	for _, e := range others {
		info, err := e.Info()
		if err != nil || !info.IsDir() || now.Sub(info.ModTime()) < staleVault {
			continue
		}
		if id, err := hex.DecodeString(e.Name()); err == nil && len(id) == 8 { // of the form of a fingerprint
			_ = os.RemoveAll(filepath.Join(dir, e.Name())) // what stays costs room and nothing else
		}
	}
	return segmentDir{path}, nil
}

func (d segmentDir) file(id segmentID) string { return filepath.Join(d.path, id.String()) }

// create begins a file. keep or discard ends it.
func (d segmentDir) create() (*os.File, error) {
	if d.path != "" {
		return os.CreateTemp(d.path, unfinished+"*")
	}
	f, err := os.CreateTemp("", "holdfast-index-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // never used
		return nil, err
	}
	return f, nil
}

// keep gives the file begun as tmp its name, and returns that; "" when it could not, and then the next
// writer fetches the segment.
func (d segmentDir) keep(tmp string, id segmentID) string {
	if d.path == "" {
		return ""
	}
	if os.Rename(tmp, d.file(id)) != nil {
		d.discard(tmp)
		return ""
	}
	return d.file(id)
}

// discard removes a file begun as tmp that was not kept.
func (d segmentDir) discard(tmp string) {
	if d.path != "" {
		_ = os.Remove(tmp) // what stays is swept later
	}
}

// open maps the cached segment of that id and size, and removes a file that is not what it should be.
func (d segmentDir) open(v *Vault, id segmentID, size int64) (*segment, error) {
	if d.path == "" {
		return nil, os.ErrNotExist
	}
	f, err := os.Open(d.file(id))
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	s, err := mapSegment(id, v.segmentAEAD(id), f)
	if err == nil && int64(s.size()) != size {
		s.close()
		err = fmt.Errorf("cached index segment has not the %d bytes of the stored one", size)
	}
	if err != nil {
		_ = os.Remove(d.file(id)) // else it fails the same way next time
		return nil, err
	}
	s.path = d.file(id)
	return s, nil
}

// sweep removes the files of segments for which keep is false, and what killed processes left. Whatever has another name stays.
func (d segmentDir) sweep(keep func(segmentID) bool) {
	if d.path == "" {
		return
	}
	files, err := os.ReadDir(d.path)
	if err != nil {
		return // what stays costs room and nothing else
	}
	for _, f := range files {
		name := filepath.Join(d.path, f.Name())
		if strings.HasPrefix(f.Name(), unfinished) {
			if info, err := f.Info(); err == nil && time.Since(info.ModTime()) > staleFile {
				_ = os.Remove(name)
			}
		} else if id, ok := parseSegmentID(f.Name()); ok && !keep(id) {
			_ = os.Remove(name)
		}
	}
}

func parseSegmentID(s string) (id segmentID, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, false
	}
	return segmentID(b), true
}

// fetchPart is how much of a segment is in memory while it is fetched.
const fetchPart = 1 << 20

// fetch copies the stored segment of that id and size to the local disk and maps it. obs.ErrNotFound when it is
// not in the store any more, a *CorruptError when it is damaged; other errors are the store's or the disk's.
func (d segmentDir) fetch(ctx context.Context, v *Vault, id segmentID, size int64) (*segment, error) {
	key := v.segmentKey(id)
	if size < int64(indexTrailer) || size > maxIndexObject {
		return nil, &CorruptError{Object: key, Reason: fmt.Sprintf("%d bytes is no size of an index segment", size)}
	}
	f, err := d.create()
	if err != nil {
		return nil, fmt.Errorf("keep the index on disk: %w", err)
	}
	defer f.Close() // the mapping stays
	s, err := lookTwice(ctx, v.st, key, func(ctx context.Context) (*segment, error) { return d.fetchTo(ctx, v, id, size, f) })
	if err != nil {
		d.discard(f.Name())
		return nil, err
	}
	s.path = d.keep(f.Name(), id)
	return s, nil
}

func (d segmentDir) fetchTo(ctx context.Context, v *Vault, id segmentID, size int64, f *os.File) (*segment, error) {
	key := v.segmentKey(id)
	part := make([]byte, min(size, fetchPart))
	for off := int64(0); off < size; off += int64(len(part)) {
		part = part[:min(size-off, fetchPart)]
		n, err := v.st.ReadAt(ctx, key, part, off)
		switch {
		case n == len(part):
		case errors.Is(err, io.EOF):
			return nil, &CorruptError{Object: key, Reason: fmt.Sprintf("is cut off: ends at byte %d of %d", off+int64(n), size)}
		default:
			return nil, fmt.Errorf("read the index: %w", err)
		}
		if _, err := f.WriteAt(part, off); err != nil {
			return nil, fmt.Errorf("keep the index on disk: %w", err)
		}
	}
	s, err := mapSegment(id, v.segmentAEAD(id), f)
	if isNewer(err) {
		return nil, fmt.Errorf("index segment %s: %w", key, err)
	} else if err != nil {
		return nil, &CorruptError{Object: key, Reason: err.Error()}
	}
	return s, nil
}
