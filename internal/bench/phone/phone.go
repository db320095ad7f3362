// Package phone makes trees shaped like the /data of an Android phone, for measuring and testing:
// packages and pictures that are compressed already, native code, databases, thousands of small
// cache files, links and extended attributes. internal/bench calls it, and any test may.
//
// The same options give the same tree on one machine. Across machines the
// names, sizes and kinds are the same, and the bytes of native code are not:
// they are taken from the programs that are installed. Nothing here starts a
// goroutine. A call that fails or is killed leaves a part of the tree.
package phone

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says what sort of content a file has.
type Kind int

// The kinds, and their parts of the bytes (phones differ; these are round figures).
const (
	Packed   Kind = iota // packages and pictures: compressed already; 40 %
	Code                 // native libraries and compiled code: 30 %
	Database             // SQLite, written in place in pages: 20 %
	Cache                // many small files, of them half compressed: 10 %
	Image                // raw disks, written in place; only the mixture Images has them
	kinds
)

func (k Kind) String() string {
	return [...]string{"packed", "code", "database", "cache", "image"}[k]
}

// The shares of the bytes in the mixture Phone.
const (
	packageShare  = 0.26
	pictureShare  = 0.14
	codeShare     = 0.30
	databaseShare = 0.20
	cacheShare    = 0.10
)

const (
	mib = 1 << 20

	// filesPerMiB gives 15,000 files in 1.5 GiB.
	filesPerMiB = 9.8
	// appBytes is the average size of an app with its data: 1.5 GiB has 250 apps.
	appBytes = 6 * mib
	// Apps come in fives, of which three are the same in every instance.
	appGroup, appShared = 5, 3
	pictureBytes        = 5 * mib / 2
	firstUID            = 10000 // Android gives apps the user ids from here on
)

// Options say which tree to make.
type Options struct {
	Seed  uint64
	Bytes int64 // the sum of the files' sizes, about; at least 4 MiB is of use
	// Instance selects the phone. All phones of a seed share three of five apps: their
	// packages and code, but not the data of the apps. 0 is the first phone, 1 its sibling.
	Instance int
	Mix      Mix // "" is Phone
}

// Totals counts the entries of a tree. Hard links beyond the first name are not among the files.
type Totals struct {
	Files               [kinds]int
	Bytes               [kinds]int64
	Symlinks, HardLinks int
	Apps                int
}

// AllFiles is how many files there are.
func (t Totals) AllFiles() int {
	n := 0
	for _, k := range t.Files {
		n += k
	}
	return n
}

// AllBytes is the sum of the files' sizes.
func (t Totals) AllBytes() int64 {
	var n int64
	for _, k := range t.Bytes {
		n += k
	}
	return n
}

// Make fills dir, which it makes and which must not exist. Owners and labels are set as root only.
func Make(dir string, o Options) (Totals, error) {
	mix, err := ParseMix(string(o.Mix))
	if err != nil {
		return Totals{}, err
	}
	has := mixes[mix]
	if err := os.Mkdir(dir, 0o771); err != nil {
		return Totals{}, err
	}
	m := &maker{dir: dir, o: o, root: os.Geteuid() == 0}
	if has.code > 0 {
		m.pool = codePool()
	}
	apps := appGroup * max(1, int(o.Bytes/(appGroup*appBytes)))
	m.totals.Apps = apps
	share := func(s float64) int64 { return int64(s * float64(o.Bytes)) }

	// Sizes of packages and code depend on the seed only, so that
	// apps that two phones share are equal.
	sizes := source(o.Seed, "sizes")
	packages := spread(sizes, share(has.packages), apps, 1)
	code := spread(sizes, share(has.code), apps, 1)
	own := source(o.Seed, "own sizes", o.Instance)
	databases := spread(own, share(has.databases), apps, 1.2)
	caches := spread(own, share(has.caches), apps, 0.5)

	pictures := max(3, int(share(has.pictures)/pictureBytes))
	files := int(float64(o.Bytes) / mib * has.filesPerMiB)
	cacheFiles := spread(own, int64(max(apps, files-pictures-apps*10)), apps, 0.5)
	for i := range apps {
		version := o.Instance
		if i%appGroup < appShared {
			version = 0
		}
		name, err := m.app(i, source(o.Seed, "app", i, version), packages[i], code[i])
		if err != nil {
			return m.totals, err
		}
		rng := source(o.Seed, "data", i, o.Instance)
		if err := m.data(i, name, rng, databases[i], caches[i], int(cacheFiles[i])); err != nil {
			return m.totals, err
		}
	}
	if has.images > 0 {
		if err := m.images(share(has.images)); err != nil {
			return m.totals, err
		}
	}
	return m.totals, m.pictures(source(o.Seed, "pictures", o.Instance), share(has.pictures), pictures)
}

