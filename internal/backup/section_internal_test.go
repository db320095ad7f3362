package backup

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast/internal/chunk"
)

var smallChunks = chunk.Params{Min: 64, Avg: 256, Max: 1024}

// contentOf makes n bytes of a kind by seed: what hurts is what gives
// no cut for long, and what gives the same one again and again.
func contentOf(kind string, seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	random := func(b []byte) {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
	}
	repeat := func(b []byte, period int) {
		random(b[:min(period, len(b))])
		for i := period; i < len(b); i++ {
			b[i] = b[i-period]
		}
	}
	switch kind {
	case "random":
		random(b)
	case "zeros":
	case "zeros behind a few bytes":
		random(b[:min(n, 1+r.IntN(2000))])
	case "runs": // of one byte each, with random content between
		for rest := b; len(rest) > 0; {
			m := min(len(rest), 1+r.IntN(5000))
			if r.IntN(2) == 0 {
				random(rest[:m])
			}
			rest = rest[m:]
		}
	case "short period":
		repeat(b, 1+r.IntN(100))
	case "long period":
		repeat(b, 200+r.IntN(3000))
	case "repeated chunks": // the same ones in random order, some cut short
		pool := make([]byte, 8192)
		random(pool)
		for rest := b; len(rest) > 0; {
			from := 1024 * r.IntN(8)
			rest = rest[copy(rest, pool[from:from+1+r.IntN(1024)]):]
		}
	}
	return b
}

var kindsOfContent = []string{"random", "zeros", "zeros behind a few bytes", "runs", "short period", "long period", "repeated chunks"}

// onePass returns where the chunks of p, which is at that offset of a file, end.
func onePass(c cuts, p []byte, at int64) (ends []int64) {
	for len(p) > 0 {
		n := c.cut(p, at)
		at, p = at+int64(n), p[n:]
		ends = append(ends, at)
	}
	return ends
}

// bySections does the same in sections of that size: all are cut ahead before the first is cut in
// truth. left is how much the range had when it was looked up, which may be more than file has now.
func bySections(t testing.TB, c cuts, file []byte, at int64, left, size int) (ends []int64) {
	t.Helper()
	var sections []*section
	for off := 0; off < left; off += size {
		s := &section{
			src: bytes.NewReader(file), cuts: c, at: at + int64(off), size: min(size, left-off), left: int64(left - off),
			buf: make([]byte, 0, min(size, left-off)+smallChunks.Max),
		}
		if err := s.cutAhead(); err != nil {
			t.Fatal(err)
		}
		sections = append(sections, s)
	}
	var whole []byte
	from := at
	for _, s := range sections {
		if from == none {
			break
		}
		begin := int(from - s.at)
		next, err := s.cutFrom(from)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range s.ends {
			whole = append(whole, s.buf[begin:end]...)
			ends = append(ends, s.at+int64(end))
			begin = end
		}
		from = next
	}
	if want := file[min(int(at), len(file)):min(int(at)+left, len(file))]; !bytes.Equal(whole, want) {
		t.Fatalf("the chunks hold %d bytes, not the %d of the content, or others", len(whole), len(want))
	}
	return ends
}

// cutsBy are the ways in which a large file is cut.
func cutsBy(seed uint64) map[string]cuts {
	c := chunk.NewCutter([32]byte{byte(seed), byte(seed >> 8)}, smallChunks)
	return map[string]cuts{"content": {cutter: c}, "grid": {cutter: c, grid: 512}}
}

// TestInvariantSameCuts: content that is cut in sections side by side gets the cuts
// of one pass, for all content, for all places of the sections, and when the file
// became shorter meanwhile. Therefore two backups of one content share their chunks.
func TestInvariantSameCuts(t *testing.T) {
	for _, kind := range kindsOfContent {
		for seed := range uint64(60) {
			r := rand.New(rand.NewPCG(seed, 2))
			file := contentOf(kind, seed, 1+r.IntN(40_000))
			at := int64(0)
			if seed%3 == 0 {
				at = r.Int64N(int64(len(file)))
			}
			gone := 0
			if seed%5 == 0 {
				gone = r.IntN(10_000)
			}
			size := smallChunks.Max + r.IntN(4000)
			for way, c := range cutsBy(seed) {
				want := onePass(c, file[at:], at)
				if got := bySections(t, c, file, at, len(file)-int(at)+gone, size); !slices.Equal(got, want) {
					t.Fatalf("%s by %s, seed %d: %d bytes from %d in sections of %d, %d gone: cuts %v, one pass makes %v",
						kind, way, seed, len(file), at, size, gone, got, want)
				}
			}
		}
	}
}

// TestEverySectionBorder moves one border over every place of a content.
func TestEverySectionBorder(t *testing.T) {
	for _, kind := range kindsOfContent {
		file := contentOf(kind, 7, 5000)
		for way, c := range cutsBy(7) {
			want := onePass(c, file, 0)
			for size := smallChunks.Max; size <= len(file)+1; size++ {
				if got := bySections(t, c, file, 0, len(file), size); !slices.Equal(got, want) {
					t.Fatalf("%s by %s, sections of %d: cuts %v, one pass makes %v", kind, way, size, got, want)
				}
			}
		}
	}
}

func FuzzSameCuts(f *testing.F) {
	f.Add([]byte("some words"), uint16(900), uint64(1), uint16(0), uint16(0))
	f.Add([]byte{0}, uint16(5000), uint64(2), uint16(777), uint16(3))
	f.Add(contentOf("random", 3, 4000), uint16(1), uint64(3), uint16(100), uint16(2000))
	f.Fuzz(func(t *testing.T, piece []byte, times uint16, seed uint64, from, size uint16) {
		if len(piece) == 0 || len(piece)*(int(times)+1) > 1<<20 {
			return
		}
		file := bytes.Repeat(piece, int(times)+1)
		at := int64(int(from) % len(file))
		for way, c := range cutsBy(seed) {
			want := onePass(c, file[at:], at)
			if got := bySections(t, c, file, at, len(file)-int(at), smallChunks.Max+int(size)); !slices.Equal(got, want) {
				t.Fatalf("by %s: cuts %v, one pass makes %v", way, got, want)
			}
		}
	})
}

// BenchmarkSection is the part of the work on a large file that is
// done one section after the other, beside all of the cutting.
func BenchmarkSection(b *testing.B) {
	const size = 2 << 20
	params := chunk.Params{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10}
	c := chunk.NewCutter([32]byte{1}, params)
	for _, kind := range []string{"random", "zeros", "zeros behind a few bytes", "long period"} {
		file := contentOf(kind, 1, 8<<20)
		sections := make([]*section, len(file)/size)
		for i := range sections {
			sections[i] = &section{
				src: bytes.NewReader(file), cuts: cuts{cutter: c},
				at: int64(i) * size, size: size, left: int64(len(file) - i*size), buf: make([]byte, 0, size+params.Max),
			}
		}
		steps := map[string]func() error{
			"ahead": func() error {
				for _, s := range sections {
					s.buf = s.buf[:0]
					if err := s.cutAhead(); err != nil {
						return err
					}
				}
				return nil
			},
			"serial": func() (err error) {
				for from, i := int64(0), 0; i < len(sections) && err == nil; i++ {
					from, err = sections[i].cutFrom(from)
				}
				return err
			},
		}
		for _, step := range []string{"ahead", "serial"} {
			b.Run(fmt.Sprintf("%s/%s", kind, step), func(b *testing.B) {
				b.SetBytes(int64(len(file)))
				for b.Loop() {
					if err := steps[step](); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
