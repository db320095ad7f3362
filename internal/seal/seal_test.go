package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"holdfast/internal/seal"
)

func sealed(t testing.TB, level seal.Level, p []byte) ([]byte, seal.Method) {
	t.Helper()
	m, payload := compressor(t, level).Compress(p)
	out := make([]byte, len(payload)+seal.Overhead)
	seal.Seal(seal.NewAEAD([32]byte{1}), nonce(1), []byte("aad"), m, payload, out)
	return out, m
}

func nonce(n byte) []byte { return append(make([]byte, 11), n) }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func TestRoundTrip(t *testing.T) {
	for _, level := range []seal.Level{seal.Fastest, seal.Default, seal.Better} {
		for _, p := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("text "), 10000), make([]byte, 200000), random(100000)} {
			s, m := sealed(t, level, p)
			if compressible := len(p) == 50000 || len(p) == 200000; compressible != (m == seal.Zstd) {
				t.Errorf("level %d, %d bytes: method %d", level, len(p), m)
			}
			got, err := seal.Open(seal.NewAEAD([32]byte{1}), nonce(1), []byte("aad"), s, nil, len(p))
			if err != nil || !bytes.Equal(got, p) {
				t.Errorf("level %d, %d bytes: %v", level, len(p), err)
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	p := bytes.Repeat([]byte("text "), 1000)
	good := seal.NewAEAD([32]byte{1})
	for name, open := range map[string]func(s []byte) ([]byte, error){
		"other key": func(s []byte) ([]byte, error) {
			return seal.Open(seal.NewAEAD([32]byte{2}), nonce(1), []byte("aad"), s, nil, len(p))
		},
		"other nonce": func(s []byte) ([]byte, error) { return seal.Open(good, nonce(2), []byte("aad"), s, nil, len(p)) },
		"other aad":   func(s []byte) ([]byte, error) { return seal.Open(good, nonce(1), []byte("add"), s, nil, len(p)) },
		"too short":   func(s []byte) ([]byte, error) { return seal.Open(good, nonce(1), []byte("aad"), s[:5], nil, len(p)) },
		"claims less": func(s []byte) ([]byte, error) { return seal.Open(good, nonce(1), []byte("aad"), s, nil, len(p)-1) },
		"claims more": func(s []byte) ([]byte, error) { return seal.Open(good, nonce(1), []byte("aad"), s, nil, len(p)+1) },
		"claims none": func(s []byte) ([]byte, error) { return seal.Open(good, nonce(1), []byte("aad"), s, nil, 0) },
		"absurd":      func(s []byte) ([]byte, error) { return seal.Open(good, nonce(1), []byte("aad"), s, nil, 1<<40) },
	} {
		s, _ := sealed(t, seal.Fastest, p)
		if got, err := open(s); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestBomb: what decompresses to far more than the reference says takes no memory for it.
func TestBomb(t *testing.T) {
	s, _ := sealed(t, seal.Better, make([]byte, 64<<20))
	if _, err := seal.Open(seal.NewAEAD([32]byte{1}), nonce(1), []byte("aad"), s, make([]byte, 0, 1000), 1000); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("a bomb opens: %v", err)
	}
}

func TestLevelNames(t *testing.T) {
	for l := seal.Fastest; int(l) <= seal.Levels; l++ {
		if got, err := seal.ParseLevel(l.String()); err != nil || got != l {
			t.Errorf("%v: %v, %v", l, got, err)
		}
	}
	for _, name := range []string{"", "best", "Fastest", "1"} {
		if l, err := seal.ParseLevel(name); err == nil {
			t.Errorf("%q is %v", name, l)
		}
	}
}

func FuzzOpen(f *testing.F) {
	aead := seal.NewAEAD([32]byte{1})
	f.Add(byte(1), []byte("\x28\xb5\x2f\xfd"), 100)
	f.Add(byte(0), []byte("raw"), 3)
	f.Fuzz(func(t *testing.T, method byte, payload []byte, raw int) {
		s := make([]byte, len(payload)+seal.Overhead)
		seal.Seal(aead, nonce(1), nil, seal.Method(method), payload, s)
		if got, err := seal.Open(aead, nonce(1), nil, s, nil, raw%(1<<20)); err == nil && len(got) != raw%(1<<20) {
			t.Fatalf("%d bytes, not %d", len(got), raw)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	for name, p := range contents() {
		for l := seal.Fastest; int(l) <= seal.Levels; l++ {
			b.Run(fmt.Sprintf("%s/%s", name, l), func(b *testing.B) {
				c := compressor(b, l)
				b.SetBytes(int64(len(p)))
				for b.Loop() {
					c.Compress(p)
				}
			})
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	p := random(64 << 10)
	aead, out := seal.NewAEAD([32]byte{1}), make([]byte, len(p)+seal.Overhead)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		seal.Seal(aead, nonce(1), nil, seal.Raw, p, out)
	}
}

// BenchmarkOpen opens and, where it was compressed, decompresses.
// What is opened is destroyed, so it is copied first.
func BenchmarkOpen(b *testing.B) {
	aead := seal.NewAEAD([32]byte{1})
	for name, p := range contents() {
		b.Run(name, func(b *testing.B) {
			m, payload := compressor(b, seal.Fastest).Compress(p)
			sealed := make([]byte, len(payload)+seal.Overhead)
			seal.Seal(aead, nonce(1), nil, m, payload, sealed)
			in, out := make([]byte, len(sealed)), make([]byte, 0, len(p))
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				copy(in, sealed)
				if _, err := seal.Open(aead, nonce(1), nil, in, out, len(p)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// contents are 64 KiB that compress to about half, and as much that does not.
func contents() map[string][]byte {
	noise, text := random(64<<10), []byte{}
	for i := 0; len(text) < len(noise); i++ {
		text = fmt.Appendf(text, "%x ", noise[int(noise[i])*8:][:2+noise[i+1]%6])
	}
	return map[string][]byte{"text": text[:len(noise)], "random": noise}
}

func compressor(t testing.TB, l seal.Level) *seal.Compressor {
	t.Helper()
	c, err := seal.NewCompressor(l, 256<<10)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
