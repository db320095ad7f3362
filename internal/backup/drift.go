package backup

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

// DriftError says that something changed although it was known not to: the means by which that was
// known can't be relied upon. It is an alarm. The backup starts over and reads the volume in full.
type DriftError struct {
	Instance, Volume string
	Path             string // in the volume
	By               string // ByBase or ByTimes
}

func (e *DriftError) Error() string {
	return fmt.Sprintf("volume %s of %s: %q changed, although the %s says that it did not", e.Volume, e.Instance, e.Path, e.By)
}

// A share of the content that is known not to have changed is read all the same and compared
// with the vault: the first such file, one in checkEvery, and some more between, so that a
// backup with few such files has some. At most checkMost chunks are checked in a backup:
// where chunks have to be fetched, that is some round trips to the store and no more.
const (
	checkEvery = 512
	checkMost  = 16
)

// sampler picks the content to check.
type sampler struct {
	mu     sync.Mutex
	seen   int
	picked int
}

func (s *sampler) pick() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	if s.picked >= checkMost || rand.Float64() >= 1/float64(s.seen)+1.0/checkEvery {
		return false
	}
	s.picked++
	return true
}