// maker makes one tree. It is for one goroutine.
type maker struct {
	dir    string
	o      Options
	root   bool
	pool   []byte
	totals Totals
	buf    [256 << 10]byte
}

// app makes the installed files of an app and returns their folder, from the tree's root.
func (m *maker) app(i int, rng *random, packages, code int64) (string, error) {
	pkg := fmt.Sprintf("com.%s.%s%d", words[rng.IntN(len(words))], words[rng.IntN(len(words))], i)
	dir := fmt.Sprintf("app/~~%08x/%s-%08x", rng.Uint32(), pkg, rng.Uint32())
	if err := m.mkdir(dir, 0o755, 0); err != nil {
		return "", err
	}
	err := m.files(Packed, rng, 0, []file{
		{dir + "/base.apk", packages * 8 / 10}, {dir + "/split_config.arm64_v8a.apk", packages * 2 / 10},
	})
	if err != nil {
		return "", err
	}
	libs := []file{{dir + "/oat/arm64/base.odex", code * 2 / 10}, {dir + "/oat/arm64/base.vdex", code / 10}}
	for n, size := range spread(rng, code*7/10, 1+rng.IntN(6), 1) {
		libs = append(libs, file{fmt.Sprintf("%s/lib/arm64/lib%s%d.so", dir, words[rng.IntN(len(words))], n), size})
	}
	if err := m.files(Code, rng, 0, libs); err != nil {
		return "", err
	}
	return dir, m.link(os.Symlink, &m.totals.Symlinks, "arm64", dir+"/lib/arm64-v8a")
}

// data makes the data of an app.
func (m *maker) data(i int, app string, rng *random, databases, caches int64, cacheFiles int) error {
	uid := firstUID + i
	pkg, _, _ := strings.Cut(filepath.Base(app), "-")
	dir := "data/" + pkg
	for _, sub := range []string{"", "/cache", "/code_cache", "/databases", "/files", "/shared_prefs"} {
		if err := m.mkdir(dir+sub, 0o771, uid); err != nil {
			return err
		}
	}
	if err := m.link(os.Symlink, &m.totals.Symlinks, "/data/"+app+"/lib/arm64", dir+"/lib"); err != nil {
		return err
	}
	var dbs []file
	for n, size := range spread(rng, databases, 1+rng.IntN(4), 1) {
		size = max(2, size/pageSize) * pageSize
		dbs = append(dbs, file{fmt.Sprintf("%s/databases/%s%d.db", dir, words[rng.IntN(len(words))], n), size})
	}
	if err := m.files(Database, rng, uid, dbs); err != nil {
		return err
	}
	var small []file
	for _, size := range spread(rng, caches, cacheFiles, 1.3) {
		small = append(small, file{cacheName(dir, rng), size})
	}
	return m.files(Cache, rng, uid, small)
}

// cacheName names a small file below the folder of an app's data.
func cacheName(dir string, rng *random) string {
	id := rng.Uint64()
	switch rng.IntN(20) {
	case 0:
		return fmt.Sprintf("%s/shared_prefs/%s_%04x.xml", dir, words[rng.IntN(len(words))], id>>48)
	case 1:
		return fmt.Sprintf("%s/files/%016x.json", dir, id)
	case 2, 3, 4, 5, 6, 7, 8, 9, 10:
		return fmt.Sprintf("%s/cache/image_manager/%016x.0", dir, id)
	default:
		return fmt.Sprintf("%s/cache/http/%02x/%016x.1", dir, id>>60, id)
	}
}

