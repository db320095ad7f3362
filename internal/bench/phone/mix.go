package phone

import (
	"fmt"
	"slices"
	"strings"
)

// Mix names the content of a tree. Each mixture has the same folders as a phone, so that one
// change of a day fits all; the parts of the bytes differ.
type Mix string

// The mixtures.
const (
	Phone     Mix = "phone"     // the shares that phones have, about
	Databases Mix = "databases" // seven tenths of the bytes are databases
	Noise     Mix = "noise"     // packages and pictures alone, which do not compress
	Images    Mix = "images"    // raw disks of virtual machines, with holes, written in place
	Small     Mix = "small"     // files of 2 KiB each on average, 512 in a MiB
)

// Mixes lists all mixtures.
var Mixes = []Mix{Phone, Databases, Noise, Images, Small}

// shares are the parts of the bytes, 1 together.
type shares struct {
	packages, pictures, code, databases, caches, images float64
	filesPerMiB                                         float64 // without the images
}

var mixes = map[Mix]shares{
	Phone:     {packageShare, pictureShare, codeShare, databaseShare, cacheShare, 0, filesPerMiB},
	Databases: {0.06, 0.04, 0.10, 0.70, 0.10, 0, filesPerMiB},
	Noise:     {0.60, 0.40, 0, 0, 0, 0, 2},
	Images:    {0.05, 0.03, 0.04, 0.04, 0.04, 0.80, filesPerMiB / 5},
	Small:     {0, 0, 0, 0, 1, 0, 512},
}

// ParseMix checks the name of a mixture. "" is Phone.
func ParseMix(name string) (Mix, error) {
	m := Mix(name)
	if m == "" {
		m = Phone
	}
	if _, ok := mixes[m]; !ok {
		return "", fmt.Errorf("no mixture %q; there are %v", name, Mixes)
	}
	return m, nil
}

// images makes the raw disks of virtual machines. Every second disk is the same in all instances,
// as disks made from one template are.
func (m *maker) images(total int64) error {
	const averageBytes = 128 * mib
	for i, size := range spread(source(m.o.Seed, "images"), total, max(1, int(total/averageBytes)), 0.6) {
		version := m.o.Instance
		if i%2 == 0 {
			version = 0
		}
		disk := file{fmt.Sprintf("media/0/images/disk%d%s", i, imageSuffix), size / pageSize * pageSize}
		if err := m.files(Image, source(m.o.Seed, "image", i, version), 0, []file{disk}); err != nil {
			return err
		}
	}
	return nil
}

const imageSuffix = ".img"

// disk fills with the content of disks: pages of databases, code, text, packed content, zeros.
// A buffer has one kind.
func disk(rng *random, pool []byte) func([]byte) {
	fills := []func([]byte){func(b []byte) { clear(b) }, pages(rng), text(rng), packed(rng)}
	if len(pool) > 0 {
		fills = append(fills, code(rng, pool))
	}
	return func(b []byte) { fills[rng.IntN(len(fills))](b) }
}

// inPlace tells whether a file is written in place, a page at a time.
func inPlace(path string) bool {
	return slices.ContainsFunc([]string{".db", imageSuffix}, func(s string) bool { return strings.HasSuffix(path, s) })
}
