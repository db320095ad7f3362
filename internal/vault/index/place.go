package index

import (
	"context"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"strings"

	"holdfast/internal/obs"
)

// SegmentID names an index segment: 128 random bits.
type SegmentID [16]byte

func (id SegmentID) String() string { return hex.EncodeToString(id[:]) }

// ParseSegmentID reads the text that String wrote.
func ParseSegmentID(s string) (id SegmentID, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, false
	}
	return SegmentID(b), true
}

// Place is the index of one vault. Its methods may be called from any number of goroutines.
type Place struct {
	Store  obs.Store
	Prefix string                      // of the keys of segments in the store
	AEAD   func(SegmentID) cipher.AEAD // seals and opens the segment of that id
	// Folder is the name of the vault's folder among the local copies of segments: 16 hex digits
	// that differ for vaults with different keys.
	Folder string
}

// Key returns the key of a segment in the store.
func (in Place) Key(id SegmentID) string { return in.Prefix + id.String() }

// List returns the sizes of the segments that the store has, bytes.
func (in Place) List(ctx context.Context) (map[SegmentID]int64, error) {
	listed := map[SegmentID]int64{}
	for info, err := range in.Store.List(ctx, in.Prefix) {
		if err != nil {
			return nil, fmt.Errorf("list the index: %w", err)
		}
		if id, ok := ParseSegmentID(strings.TrimPrefix(info.Key, in.Prefix)); ok {
			listed[id] = info.Size
		}
	}
	return listed, nil
}
