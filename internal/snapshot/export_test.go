package snapshot

import (
	"context"
	"errors"
)

// Parts that tests look at by themselves.
var Fiemap = fiemap

// ParseItems reads data as an inode and as an extent.
func ParseItems(data []byte) error {
	_, err := parseInode(data)
	_, _, eerr := parseExtent(0, data)
	return errors.Join(err, eerr)
}

// JoinRanges adds ranges to a list that holds at most limit of them.
func JoinRanges(limit int, ranges []Range) []Range {
	l := rangeList{limit: limit}
	for _, r := range ranges {
		l.add(r)
	}
	return l.ranges
}

// RunProgram runs a program in the same way as the programs of LVM.
func RunProgram(ctx context.Context, args ...string) ([]byte, error) {
	return runProgram(ctx, nil, args...)
}
