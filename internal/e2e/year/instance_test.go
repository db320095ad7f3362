package year_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// The volume of an instance, about 2.8 MiB: databases that are written in place, programs that
// instances share, cache files that come and go, and pictures that come and go.
const (
	databases, pages, pageBytes = 2, 96, 4 << 10
	programs, programBytes      = 8, 128 << 10
	caches, cacheBytes          = 32, 16 << 10
	pictures, pictureBytes      = 8, 64 << 10
)

// Chances of a change on a day: for each page or file. They come to about 2 % of the bytes.
const (
	chanceOfPage    = 0.03
	chanceOfProgram = 0.015
	chanceOfCache   = 0.03
	chanceOfPicture = 0.015
)

// databaseHeader begins a database of SQLite with pages of 4 KiB.
const databaseHeader = "SQLite format 3\x00\x10\x00"

// instance is a workload with one volume.
type instance struct {
	id      string
	r       *rand.Rand
	dir     string
	host    int
	dormant bool
	made    int // files that were made; names the next one
	version [programs]int
	cache   []string
	picture []string
}

// fill fills b. Half of it does not compress.
func fill(r *rand.Rand, b []byte) {
	for i := 0; i < len(b); i += 2 {
		b[i] = byte(r.Uint32())
		if i+1 < len(b) {
			b[i+1] = "the same in all pages "[i/2%22]
		}
	}
}

// content is the content of a file that does not depend on an instance where seed is the same.
func content(size int, seed ...uint64) []byte {
	b := make([]byte, size)
	fill(rand.New(rand.NewPCG(seed[0], seed[len(seed)-1])), b)
	return b
}

func newInstance(dir string, number int, seed uint64) (*instance, error) {
	i := &instance{id: fmt.Sprintf("cp-%02d", number), r: rand.New(rand.NewPCG(seed, uint64(number))), dir: dir}
	for _, folder := range []string{"db", "app", "cache", "pictures"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			return nil, err
		}
	}
	for n := range databases {
		b := content(pages*pageBytes, seed, i.r.Uint64())
		copy(b, databaseHeader)
		if err := i.write(fmt.Sprintf("db/%d.db", n), b); err != nil {
			return nil, err
		}
	}
	for n := range programs {
		if err := i.program(n); err != nil {
			return nil, err
		}
	}
	for range caches {
		if err := i.add("cache", &i.cache, cacheBytes); err != nil {
			return nil, err
		}
	}
	for range pictures {
		if err := i.add("pictures", &i.picture, pictureBytes); err != nil {
			return nil, err
		}
	}
	return i, nil
}

func (i *instance) write(path string, b []byte) error {
	return os.WriteFile(filepath.Join(i.dir, path), b, 0o644)
}

// program writes a program, which all instances have in common that have its version.
func (i *instance) program(n int) error {
	return i.write(fmt.Sprintf("app/%d", n), content(programBytes, uint64(n), uint64(i.version[n])))
}

// add makes a new file in a folder.
func (i *instance) add(folder string, names *[]string, size int) error {
	i.made++
	name := fmt.Sprintf("%s/%06d", folder, i.made)
	*names = append(*names, name)
	return i.write(name, content(size/2+i.r.IntN(size), i.r.Uint64(), i.r.Uint64()))
}

// replace removes some files of a folder, and adds as many.
func (i *instance) replace(folder string, names *[]string, size int, chance float64) error {
	for at, name := range *names {
		if i.r.Float64() >= chance {
			continue
		}
		if err := os.Remove(filepath.Join(i.dir, name)); err != nil {
			return err
		}
		*names = append((*names)[:at:at], (*names)[at+1:]...)
		if err := i.add(folder, names, size); err != nil {
			return err
		}
		break // one file of a folder a day
	}
	return nil
}

// day changes the volume as a day of work does.
func (i *instance) day() error {
	for n := range databases {
		if err := i.rewrite(filepath.Join(i.dir, fmt.Sprintf("db/%d.db", n))); err != nil {
			return err
		}
	}
	for n := range programs {
		if i.r.Float64() < chanceOfProgram {
			i.version[n]++
			if err := i.program(n); err != nil {
				return err
			}
		}
	}
	if err := i.replace("cache", &i.cache, cacheBytes, chanceOfCache); err != nil {
		return err
	}
	return i.replace("pictures", &i.picture, pictureBytes, chanceOfPicture)
}

// rewrite writes some pages of a database in place.
func (i *instance) rewrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	page := make([]byte, pageBytes)
	for n := 1; n < pages; n++ { // the first page has the header
		if i.r.Float64() >= chanceOfPage {
			continue
		}
		fill(i.r, page)
		if _, err := f.WriteAt(page, int64(n)*pageBytes); err != nil {
			_ = f.Close()
			return err
		}
	}
	return f.Close()
}

// same is an error unless both folders have the same files with the same content.
func same(a, b string) error {
	list := func(dir string) (names []string, err error) {
		err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				names = append(names, strings.TrimPrefix(path, dir))
			}
			return err
		})
		return names, err
	}
	left, err := list(a)
	if err != nil {
		return err
	}
	right, err := list(b)
	if err != nil {
		return err
	}
	if l, r := strings.Join(left, "\n"), strings.Join(right, "\n"); l != r {
		return fmt.Errorf("%s and %s have other files: %d and %d", a, b, len(left), len(right))
	}
	for _, name := range left {
		x, err := os.ReadFile(filepath.Join(a, name))
		if err != nil {
			return err
		}
		y, err := os.ReadFile(filepath.Join(b, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(x, y) {
			return fmt.Errorf("%s differs in %s and %s", name, a, b)
		}
	}
	return nil
}
