package seal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
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
	for _, level := range []seal.Level{seal.S2, seal.Fastest, seal.Default, seal.Better} {
		want := seal.Zstd
		if level == seal.S2 {
			want = seal.S2Block
		}
		for _, p := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("text "), 10000), make([]byte, 200000), random(100000)} {
			s, m := sealed(t, level, p)
			if compressible := len(p) == 50000 || len(p) == 200000; compressible != (m == want) || !compressible && m != seal.Raw {
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
		for _, level := range []seal.Level{seal.S2, seal.Fastest} {
			s, _ := sealed(t, level, p)
			if got, err := open(s); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("%s, level %s: %d bytes, %v", name, level, len(got), err)
			}
		}
	}
}

// TestMethodIsBound: nobody can give a sealed payload another method, although the method stands
// in clear.
func TestMethodIsBound(t *testing.T) {
	p := bytes.Repeat([]byte("text "), 1000)
	for _, level := range []seal.Level{seal.S2, seal.Fastest} {
		for method := range 256 {
			s, m := sealed(t, level, p)
			if seal.Method(method) == m {
				continue
			}
			s[len(s)-1] = byte(method)
			raw := len(p)
			if seal.Method(method) == seal.Raw {
				raw = len(s) - seal.Overhead
			}
			if got, err := seal.Open(seal.NewAEAD([32]byte{1}), nonce(1), []byte("aad"), s, nil, raw); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("level %s as method %d: %d bytes, %v", level, method, len(got), err)
			}
		}
	}
}

// TestRawTakesTheRoom: the plaintext of a payload that does not compress lies in the array that the
// caller gave, and nothing behind the plaintext is touched.
func TestRawTakesTheRoom(t *testing.T) {
	p := random(5000)
	s, _ := sealed(t, seal.Fastest, p)
	array := bytes.Repeat([]byte{0xaa}, len(p)+100)
	got, err := seal.Open(seal.NewAEAD([32]byte{1}), nonce(1), []byte("aad"), s, array[:0], len(p))
	if err != nil || !bytes.Equal(got, p) || &got[0] != &array[0] {
		t.Fatalf("opens to %d bytes elsewhere: %v", len(got), err)
	}
	if !bytes.Equal(array[len(p):], bytes.Repeat([]byte{0xaa}, 100)) {
		t.Error("bytes behind the plaintext changed")
	}
}

// TestBomb: content that decompresses to far more than the reference says takes no memory for that.
func TestBomb(t *testing.T) {
	for _, level := range []seal.Level{seal.S2, seal.Better} {
		s, _ := sealed(t, level, make([]byte, 64<<20))
		dst := make([]byte, 0, 1000)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := seal.Open(seal.NewAEAD([32]byte{1}), nonce(1), []byte("aad"), s, dst, 1000)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, seal.ErrOpen) || took > 32<<20 {
			t.Errorf("level %s: a bomb opens, or takes %d bytes: %v", level, took, err)
		}
	}
}

// TestS2Lies: a block of S2 whose own length differs from the reference's, or whose
// content ends before or goes on behind that length, does not open, and takes no memory
// for the length that it claims.
func TestS2Lies(t *testing.T) {
	aead := seal.NewAEAD([32]byte{1})
	c := compressor(t, seal.S2)
	p := bytes.Repeat([]byte("text "), 1000)
	_, good := c.Compress(p)
	_, n := binary.Uvarint(good)
	body := bytes.Clone(good[n:])
	block := func(claims uint64, body []byte) []byte { return append(binary.AppendUvarint(nil, claims), body...) }
	for name, lie := range map[string]struct {
		payload []byte
		raw     int
	}{
		"claims 4 GiB":       {block(1<<32-1, body), len(p)},
		"claims 10 MiB":      {block(10<<20, body), 10 << 20},
		"claims less":        {block(uint64(len(p)-1), body), len(p) - 1},
		"claims more":        {block(uint64(len(p)+1), body), len(p) + 1},
		"cut off":            {block(uint64(len(p)), body[:len(body)-1]), len(p)},
		"goes on":            {append(block(uint64(len(p)), body), 0, 'x'), len(p)},
		"no length":          {nil, 0},
		"an endless length":  {bytes.Repeat([]byte{0xff}, 20), len(p)},
		"a copy from before": {block(4, []byte{0x01 | 0<<2, 9}), 4},
	} {
		s := make([]byte, len(lie.payload)+seal.Overhead)
		seal.Seal(aead, nonce(1), nil, seal.S2Block, lie.payload, s)
		if got, err := seal.Open(aead, nonce(1), nil, s, nil, lie.raw); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestS2TakesTheRoom: the plaintext lies in the array that the caller gave, and nothing behind
// it and the room is touched.
func TestS2TakesTheRoom(t *testing.T) {
	aead := seal.NewAEAD([32]byte{1})
	p := bytes.Repeat([]byte("0123456789abcdef"), 300)
	s, _ := sealed(t, seal.S2, p)
	array := bytes.Repeat([]byte{0xaa}, len(p)+seal.Room+100)
	got, err := seal.Open(aead, nonce(1), []byte("aad"), s, array[:0], len(p))
	if err != nil || !bytes.Equal(got, p) || &got[0] != &array[0] {
		t.Fatalf("opens to %d bytes elsewhere: %v", len(got), err)
	}
	if !bytes.Equal(array[len(p)+seal.Room:], bytes.Repeat([]byte{0xaa}, 100)) {
		t.Error("bytes behind the room changed")
	}
}

func TestLevelNames(t *testing.T) {
	for l := seal.S2; int(l) <= seal.Levels; l++ {
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
	f.Add(byte(2), []byte("\x03\x08raw"), 3)
	f.Add(byte(2), []byte("\xff\xff\xff\xff\x0f\x00"), 100)
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
		for l := seal.S2; int(l) <= seal.Levels; l++ {
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

// BenchmarkOpen opens and, where it was compressed, decompresses. Open destroys its
// input, so the benchmark copies it first.
func BenchmarkOpen(b *testing.B) {
	aead := seal.NewAEAD([32]byte{1})
	for name, p := range contents() {
		for _, l := range []seal.Level{seal.S2, seal.Fastest} {
			b.Run(fmt.Sprintf("%s/%s", name, l), func(b *testing.B) {
				m, payload := compressor(b, l).Compress(p)
				sealed := make([]byte, len(payload)+seal.Overhead)
				seal.Seal(aead, nonce(1), nil, m, payload, sealed)
				in, out := make([]byte, len(sealed)), make([]byte, 0, len(p)+seal.Room)
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
