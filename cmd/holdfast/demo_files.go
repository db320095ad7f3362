package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/tree"
)

// fillVolume writes the sample's files: what phone storage has in small, so that the
// figures mean something (media that don't compress, databases and logs that do,
// many small files, copies), and one of each kind of entry that needs no privilege.
func fillVolume(dir string) error {
	random := rand.NewChaCha8([32]byte{1})
	noise := func(n int) []byte {
		b := make([]byte, n)
		_, _ = random.Read(b) // never fails
		return b
	}
	photo := noise(6 << 20)
	files := map[string][]byte{
		"media/photo.jpg":           photo,
		"media/photo (copy).jpg":    photo,
		"media/film.mp4":            noise(5 << 20),
		"databases/messages.db":     table(8<<20, 4096),
		"logs/system.log":           []byte(strings.Repeat("11-23 13:00:00.000 I/Sample: nothing to report\n", 40_000)),
		"empty":                     nil,
		"name with\nline end":       []byte("names can hold any byte\n"),
		"not utf-8 \xff\xfe":        []byte("names can hold any byte\n"),
		"cache/state with mode 600": []byte("private\n"),
	}
	for i := range 400 {
		files[fmt.Sprintf("cache/%02x/%04d", i%16, i)] = noise(200 + i*7)
	}
	for path, data := range files {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, data, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Mkdir(filepath.Join(dir, "empty folder"), 0o700),
		os.Chmod(filepath.Join(dir, "cache/state with mode 600"), 0o600),
		os.Symlink("../media/photo.jpg", filepath.Join(dir, "cache/link")),
		os.Link(filepath.Join(dir, "logs/system.log"), filepath.Join(dir, "logs/same inode.log")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o640),
		sparse(filepath.Join(dir, "disk.img"), 64<<20),
		attribute(filepath.Join(dir, "media/film.mp4"), "user.holdfast.demo", "kept"),
		os.Chtimes(filepath.Join(dir, "media/film.mp4"), time.Time{}, time.Unix(1_000_000_000, 123_456_789)),
	)
}

// table is n bytes shaped like a SQLite database: its header, and
// pages that differ in a number and compress well.
func table(n, page int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		row := fmt.Sprintf("page %08d|", i)
		b.WriteString(row + strings.Repeat("a message of some length to somebody|", (page-len(row))/37))
		b.Write(make([]byte, page-b.Len()%page))
	}
	out := b.Bytes()[:n]
	copy(out, "SQLite format 3\x00")
	return out
}

// sparse makes a file of that size with two pieces of data and holes around them.
func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err1 := f.WriteAt(bytes.Repeat([]byte("head"), 4096), 0)
	_, err2 := f.WriteAt(bytes.Repeat([]byte("tail"), 4096), size/2)
	return errors.Join(err1, err2, f.Truncate(size), f.Close())
}

// attribute sets an extended attribute where the file system has them.
func attribute(path, key, value string) error {
	err := unix.Setxattr(path, key, []byte(value), 0)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// changeVolume is what happens between the two backups: a new file, and some rows of the database.
func changeVolume(dir string) error {
	db, err := os.OpenFile(filepath.Join(dir, "databases/messages.db"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for i := range int64(8) {
		_, err = db.WriteAt([]byte("changed "), (1<<20)*i+4096) // not the header
		if err != nil {
			break
		}
	}
	return errors.Join(err, db.Close(),
		os.WriteFile(filepath.Join(dir, "media/new.jpg"), bytes.Repeat([]byte{7, 1, 9}, 50_000), 0o644))
}

// entryState is all of an entry that a restore must bring back.
type entryState struct {
	tree.Entry
	Digest [sha256.Size]byte // of the content of a file
}

// readTree reads every entry below root with the digest of its content.
func readTree(ctx context.Context, root string) (map[string]entryState, error) {
	r, err := tree.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	out := make(map[string]entryState)
	err = r.Walk(ctx, tree.WalkOptions{}, func(e *tree.Entry) error {
		s := entryState{Entry: *e}
		s.Ino, s.Ctime = 0, tree.Time{} // no restore can set these
		if e.Kind == tree.File && !e.HasLinkTo {
			f, err := r.Open(e, nil)
			if err != nil {
				return err
			}
			if f == nil {
				return fmt.Errorf("%s is no file any more", name(e.Path))
			}
			h := sha256.New()
			_, err = io.Copy(h, f)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			h.Sum(s.Digest[:0])
		}
		out[e.Path] = s
		return nil
	})
	return out, errors.Join(err, r.Close())
}

// difference compares two trees and returns how many entries were equal, or an error that names the
// first that is not.
func difference(ctx context.Context, want, got string) (equal int, err error) {
	w, err := readTree(ctx, want)
	if err != nil {
		return 0, err
	}
	g, err := readTree(ctx, got)
	if err != nil {
		return 0, err
	}
	for path, entry := range w {
		other, ok := g[path]
		if !ok {
			return 0, fmt.Errorf("%s is missing from the restored tree", name(path))
		}
		if !reflect.DeepEqual(entry, other) {
			return 0, fmt.Errorf("%s differs: was %+v, is %+v", name(path), entry, other)
		}
		delete(g, path)
	}
	for path := range g {
		return 0, fmt.Errorf("%s is in the restored tree only", name(path))
	}
	return len(w), nil
}
