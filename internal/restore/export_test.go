package restore

import "context"

// MeasureAtMost is MeasureTree with another bound of entries.
func MeasureAtMost(ctx context.Context, path string, most uint64) (Measure, error) {
	return measureTree(ctx, path, most, measureTime)
}

// Full is what Run makes of an error of the kernel.
var Full = full
