package phone

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The changes of a day, as parts of all bytes: two in a hundred.
const (
	dayPages    = 0.008
	dayPackages = 0.006
	dayCache    = 0.004
	dayPictures = 0.002
)

// Change counts the changes of a day.
type Change struct {
	Pages         int   // rewritten in place
	New, Removed  int   // cache files, and pictures taken
	Replaced      int   // packages
	Bytes         int64 // written
	Before, After int64 // the sum of the sizes of all files
}

// Day changes about 2 % of the bytes of a tree that Make made, as a day of use does:
// pages of databases and images are rewritten in place, here and there; cache files come and go;
// apps are updated; pictures are taken. The same tree and seed give the same change.
func Day(dir string, seed uint64) (Change, error) {
	d := &day{maker: maker{dir: dir, root: os.Geteuid() == 0}, rng: source(seed, "day")}
	if err := d.find(); err != nil {
		return d.change, err
	}
	total := float64(d.change.Before)
	d.change.After = d.change.Before
	for _, step := range []struct {
		do    func(int64) error
		share float64
	}{{d.rewrite, dayPages}, {d.replace, dayPackages}, {d.renew, dayCache}, {d.take, dayPictures}} {
		if err := step.do(int64(step.share * total)); err != nil {
			return d.change, err
		}
	}
	return d.change, nil
}

type day struct {
	maker
	rng                         *random
	databases, packages, caches []file
	change                      Change
}

// find lists the files by kind, in order of their paths.
func (d *day) find() error {
	return filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f := file{path, info.Size()}
		switch {
		case inPlace(path):
			d.databases = append(d.databases, f)
		case strings.HasSuffix(path, ".apk"):
			d.packages = append(d.packages, f)
		case strings.Contains(path, "/cache/"):
			d.caches = append(d.caches, f)
		}
		if !strings.Contains(path, "/Pictures/Shared/") { // second names
			d.change.Before += f.size
		}
		return nil
	})
}

func shuffle(rng *random, list []file) {
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// rewrite writes pages anew in half of the databases, each page with the
// same chance, and the first page of each, where SQLite counts changes.
func (d *day) rewrite(budget int64) error {
	shuffle(d.rng, d.databases)
	used := d.databases[:(len(d.databases)+1)/2]
	var have int64
	for _, f := range used {
		have += f.size
	}
	chance := min(1, float64(budget)/float64(max(have, 1)))
	for _, f := range used {
		if err := d.rewriteIn(f, chance); err != nil {
			return err
		}
	}
	return nil
}

func (d *day) rewriteIn(db file, chance float64) error {
	f, err := os.OpenFile(db.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fill := pages(d.rng)
	if strings.HasSuffix(db.path, imageSuffix) {
		fill = disk(d.rng, nil)
	}
	for at := int64(0); at+pageSize <= db.size; at += pageSize {
		if at > 0 && d.rng.Float64() >= chance {
			continue
		}
		b := d.buf[:pageSize]
		fill(b)
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
		d.change.Pages++
		d.change.Bytes += pageSize
	}
	return f.Close()
}

// replace updates packages: a new file takes the name of the old one. A package that is
// larger than the rest of the budget stays unchanged, except the smallest of all.
func (d *day) replace(budget int64) error {
	shuffle(d.rng, d.packages)
	smallest := 0
	for i, f := range d.packages {
		if f.size < d.packages[smallest].size {
			smallest = i
		}
	}
	for i, f := range d.packages {
		if f.size > budget && i != smallest {
			continue
		}
		budget -= f.size
		temporary := f.path + ".new"
		if err := d.write(temporary, f.size, packed(d.rng)); err != nil {
			return err
		}
		if err := os.Rename(temporary, f.path); err != nil {
			return err
		}
		d.change.Replaced++
		d.change.Bytes += f.size
	}
	return nil
}

// renew removes cache files and makes as many of the same sizes.
func (d *day) renew(budget int64) error {
	shuffle(d.rng, d.caches)
	for _, f := range d.caches {
		if budget <= 0 {
			break
		}
		budget -= f.size
		if err := os.Remove(f.path); err != nil {
			return err
		}
		d.change.Removed++
		d.change.After -= f.size
		base, _, _ := strings.Cut(f.path, "/cache/")
		path := cacheName(base, d.rng)
		if err := d.add(path, f.size, d.filler(Cache, path, d.rng)); err != nil {
			return err
		}
	}
	return nil
}

func (d *day) take(budget int64) error {
	return d.add(filepath.Join(d.dir, "media/0/DCIM/Camera/IMG_20269999_000000.jpg"), budget, packed(d.rng))
}

func (d *day) add(path string, size int64, fill func([]byte)) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o771); err != nil {
		return err
	}
	if err := d.write(path, size, fill); err != nil {
		return err
	}
	d.change.New++
	d.change.Bytes += size
	d.change.After += size
	return nil
}
