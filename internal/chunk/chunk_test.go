package chunk_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"holdfast/internal/chunk"
)

var params = chunk.Params{Min: 4 << 10, Avg: 16 << 10, Max: 64 << 10}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func cut(c *chunk.Cutter, p []byte) (chunks [][]byte) {
	for len(p) > 0 {
		n := c.Cut(p)
		chunks = append(chunks, p[:n])
		p = p[n:]
	}
	return chunks
}

func TestCutSizes(t *testing.T) {
	c := chunk.NewCutter([32]byte{1}, params)
	for name, p := range map[string][]byte{"random": random(8<<20, 1), "zeros": make([]byte, 1<<20), "short": random(10, 2), "empty": nil} {
		chunks := cut(c, p)
		if !bytes.Equal(bytes.Join(chunks, nil), p) {
			t.Errorf("%s: the chunks are not the content", name)
		}
		for i, x := range chunks {
			if len(x) > params.Max || i < len(chunks)-1 && len(x) < params.Min {
				t.Errorf("%s: chunk %d has %d bytes", name, i, len(x))
			}
		}
		if name == "random" {
			if avg := len(p) / len(chunks); avg < params.Avg/2 || avg > params.Avg*2 {
				t.Errorf("average is %d bytes, wanted about %d", avg, params.Avg)
			}
		}
	}
}

// TestCutsFindThemselvesAgain: an edit changes the chunks around it and no others.
func TestCutsFindThemselvesAgain(t *testing.T) {
	c := chunk.NewCutter([32]byte{2}, params)
	p := random(4<<20, 3)
	before := map[string]bool{}
	for _, x := range cut(c, p) {
		before[string(x)] = true
	}
	for name, q := range map[string][]byte{
		"inserted": append(append(bytes.Clone(p[:2<<20]), "some bytes"...), p[2<<20:]...),
		"removed":  append(bytes.Clone(p[:1<<20]), p[1<<20+77:]...),
		"prefix":   append([]byte("x"), p...),
	} {
		changed := 0
		for _, x := range cut(c, q) {
			if !before[string(x)] {
				changed++
			}
		}
		if changed > 6 {
			t.Errorf("%s: %d chunks changed", name, changed)
		}
	}
}

// TestCutIsPartOfTheFormat fails when the cut points or names of given
// content move: vaults that exist would then be deduplicated against no more.
func TestCutIsPartOfTheFormat(t *testing.T) {
	c := chunk.NewCutter([32]byte{7}, params)
	n := chunk.NewNamer([32]byte{7})
	p := random(1<<20, 7)
	var all []byte
	for _, x := range cut(c, p) {
		name := n.Name(x)
		all = append(all, name[:]...)
	}
	sum := n.Name(all)
	if got, want := hex.EncodeToString(sum[:8]), "02e1cf8d4e0b5bdb"; got != want {
		t.Errorf("cuts and names of the sample sum up to %s, always were %s", got, want)
	}
}

func TestParams(t *testing.T) {
	for _, p := range []chunk.Params{{}, {Min: 1, Avg: 1 << 16, Max: 1 << 18}, {Min: 1 << 10, Avg: 100000, Max: 1 << 20}, {Min: 1 << 10, Avg: 1 << 16, Max: 1 << 15}} {
		if p.Check() == nil {
			t.Errorf("%+v passes", p)
		}
	}
	if err := params.Check(); err != nil {
		t.Error(err)
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte("hello"), byte(0))
	c := chunk.NewCutter([32]byte{9}, chunk.Params{Min: 64, Avg: 256, Max: 1024})
	f.Fuzz(func(t *testing.T, p []byte, repeat byte) {
		p = bytes.Repeat(p, int(repeat)+1)
		if !bytes.Equal(bytes.Join(cut(c, p), nil), p) {
			t.Fatal("the chunks are not the content")
		}
	})
}

func BenchmarkCut(b *testing.B) {
	c := chunk.NewCutter([32]byte{1}, chunk.Params{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10})
	p := random(32<<20, 1)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		cut(c, p)
	}
}

func BenchmarkName(b *testing.B) {
	n := chunk.NewNamer([32]byte{})
	p := random(64<<10, 1)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		n.Name(p)
	}
}
