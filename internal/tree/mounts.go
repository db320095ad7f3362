package tree

import (
	"path/filepath"
	"strings"

	"holdfast/internal/mounts"
)

// MountPoints returns the places below the folder dir at which something is mounted,
// as paths in dir, also of file systems that are dead. It asks none of them. It
// returns nil where nothing is mounted, and where there is no /proc that tells.
func MountPoints(dir string) (points map[string]bool) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil
	}
	table, err := mounts.Read(mounts.Own)
	if err != nil {
		return nil
	}
	for _, m := range table {
		if below, ok := strings.CutPrefix(m.Point, strings.TrimSuffix(dir, "/")+"/"); ok && below != "" {
			if points == nil {
				points = map[string]bool{}
			}
			points[below] = true
		}
	}
	return points
}
