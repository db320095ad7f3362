package backup

import (
	"holdfast/internal/seal"
)

// sectionMin is how much of a large file a worker takes at a time, bytes, at the
// least. Twice as much saves no time that can be measured, and every worker holds one.
const sectionMin = 1 << 20

// workerMemory is the memory of a worker.
type workerMemory struct {
	comps [seal.Levels + 1]*seal.Compressor // by level; nil for a level that was not used yet
	buf   []byte                            // content of a bundle, or a section of a large file
	spans []span
}

// span is a run of a file's bytes in the content of its bundle.
type span struct {
	entry int
	off   int64 // in the file
	at    int   // in buf
	n     int
}

// memoryOfWorker is about the memory of one worker, bytes: a section
// with the end of its last chunk, or a bundle, and zstd's tables.
func memoryOfWorker(least, most seal.Level) int64 {
	n := int64(sectionMin + 512<<10)
	for l := least; l <= most; l++ {
		n += l.Memory()
	}
	return n
}
