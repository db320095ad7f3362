package restore

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

// MeasureAtMost is MeasureTree with another bound of entries.
func MeasureAtMost(ctx context.Context, path string, most uint64) (Measure, error) {
	return measureTree(ctx, path, most, measureTime)
}

// Full is what Run makes of an error of the kernel.
var Full = full

// LackRenames makes all file systems lack the renames with any of the
// flags, until the end of the test. The tests of the package run one after the other.
func LackRenames(t *testing.T, flags uint) {
	t.Helper()
	renameat2 = func(fromDir int, from string, toDir int, to string, asked uint) error {
		if asked&flags != 0 {
			return unix.EINVAL
		}
		return unix.Renameat2(fromDir, from, toDir, to, asked)
	}
	t.Cleanup(func() { renameat2 = unix.Renameat2 })
}
