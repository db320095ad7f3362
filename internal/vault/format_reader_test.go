package vault_test

import (
	"encoding/binary"
	"math/bits"
	"testing"
)

// readCBOR decodes the CBOR (RFC 8949) in vaults: unsigned numbers to
// uint64, negative numbers to int64, strings of bytes and of text, arrays
// to []any, maps with numbers as keys, and the values false, true and null.
func readCBOR(t *testing.T, b []byte) any {
	t.Helper()
	v, rest := oneCBOR(t, b)
	if len(rest) > 0 {
		t.Fatalf("%d bytes behind the value", len(rest))
	}
	return v
}

func oneCBOR(t *testing.T, b []byte) (any, []byte) {
	t.Helper()
	major, n := b[0]>>5, uint64(b[0]&31)
	b = b[1:]
	if n >= 24 && n < 28 {
		size := 1 << (n - 24)
		var p [8]byte
		copy(p[8-size:], b[:size])
		n, b = binary.BigEndian.Uint64(p[:]), b[size:]
	} else if n >= 28 {
		t.Fatalf("CBOR of a length that is not allowed here: %d", n)
	}
	switch major {
	case 0:
		return n, b
	case 1:
		return -1 - int64(n), b
	case 2:
		return b[:n:n], b[n:]
	case 3:
		return string(b[:n]), b[n:]
	case 4:
		list := make([]any, n)
		for i := range list {
			list[i], b = oneCBOR(t, b)
		}
		return list, b
	case 5:
		m := map[uint64]any{}
		for range n {
			var k, v any
			k, b = oneCBOR(t, b)
			v, b = oneCBOR(t, b)
			m[k.(uint64)] = v
		}
		return m, b
	case 7:
		switch n {
		case 20, 21:
			return n == 21, b
		case 22:
			return nil, b
		}
	}
	t.Fatalf("CBOR of a kind that is not allowed here: %d, %d", major, n)
	return nil, nil
}

// bytesOf is nil for null.
func bytesOf(v any) []byte {
	b, _ := v.([]byte)
	return b
}

// keyedBLAKE3 is the keyed hash of "BLAKE3: one function, fast
// everywhere" (2020), sections 2.1 to 2.4.
func keyedBLAKE3(key, p []byte) (out [32]byte) {
	var k [8]uint32
	for i := range k {
		k[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	for i, w := range blake3Node(k, p, 0, 8) {
		binary.LittleEndian.PutUint32(out[4*i:], w)
	}
	return out
}

// blake3Node is the chaining value of a subtree; root is 8 for the whole and else 0.
func blake3Node(key [8]uint32, p []byte, counter uint64, root uint32) [8]uint32 {
	const chunk, start, end, parent, keyed = 1024, 1, 2, 4, 16
	var block [16]uint32
	if len(p) > chunk {
		left := chunk << (bits.Len(uint((len(p)-1)/chunk)) - 1)
		l := blake3Node(key, p[:left], counter, 0)
		r := blake3Node(key, p[left:], counter+uint64(left/chunk), 0)
		copy(block[:], l[:])
		copy(block[8:], r[:])
		return blake3Compress(key, block, 0, 64, keyed|parent|root)
	}
	cv, flags := key, uint32(keyed|start)
	for {
		n := min(64, len(p))
		var b [64]byte
		copy(b[:], p[:n])
		p = p[n:]
		for i := range block {
			block[i] = binary.LittleEndian.Uint32(b[4*i:])
		}
		if len(p) == 0 {
			return blake3Compress(cv, block, counter, uint32(n), flags|end|root)
		}
		cv, flags = blake3Compress(cv, block, counter, uint32(n), flags), keyed
	}
}

func blake3Compress(cv [8]uint32, m [16]uint32, counter uint64, n, flags uint32) (out [8]uint32) {
	v := [16]uint32{
		cv[0], cv[1], cv[2], cv[3], cv[4], cv[5], cv[6], cv[7],
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, uint32(counter), uint32(counter >> 32), n, flags,
	}
	g := func(a, b, c, d int, x, y uint32) {
		v[a] += v[b] + x
		v[d] = bits.RotateLeft32(v[d]^v[a], -16)
		v[c] += v[d]
		v[b] = bits.RotateLeft32(v[b]^v[c], -12)
		v[a] += v[b] + y
		v[d] = bits.RotateLeft32(v[d]^v[a], -8)
		v[c] += v[d]
		v[b] = bits.RotateLeft32(v[b]^v[c], -7)
	}
	for range 7 {
		for i := range 4 {
			g(i, 4+i, 8+i, 12+i, m[2*i], m[2*i+1])
		}
		for i := range 4 {
			g(i, 4+(i+1)%4, 8+(i+2)%4, 12+(i+3)%4, m[8+2*i], m[9+2*i])
		}
		last := m
		for i, from := range [16]int{2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8} {
			m[i] = last[from]
		}
	}
	for i := range out {
		out[i] = v[i] ^ v[i+8]
	}
	return out
}
