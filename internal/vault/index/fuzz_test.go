package index

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/chunk"
	"holdfast/internal/vault/format"
)

// FuzzIndex looks up and walks in segments that opened, as if the key had leaked:
// nothing crashes, and in a segment that passes check, every row is found.
func FuzzIndex(f *testing.F) {
	v := newPlace(f)
	// One row of one pack, and two blocks of rows that count up.
	row := append(bytes.Repeat([]byte{7}, 32), make([]byte, 16)...)
	fenceAndFilter := append(bytes.Repeat([]byte{7}, 8), bytes.Repeat([]byte{255}, 64)...)
	f.Add(uint16(1), uint16(1), uint16(0), append(make([]byte, packEntry), fenceAndFilter...), row, row[:32])
	var rows []byte
	for i := range byte(blockRows + 3) {
		rows = append(rows, append(append([]byte{i}, make([]byte, 31)...), make([]byte, 16)...)...)
	}
	fences := append(make([]byte, 8), byte(blockRows), 0, 0, 0, 0, 0, 0, 0)
	head := append(append(make([]byte, packEntry+16), fences...), bytes.Repeat([]byte{255}, 64)...)
	f.Add(uint16(blockRows+3), uint16(1), uint16(1), head, rows, make([]byte, 32))
	f.Add(uint16(9), uint16(0), uint16(1000), []byte{1}, []byte{255}, []byte{})
	f.Fuzz(func(t *testing.T, nRows, packs, replaced uint16, head, rows, name []byte) {
		if max(nRows, packs, replaced) > 1000 { // the same again, but slow
			return
		}
		var id SegmentID
		aead := v.AEAD(id)
		sh := shape{rows: int(nRows), packs: int(packs), replaced: int(replaced), lines: 1}
		fill := func(b []byte, n int) []byte {
			return append(slices.Clone(b[:min(n, len(b))]), make([]byte, n-min(n, len(b)))...)
		}
		head = fill(head, sh.headSize())
		rows = fill(rows, sh.rows*indexRowSize)
		var object []byte
		for i := range sh.blocks() {
			part := rows[i*blockRows*indexRowSize : min((i+1)*blockRows, sh.rows)*indexRowSize]
			object = aead.Seal(object, format.Nonce(uint32(i+1)), part, nil)
		}
		object = aead.Seal(object, format.Nonce(0), head, sh.trailer())
		s, err := newSegment(id, aead, append(object, sh.trailer()...))
		if err != nil {
			return
		}
		defer func() { _ = unix.Munmap(s.open) }()
		_, _, _ = s.find((*chunk.Name)(fill(name, 32)))
		if s.check() != nil {
			return
		}
		for c := s.cursor(); c.next(); {
			if loc, ok, err := s.find(&c.name); !ok || err != nil || loc != c.loc {
				t.Fatalf("row %x is not found: %v, %v", c.name, loc, err)
			}
		}
	})
}

// FuzzIndexObject opens bytes that nobody sealed.
func FuzzIndexObject(f *testing.F) {
	v := newPlace(f)
	var good bytes.Buffer
	w := v.newSegmentWriter(&good, 1)
	if err := w.add(chunk.Name{1}, 0, 8, 100, 200); err != nil {
		f.Fatal(err)
	}
	if _, err := w.finish([]format.PackRef{{ID: format.PackID{1}, Size: 300}}, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(append(binary.LittleEndian.AppendUint32(nil, 0xffffffff), good.Bytes()[good.Len()-20:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := newSegment(w.id, w.aead, b)
		if err != nil {
			return
		}
		defer func() { _ = unix.Munmap(s.open) }()
		if err := s.check(); err != nil && bytes.Equal(b, good.Bytes()) {
			t.Fatal(err)
		}
	})
}
