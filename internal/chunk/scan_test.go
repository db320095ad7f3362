package chunk

import (
	"math/rand/v2"
	"testing"
)

// FuzzScan compares the assembly with the Go version: the same
// place and the same hash, on any input.
func FuzzScan(f *testing.F) {
	f.Add([]byte("some bytes to begin with"), uint64(0), uint64(1)<<63, uint8(0))
	f.Add(make([]byte, 100), uint64(7), uint64(0xff)<<56, uint8(3))
	f.Fuzz(func(t *testing.T, p []byte, h, mask uint64, seed uint8) {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		var gear [256]uint64
		for i := range gear {
			gear[i] = r.Uint64()
		}
		for from := range min(len(p)+1, 17) { // any alignment
			n, got := scan(&gear, p[from:], h, mask)
			wantN, want := scanGo(&gear, p[from:], h, mask)
			if n != wantN || got != want {
				t.Fatalf("from %d: %d, %x; want %d, %x", from, n, got, wantN, want)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	var gear [256]uint64
	r := rand.New(rand.NewPCG(1, 1))
	for i := range gear {
		gear[i] = r.Uint64()
	}
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	for name, f := range map[string]func(*[256]uint64, []byte, uint64, uint64) (int, uint64){"here": scan, "go": scanGo} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				f(&gear, p, 0, ^uint64(0)) // no hash is 0
			}
		})
	}
}
