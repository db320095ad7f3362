package engine

import (
	"strings"

	"holdfast/agent/model"
	"holdfast/internal/evidence"
)

// otherDisk tells for certain that a volume which had content was on another file system than the
// one at its path now: the UUIDs of both are known, and differ.
func otherDisk(kept, now model.Root) bool {
	told := func(name string) bool { return strings.Contains(name, " ") }
	return kept.Entries > 0 && told(kept.FileSystem) && told(now.FileSystem) && !evidence.SameFileSystem(kept.FileSystem, now.FileSystem)
}
