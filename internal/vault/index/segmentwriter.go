package index

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"holdfast/internal/chunk"
	"holdfast/internal/vault/format"
)

// segmentWriter writes one index segment: rows in order of their names, then finish.
// It is for one goroutine, and needs memory for the head only, about two bytes a row.
type segmentWriter struct {
	id     SegmentID
	aead   cipher.AEAD
	w      io.Writer
	rows   int
	last   chunk.Name
	block  [blockSize]byte
	n      int // bytes of the block
	fences []byte
	filter filter
}

// newSegmentWriter begins a segment of at most limit rows in w.
func (in Place) newSegmentWriter(w io.Writer, limit int) *segmentWriter {
	s := &segmentWriter{w: w, filter: make(filter, filterLine*filterLines(limit))}
	_, _ = rand.Read(s.id[:]) // crypto/rand.Read never fails
	s.aead = in.AEAD(s.id)
	return s
}

// add writes a row. pack is the place of the pack's id in what finish is given.
func (s *segmentWriter) add(name chunk.Name, pack, off, length, raw uint32) error {
	if s.rows > 0 && bytes.Compare(s.last[:], name[:]) >= 0 {
		return errors.New("rows of an index segment are not in order")
	}
	if s.n == 0 {
		s.fences = append(s.fences, name[:8]...)
	}
	s.last = name
	s.filter.add(&name)
	b := append(s.block[:s.n], name[:]...)
	for _, u := range [...]uint32{pack, off, length, raw} {
		b = binary.LittleEndian.AppendUint32(b, u)
	}
	s.n = len(b)
	s.rows++
	if s.n == blockSize-format.Tag {
		return s.seal()
	}
	return nil
}

// seal ends the block.
func (s *segmentWriter) seal() error {
	// Block i has nonce i+1, and the rows end in block (rows-1)/blockRows.
	box := s.aead.Seal(s.block[:0], format.Nonce(uint32((s.rows-1)/blockRows+1)), s.block[:s.n], nil)
	s.n = 0
	_, err := s.w.Write(box)
	return err
}

// finish writes the rest of a segment that has at least one row.
func (s *segmentWriter) finish(packs []format.PackRef, replaces []SegmentID) (shape, error) {
	sh := shape{rows: s.rows, packs: len(packs), replaced: len(replaces), lines: len(s.filter) / filterLine}
	if s.rows > maxIndexRows || len(packs) > maxIndexRows || len(replaces) > maxReplaced {
		return sh, fmt.Errorf("index segment of %d rows in %d packs that replaces %d others is too large", s.rows, len(packs), len(replaces))
	}
	if s.n > 0 {
		if err := s.seal(); err != nil {
			return sh, err
		}
	}
	head := make([]byte, 0, sh.headSize()+format.Tag)
	for _, p := range packs {
		head = append(head, p.ID[:]...)
		head = binary.LittleEndian.AppendUint32(head, uint32(p.Size))
	}
	for _, r := range replaces {
		head = append(head, r[:]...)
	}
	head = append(append(head, s.fences...), s.filter...)
	trailer := sh.trailer()
	head = s.aead.Seal(head[:0], format.Nonce(0), head, trailer)
	if _, err := s.w.Write(head); err != nil {
		return sh, err
	}
	_, err := s.w.Write(trailer)
	return sh, err
}
