package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"holdfast/internal/seal"
)

// floorBlock is how much is compressed at a time, bytes.
const floorBlock = 1 << 20

// floor reads the files below dir and compresses their content at the fastest level, on
// all cores. It returns the number of bytes after compression. No backup that
// compresses this way is faster than floor.
func floor(dir string) (int64, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	var stored, next atomic.Int64
	errs := make([]error, runtime.GOMAXPROCS(0))
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			errs[i] = squeeze(func() string {
				if n := next.Add(1) - 1; n < int64(len(files)) {
					return files[n]
				}
				return ""
			}, &stored)
		})
	}
	group.Wait()
	return stored.Load(), errors.Join(errs...)
}

// squeeze compresses files until next returns none, in blocks that small files share.
func squeeze(next func() string, stored *atomic.Int64) error {
	c, err := seal.NewCompressor(seal.Fastest, floorBlock)
	if err != nil {
		return err
	}
	block := make([]byte, 0, floorBlock)
	flush := func() {
		_, payload := c.Compress(block)
		stored.Add(int64(len(payload)))
		block = block[:0]
	}
	for name := next(); name != ""; name = next() {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		for {
			n, err := f.Read(block[len(block):floorBlock])
			block = block[:len(block)+n]
			if len(block) == floorBlock {
				flush()
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return errors.Join(err, f.Close())
			}
		}
		f.Close()
	}
	flush()
	return nil
}