func (m *maker) pictures(rng *random, total int64, n int) error {
	const dir = "media/0/DCIM/Camera"
	var list []file
	for i, size := range spread(rng, total, n, 0.4) {
		list = append(list, file{fmt.Sprintf("%s/IMG_2026%04d_%06d.jpg", dir, i, rng.IntN(240000)), size})
	}
	if err := m.files(Packed, rng, 1023, list); err != nil {
		return err
	}
	const shared = "media/0/Pictures/Shared"
	if err := m.mkdir(shared, 0o770, 1023); err != nil {
		return err
	}
	for i := 0; i < n; i += 20 {
		old := filepath.Join(m.dir, list[i].path)
		if err := m.link(os.Link, &m.totals.HardLinks, old, shared+"/"+filepath.Base(list[i].path)); err != nil {
			return err
		}
	}
	return nil
}

// file is one to write: its path from the tree's root and its size in bytes.
type file struct {
	path string
	size int64
}

func (m *maker) files(kind Kind, rng *random, uid int, list []file) error {
	for i, f := range list {
		if err := m.mkdir(filepath.Dir(f.path), 0o771, uid); err != nil {
			return err
		}
		fill := m.filler(kind, f.path, rng)
		path := filepath.Join(m.dir, f.path)
		if err := m.write(path, f.size, fill); err != nil {
			return err
		}
		if err := m.dress(path, rng, uid, i%8 == 0); err != nil {
			return err
		}
		m.totals.Files[kind]++
		m.totals.Bytes[kind] += f.size
	}
	return nil
}

func (m *maker) filler(kind Kind, path string, rng *random) func([]byte) {
	switch kind {
	case Packed:
		return packed(rng)
	case Code:
		return code(rng, m.pool)
	case Database:
		return pages(rng)
	case Image:
		return disk(rng, m.pool)
	default:
		if strings.HasSuffix(path, ".0") {
			return packed(rng)
		}
		return text(rng)
	}
}

// write writes a new file, by a buffer at a time. A buffer of zeros becomes a hole.
func (m *maker) write(path string, size int64, fill func([]byte)) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o660)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; at += int64(len(m.buf)) {
		b := m.buf[:min(size-at, int64(len(m.buf)))]
		fill(b)
		if empty(b) {
			continue
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Close()
}

func empty(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// dress gives a file its owner, its time and, where label is true, an attribute.
func (m *maker) dress(path string, rng *random, uid int, label bool) error {
	if err := m.own(path, uid); err != nil {
		return err
	}
	if label {
		if err := attribute(path, "user.inode_cache", fmt.Appendf(nil, "%08x", rng.Uint32())); err != nil {
			return err
		}
	}
	at := time.Unix(1767225600+rng.Int64N(180*86400), rng.Int64N(1e9))
	return os.Chtimes(path, at, at)
}

func (m *maker) own(path string, uid int) error {
	if !m.root {
		return nil
	}
	return os.Lchown(path, uid, uid)
}

// mkdir makes a folder and the folders above it. Android labels each.
func (m *maker) mkdir(dir string, mode os.FileMode, uid int) error {
	path := filepath.Join(m.dir, dir)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if parent := filepath.Dir(dir); parent != "." {
		if err := m.mkdir(parent, mode, uid); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	if err := m.own(path, uid); err != nil || !m.root {
		return err
	}
	return attribute(path, "security.selinux", []byte("u:object_r:app_data_file:s0:c512,c768\x00"))
}

// attribute sets an extended attribute where the file system can hold it and the user may.
func attribute(path, name string, value []byte) error {
	err := unix.Lsetxattr(path, name, value, 0)
	if err != nil && err != unix.ENOTSUP && err != unix.EPERM && err != unix.EACCES {
		return &os.PathError{Op: "set " + name, Path: path, Err: err}
	}
	return nil
}

// link makes a link of either sort and counts it. path is from the tree's root, and old as it is.
func (m *maker) link(sort func(string, string) error, count *int, old, path string) error {
	*count++
	return sort(old, filepath.Join(m.dir, path))
}

// spread divides total into n parts, none negative, log-normally:
// sizes of files are, about. sigma 0 makes them equal.
func spread(rng *random, total int64, n int, sigma float64) []int64 {
	weights, sum := make([]float64, n), 0.0
	for i := range weights {
		weights[i] = math.Exp(sigma * rng.NormFloat64())
		sum += weights[i]
	}
	parts := make([]int64, n)
	for i, w := range weights {
		parts[i] = int64(float64(total) * w / sum)
	}
	return parts
}

// random is a source of numbers and of bytes.
type random struct {
	*rand.Rand
	bytes *rand.ChaCha8
}
