package phone

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"sync"
)

// source returns the random source of one thing of a tree, so that
// things don't depend on each other.
func source(seed uint64, what ...any) *random {
	c := rand.NewChaCha8(sha256.Sum256(fmt.Appendln(nil, append([]any{seed}, what...)...)))
	return &random{Rand: rand.New(c), bytes: c}
}

// fill fills b with bytes that don't compress. It never fails.
func (r *random) fill(b []byte) { _, _ = r.bytes.Read(b) }

// packed fills with content that is compressed already, with a readable header now and
// then, as in archives.
func packed(rng *random) func([]byte) {
	return func(b []byte) {
		rng.fill(b)
		for at := 0; at+64 < len(b); at += 16<<10 + rng.IntN(64<<10) {
			copy(b[at:], "PK\x03\x04\x14\x00\x08\x08\x08\x00\x00\x00\x21\x02")
			copy(b[at+30:], "res/drawable-xxhdpi-v4/")
		}
	}
}

// code fills with native code: pieces of programs, from places chosen
// at random. So that no piece is the same twice, not even in a small
// part, a word of it changes every few hundred bytes, as addresses do.
func code(rng *random, pool []byte) func([]byte) {
	return func(b []byte) {
		for at := 0; at < len(b); {
			n := min(8<<10+rng.IntN(56<<10), len(b)-at)
			from := rng.IntN(len(pool)-n) &^ 3
			copy(b[at:at+n], pool[from:])
			for p := rng.IntN(256) &^ 3; p+4 <= n; p += (512 + rng.IntN(1024)) &^ 3 {
				binary.LittleEndian.PutUint32(b[at+p:], rng.Uint32())
			}
			at += n
		}
	}
}

// poolBytes is how much native code is read; pieces of it are in
// random order, so it need not be more.
const poolBytes = 48 * mib

// codePool returns native code of the machine, or made-up code where too little is installed. It is
// read once in a process.
var codePool = sync.OnceValue(func() []byte {
	pool := make([]byte, 0, poolBytes)
	for _, dir := range []string{"/usr/bin", "/usr/lib"} {
		if len(pool) < cap(pool) {
			pool = readELF(pool, dir)
		}
	}
	if len(pool) < poolBytes/4 {
		pool = madeUpCode(poolBytes / 4)
	}
	return pool
})

// readELF appends the programs and libraries below dir, in order of their names, until pool
// is full. No file gives more than an eighth of it. readELF passes over unreadable files.
func readELF(pool []byte, dir string) []byte {
	var names []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, path)
		}
		return nil
	})
	sort.Strings(names)
	for _, name := range names {
		if len(pool) == cap(pool) {
			break
		}
		pool = appendELF(pool, name)
	}
	return pool
}

func appendELF(pool []byte, name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return pool
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil || string(magic[:]) != "\x7fELF" {
		return pool
	}
	start := len(pool)
	end := min(cap(pool), start+cap(pool)/8)
	n, _ := io.ReadFull(f, pool[start:end])
	return pool[:start+n]
}

// madeUpCode returns words as of a RISC machine: few operations, registers of which some are
// frequent, constants that are small. zstd makes it half as large, as it does with real code.
func madeUpCode(size int) []byte {
	rng := source(0, "code")
	var ops [400]uint32
	for i := range ops {
		ops[i] = rng.Uint32()
	}
	common := rand.NewZipf(rng.Rand, 1.3, 4, uint64(len(ops)-1))
	b := make([]byte, 0, size+4)
	for len(b) < size {
		word := ops[common.Uint64()]
		if rng.IntN(4) == 0 {
			word ^= uint32(rng.IntN(1<<10)) << 10
		}
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return b[:size]
}

const pageSize = 4096

// pages fills with the pages of a SQLite database: a header, pointers to
// cells, free space, and the cells from the end on. Buffers must be of
// whole pages; the first page of the file is the first that is asked for.
func pages(rng *random) func([]byte) {
	first := true
	return func(b []byte) {
		for at := 0; at+pageSize <= len(b); at += pageSize {
			page(b[at:at+pageSize], rng)
			if first {
				copy(b[at:], "SQLite format 3\x00\x10\x00\x02\x02\x00\x40\x20\x20")
				first = false
			}
		}
	}
}

// page fills one leaf page of a table.
func page(b []byte, rng *random) {
	clear(b)
	row := rng.Uint32N(1 << 20)
	free := 200 + rng.IntN(1200) // a page is full to two thirds and more
	end, cells := len(b), 0
	for {
		n := 40 + rng.IntN(360)
		if end-n < 8+100+2*(cells+1)+free {
			break
		}
		end -= n
		cell(b[end:end+n], rng, row+uint32(cells))
		binary.BigEndian.PutUint16(b[8+2*cells:], uint16(end))
		cells++
	}
	b[0] = 0x0d
	binary.BigEndian.PutUint16(b[3:], uint16(cells))
	binary.BigEndian.PutUint16(b[5:], uint16(end))
}

// cell fills one row: its number, a time, an id that does not compress, and words.
func cell(b []byte, rng *random, row uint32) {
	binary.BigEndian.PutUint32(b, row)
	binary.BigEndian.PutUint64(b[8:], 1767225600000+rng.Uint64N(15552000000))
	rng.fill(b[16:32])
	sentence(b[32:], rng)
}

// sentence fills with words.
func sentence(b []byte, rng *random) {
	for len(b) > 0 {
		n := copy(b, words[rng.IntN(len(words))])
		b = b[n:]
		if len(b) > 0 {
			b[0] = ' '
			b = b[1:]
		}
	}
}

// text fills with answers of servers: keys that repeat, with values of words and of digits.
func text(rng *random) func([]byte) {
	return func(b []byte) {
		for len(b) > 0 {
			line := fmt.Appendf(nil, `{"id":"%016x","created_at":%d,"%s":"%s %s","score":%.6f},`+"\n", rng.Uint64(),
				1767225600000+rng.Uint64N(15552000000), words[rng.IntN(len(words))], words[rng.IntN(len(words))],
				words[rng.IntN(len(words))], rng.Float64())
			b = b[copy(b, line):]
		}
	}
}

// words is the vocabulary: syllables in twos and threes.
var words = func() []string {
	rng := source(0, "words")
	syllables := bytes.Fields([]byte("an ter mo ka li so ne pra vi du el ro sta min go ha che tu re ba lon fi ser pa ni"))
	list := make([]string, 1500)
	for i := range list {
		for range 2 + rng.IntN(2) {
			list[i] += string(syllables[rng.IntN(len(syllables))])
		}
	}
	return list
}()
